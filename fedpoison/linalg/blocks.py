"""The fixed grid of column blocks, and what is done block by block.

The grid depends on d alone, and blocks are reduced in order, so neither the number of threads nor what else
runs changes a bit.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from fedpoison.common.parallel import in_parallel
from fedpoison.linalg import kernels
from fedpoison.types import MixedUpdates, Mixing, Norms, Update, Updates

T = TypeVar("T")

WIDTH = 2048
"""Columns a block, a multiple of 64: a copy of 100 rows fits a core's cache, and in float64 it stays below the 2 MB
from which on memory may be asked for anew each time."""
GROUP = 4 * WIDTH
"""Columns a task: threads seldom wait for the interpreter, and no thread has much more to do than another."""
_TASK = 2**16
"""Values of rows that are worth a task."""
_PIECE = 128
"""Values a piece of a row: few enough that roundings of float32 average out, to about 1e-9 of a norm of many."""
_ORDINARY = (1e-10, 1e18)


def column_blocks(stop: int, width: int = WIDTH, start: int = 0) -> list[slice]:
    """Slices of at most `width` columns that cover start … stop."""
    return [slice(left, min(left + width, stop)) for left in range(start, stop, width)]


def by_columns(rule: Callable[[Updates], Update], updates: Updates, mixing: Mixing | None = None) -> Update:
    """Apply a coordinate-wise rule to `updates` [n, d], or to mixing [m, n] · updates, block by block.

    The rule may not write into its block, which may be the updates themselves.
    """
    result = updates.new_empty(updates.shape[1])
    mix = None if mixing is None else mixing.to(updates.dtype)

    def one(block: slice) -> None:
        columns = updates[:, block]
        result[block] = rule(columns if mix is None else mix @ columns)

    _each_block(one, updates.shape[1])
    return result


def weighted_sum(weights: Tensor, updates: Updates) -> Update:
    """Σ weights[i] · updates[i], accumulated in float64; rows of weight 0 are not read."""
    chosen = weights.nonzero().flatten()
    weights = weights[chosen].double()
    if len(chosen) == 1 and weights[0] == 1:
        return updates[chosen[0]].clone()
    result = updates.new_empty(updates.shape[1])
    rows = [kernels.side_by_side(updates[i]) for i in chosen.tolist()]
    if kernels.sums(rows) and not weights.requires_grad:
        sum_up = partial(kernels.weighted_sum, weights, rows, result)
        list(in_parallel(sum_up, column_blocks(len(result), GROUP)))
        return result

    def one(block: slice) -> None:
        columns = updates[:, block] if len(chosen) == len(updates) else updates[chosen, block]
        result[block] = (weights @ columns.double()).to(updates.dtype)

    _each_block(one, updates.shape[1])
    return result


def mixed_rows(mixing: Mixing, updates: Updates) -> MixedUpdates:
    """mixing [m, n] · updates [n, d] as a new matrix [m, d]."""
    result = updates.new_empty(len(mixing), updates.shape[1])
    mix = mixing.to(updates.dtype)

    def one(block: slice) -> None:
        result[:, block] = mix @ updates[:, block]

    _each_block(one, updates.shape[1])
    return result


def _each_block(work: Callable[[slice], None], d: int) -> None:
    """Do the work on every block of 0 … d, a group of blocks a task."""

    def one(group: slice) -> None:
        for block in column_blocks(group.stop, WIDTH, group.start):
            work(block)

    list(in_parallel(one, column_blocks(d, GROUP)))


def of_each(function: Callable[[Update], T], rows: Sequence[Update]) -> list[T]:
    """The function of each row; short rows share a task."""
    share = max(1, _TASK // max(1, len(rows[0]))) if rows else 1
    tasks = [rows[first : first + share] for first in range(0, len(rows), share)]
    return [made for part in in_parallel(lambda task: [function(row) for row in task], tasks) for made in part]


def row_norms(updates: Updates) -> Norms:
    """Euclidean norm of each row, accumulated in float64 over pieces of a row; NaN or Inf if it has one."""
    return torch.tensor(of_each(_norm, updates.unbind()), dtype=torch.float64)


def _norm(row: Tensor) -> float:
    """Squares of ordinary size are summed in float32 within a piece of a row; others could overflow or vanish."""
    whole = len(row) - len(row) % _PIECE
    if whole and row.dtype == torch.float32 and row.is_contiguous():
        pieces = torch.linalg.vector_norm(row[:whole].view(-1, _PIECE), dim=1)
        rest = torch.linalg.vector_norm(row[whole:], dtype=torch.float64)
        norm = math.hypot(float(torch.linalg.vector_norm(pieces, dtype=torch.float64)), float(rest))
        if _ORDINARY[0] < norm < _ORDINARY[1]:
            return norm
    return float(torch.linalg.vector_norm(row, dtype=torch.float64))
