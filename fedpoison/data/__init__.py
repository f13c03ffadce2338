"""Data sets, one file each, the readers they share, and ways to split samples over clients."""

import math
import warnings
from dataclasses import dataclass, fields
from functools import cached_property
from operator import index
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedpoison.data.reading import Reading
from fedpoison.tasks.classification import Classification
from fedpoison.tasks.task import LearningTask

_CHANNELS = (1, 3, 4)
"""What pictures have: grey, colours, or these with an opacity."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Train and test samples as tensors; ValueError says what is wrong with them.

    Images are float32 in [0, 1], [N, C, H, W]; or [N, features] for tables, of any size; or, with a `vocabulary`,
    int64 tokens [N, length], 0 to vocabulary − 1. Labels are int64 [N], 0 to n_classes − 1. `clients` int64 [N]: whom
    each train sample belongs to by nature. `seen_through`: the images are what a frozen net made of such samples, of
    any shape and size. `reading`: how a table of a user's was read.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    n_classes: int
    clients: Tensor | None = None
    vocabulary: int | None = None
    seen_through: bool = False
    reading: Reading | None = None

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "n_classes", index(self.n_classes))  # a plain int, also of numpy's
        except TypeError as error:
            raise ValueError(f"n_classes is {self.n_classes!r}, and a whole number is needed") from error
        for name in ("train_images", "train_labels", "test_images", "test_labels", "clients"):
            _check_tensor(name.replace("_", " "), getattr(self, name), optional=name == "clients")
        _check_part(self, "train", self.train_images, self.train_labels)
        _check_part(self, "test", self.test_images, self.test_labels)
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

    @cached_property
    def task(self) -> LearningTask:
        """What is learned of them."""
        return Classification.of(self.train_labels, self.n_classes)

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


def _check_tensor(name: str, given: Any, optional: bool) -> None:
    if given is None and optional:
        return
    if not isinstance(given, Tensor):
        raise ValueError(f"{name} are a {type(given).__name__}, and a tensor is needed")
    if given.layout != torch.strided:
        raise ValueError(f"{name} are sparse ({given.layout}): give them as .to_dense()")


def _check_part(whole: Dataset, part: str, images: Tensor, labels: Tensor) -> None:
    vocabulary = whole.vocabulary
    kind = torch.float32 if vocabulary is None else torch.int64
    if images.dtype != kind or labels.dtype != torch.int64:
        raise ValueError(f"{part} images are {images.dtype} and labels {labels.dtype}, not {kind} and torch.int64")
    wanted, dimensions = ("[N, C, H, W] or [N, features]", (2, 4)) if vocabulary is None else ("[N, length]", (2,))
    right = images.dim() > 1 if whole.seen_through else images.dim() in dimensions
    if labels.dim() != 1 or not right:
        given = f"{part} images have shape {tuple(images.shape)} and labels {tuple(labels.shape)}"
        hint = "; .unsqueeze(1) gives pictures their channel" if vocabulary is None and images.dim() == 3 else ""
        raise ValueError(f"{given}, not {wanted}, and [N]{hint}")
    if len(images) != len(labels):
        raise ValueError(f"there are {len(images)} {part} images and {len(labels)} {part} labels")
    if not images.numel():
        raise ValueError(f"there are no {part} samples: the images have shape {tuple(images.shape)}")
    if misfit := Classification(whole.n_classes).misfit(labels):
        raise ValueError(f"{part} {misfit}")
    least, most = (float(value) for value in images.aminmax())  # ten times as fast as to look at every value
    if vocabulary is not None and not 0 <= least <= most < vocabulary:
        seen = f"{int(least)} to {int(most)}"
        raise ValueError(f"{part} tokens go from {seen}, a vocabulary of {vocabulary} is 0 to {vocabulary - 1}")
    if not (math.isfinite(least) and math.isfinite(most)):
        bad = int((~images.isfinite()).sum())
        raise ValueError(f"{bad} of {images.numel()} values of the {part} images are infinite or not a number")
    if images.dim() == 4 and not whole.seen_through:
        _check_pictures(part, tuple(images.shape[1:]), least, most)


def _check_pictures(part: str, shape: tuple[int, ...], least: float, most: float) -> None:
    first, second, last = shape
    side = min(first, second)
    if last in _CHANNELS and first not in _CHANNELS and side > max(_CHANNELS) and (first == second or first > 16):
        raise ValueError(
            f"{part} images have shape {shape} each, which looks like [H, W, C]: .movedim(3, 1) makes "
            "them [C, H, W], as is needed"
        )
    if least < 0 or most > 1:
        raise ValueError(
            f"{part} images go from {least:.9g} to {most:.9g}, [0, 1] is needed: divide them by the largest value "
            "that a pixel may have; `[data] normalise` standardises them, for the net alone"
        )


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
