"""Pictures of unsigned bytes as a data set."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fedpoison.data import Dataset
from fedpoison.data.idx import read_idx
from fedpoison.data.store import Arrays

PARTS = ("train_images", "train_labels", "test_images", "test_labels")
IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def from_bytes(arrays: Arrays) -> Dataset:
    """Pictures [N, H, W] or [N, C, H, W] of unsigned bytes and their labels, train and test, of 10 classes."""
    train, test = (_images(arrays[f"{part}_images"]) for part in ("train", "test"))
    labels = [torch.from_numpy(arrays[f"{part}_labels"].astype(np.int64)) for part in ("train", "test")]
    return Dataset(train, labels[0], test, labels[1], 10)


def read_idx_files(folder: Path) -> Arrays:
    """MNIST's and its relatives' four IDX files, raw or with .gz."""
    paths = [next((p for p in (folder / n, folder / f"{n}.gz") if p.is_file()), None) for n in IDX_FILES]
    missing = [name for name, path in zip(IDX_FILES, paths, strict=True) if path is None]
    if missing:
        raise ValueError(f"there is no file {missing[0]} or {missing[0]}.gz in {folder}")
    return {part: read_idx(path, 3 if "images" in part else 1) for part, path in zip(PARTS, paths, strict=True) if path}


def _images(pixels: npt.NDArray[Any]) -> torch.Tensor:
    colours = pixels if pixels.ndim == 4 else pixels[:, None]
    return torch.from_numpy(colours.astype(np.float32) / 255)
