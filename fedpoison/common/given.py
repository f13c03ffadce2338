"""Tensors of what a caller has: tensors, NumPy arrays, lists of numbers. ValueError says what is needed instead."""

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Given = Tensor | NDArray[Any] | Sequence[Any]
PRECISIONS = (torch.float32, torch.float64)


def tensor_of(name: str, given: Any) -> Tensor:
    """A tensor without gradients, which shares its memory with what is given where it can."""
    if isinstance(given, Tensor):
        if given.layout is not torch.strided or given.device.type != "cpu":
            raise ValueError(f"{name} must be dense and on the CPU, not {given.layout} on {given.device}")
        plain = given.detach()
        return plain.clone() if plain.is_inference() else plain
    try:
        if isinstance(given, Sequence) and any(isinstance(part, Tensor) for part in given):
            return torch.stack([tensor_of(name, part) for part in given])
        array = np.asarray(given)
        native = array.astype(array.dtype.newbyteorder("="), copy=False)
        return torch.from_numpy(np.require(native, requirements=["C", "W"]))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be numbers, in rows of one length; {type(given).__name__} is not") from error


def matrix_of(name: str, given: Any) -> Tensor:
    """A matrix [n, d] of float32 or float64."""
    made = tensor_of(name, given)
    if made.dim() != 2 or not made.is_floating_point() or not made.shape[1]:
        raise ValueError(f"{name} must be a floating-point matrix [n, d], not {tuple(made.shape)} {made.dtype}")
    return precise(name, made)


def vector_of(name: str, given: Any, length: int) -> Tensor:
    """A vector of so many numbers."""
    made = tensor_of(name, given)
    if made.shape != (length,) or made.is_complex():
        raise ValueError(f"{name} must be a vector of {length} numbers, not {tuple(made.shape)} of {made.dtype}")
    return made


def point_of(name: str, given: Any) -> Tensor:
    """A vector [d] of float32 or float64."""
    made = tensor_of(name, given)
    if made.dim() != 1 or not len(made):
        raise ValueError(f"{name} must be a vector [d], not {tuple(made.shape)}")
    return precise(name, made)


def rows_of(name: str, given: Any) -> Tensor | list[Tensor]:
    """A matrix [n, d], or a list of what stands in it; what is no numbers is a tensor that is no vector."""
    if isinstance(given, Sequence) and not isinstance(given, str | bytes):
        return [_row(name, row) for row in given]
    return matrix_of(name, given)


def _row(name: str, row: Any) -> Tensor:
    try:
        return tensor_of(name, row)
    except ValueError:
        return torch.empty(0, 0)


def most_common_row(name: str, rows: Tensor | list[Tensor]) -> Tensor:
    """A row of the shape and type that most vectors have: what the others are screened against."""
    vectors = [row for row in rows if row.dim() == 1 and row.is_floating_point() and len(row)]
    if not vectors:
        first = f"{tuple(rows[0].shape)} of {rows[0].dtype}"
        raise ValueError(f"none of the {len(rows)} {name} is a vector of floating-point numbers; the first is {first}")
    kinds = [(len(row), row.dtype) for row in vectors]
    return precise(name, vectors[kinds.index(max(kinds, key=kinds.count))])


def precise(name: str, values: Tensor) -> Tensor:
    """The same, if it is of float32 or float64."""
    if values.dtype not in PRECISIONS:
        raise ValueError(f"{name} must be float32 or float64, not {values.dtype}")
    return values


def table_of(name: str, given: Any) -> dict[str, Any]:
    """A mapping by name, empty for None."""
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(f"{name} must be a table by name, not {type(given).__name__}")
    return dict(given or {})


def whole(name: str, given: Any) -> int:
    """A whole number."""
    try:
        return operator.index(given)
    except TypeError as error:
        raise ValueError(f"{name} must be a whole number, it is {given!r}") from error
