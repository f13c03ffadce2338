"""Data sets, one file each, the readers they share, and ways to split samples over clients."""

import warnings
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Dataset:
    """Train and test samples as tensors; ValueError says what is wrong with them.

    Images are float32 in [0, 1], [N, C, H, W]; or [N, features] for tables, of any size; or, with a `vocabulary`,
    int64 tokens [N, length], 0 to vocabulary − 1. Labels are int64 [N], 0 to n_classes − 1. `clients` int64 [N]: whom
    each train sample belongs to by nature.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    n_classes: int
    clients: Tensor | None = None
    vocabulary: int | None = None

    def __post_init__(self) -> None:
        _check("train", self.train_images, self.train_labels, self.n_classes, self.vocabulary)
        _check("test", self.test_images, self.test_labels, self.n_classes, self.vocabulary)
        if self.clients is not None and (self.clients.shape, self.clients.dtype) != (
            self.train_labels.shape,
            torch.int64,
        ):
            found = f"{tuple(self.clients.shape)} {self.clients.dtype}"
            raise ValueError(f"clients must be int64 [{len(self.train_labels)}], one a train sample, not {found}")
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            test_shape = tuple(self.test_images.shape[1:])
            raise ValueError(f"train images have shape {self.input_shape} each, test images {test_shape}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Travels as arrays, which processes on one machine can share without a copy."""
        values = [getattr(self, field.name) for field in fields(self)]
        return _from_arrays, tuple(v.numpy() if isinstance(v, Tensor) else v for v in values)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One sample's shape."""
        return tuple(self.train_images.shape[1:])

    @property
    def kind(self) -> str:
        """What its samples are, one of vocabulary.SAMPLES."""
        if self.vocabulary is not None:
            return "tokens"
        return "rows" if len(self.input_shape) == 1 else "pictures"


def _from_arrays(*values: Any) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shared arrays cannot be written to, and nobody writes to a data set
        parts: list[Any] = [torch.from_numpy(v) if isinstance(v, np.ndarray) else v for v in values]
    return Dataset(*parts)


def _check(part: str, images: Tensor, labels: Tensor, n_classes: int, vocabulary: int | None) -> None:
    kind = torch.float32 if vocabulary is None else torch.int64
    if images.dtype != kind or labels.dtype != torch.int64:
        raise ValueError(f"{part} images are {images.dtype} and labels {labels.dtype}, not {kind} and torch.int64")
    if images.dim() < 2 or labels.dim() != 1 or (vocabulary is not None and images.dim() != 2):
        raise ValueError(
            f"{part} images have shape {tuple(images.shape)} and labels {tuple(labels.shape)}, "
            f"not {'[N, C, H, W] or [N, features]' if vocabulary is None else '[N, length]'}, and [N]"
        )
    if len(images) != len(labels):
        raise ValueError(f"there are {len(images)} {part} images and {len(labels)} {part} labels")
    if not images.numel():
        raise ValueError(f"there are no {part} samples: the images have shape {tuple(images.shape)}")
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= n_classes:
        raise ValueError(f"{part} labels go from {lowest} to {highest}, {n_classes} classes are 0 to {n_classes - 1}")
    if vocabulary is not None and not 0 <= int(images.min()) <= int(images.max()) < vocabulary:
        seen = f"{int(images.min())} to {int(images.max())}"
        raise ValueError(f"{part} tokens go from {seen}, a vocabulary of {vocabulary} is 0 to {vocabulary - 1}")
    if not torch.stack(images.aminmax()).isfinite().all():  # ten times as fast as to look at every value
        bad = int((~images.isfinite()).sum())
        raise ValueError(f"{bad} of {images.numel()} values of the {part} images are infinite or not a number")


# Below Dataset, because these files import it.
from fedpoison.data import cifar10 as cifar10  # noqa: E402
from fedpoison.data import digits as digits  # noqa: E402
from fedpoison.data import fashion_mnist as fashion_mnist  # noqa: E402
from fedpoison.data import fashion_mnist_mini as fashion_mnist_mini  # noqa: E402
from fedpoison.data import files as files  # noqa: E402
from fedpoison.data import mnist as mnist  # noqa: E402
from fedpoison.data import partitions as partitions  # noqa: E402
from fedpoison.data import small_tables as small_tables  # noqa: E402
from fedpoison.data import text as text  # noqa: E402
from fedpoison.data import uci as uci  # noqa: E402
