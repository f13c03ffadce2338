"""The fixed grid of column blocks, and what is done block by block.

The grid depends on d alone, and blocks are reduced in order, so neither the number of threads nor what else
runs changes a bit.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fedpoison.parallel import in_parallel
from fedpoison.types import MixedUpdates, Mixing, Norms, Update, Updates

WIDTH = 2048
"""Columns a block: 100 float32 rows of it fit a core's L2 cache. A multiple of 64."""


def column_blocks(d: int, width: int = WIDTH) -> list[slice]:
    """Slices of at most `width` columns that cover 0 … d."""
    return [slice(start, min(start + width, d)) for start in range(0, d, width)]


def by_columns(rule: Callable[[Updates], Update], updates: Updates, mixing: Mixing | None = None) -> Update:
    """Apply a coordinate-wise rule to `updates` [n, d], or to mixing [m, n] · updates, block by block."""
    result = updates.new_empty(updates.shape[1])
    mix = None if mixing is None else mixing.to(updates.dtype)

    def one(block: slice) -> None:
        columns = updates[:, block]
        result[block] = rule(columns.clone() if mix is None else mix @ columns)

    list(in_parallel(one, column_blocks(updates.shape[1])))
    return result


def weighted_sum(weights: Tensor, updates: Updates) -> Update:
    """Σ weights[i] · updates[i], accumulated in float64; rows of weight 0 are not read."""
    rows = weights.nonzero().flatten()
    weights = weights[rows].double()
    if len(rows) == 1 and weights[0] == 1:
        return updates[rows[0]].clone()
    result = updates.new_empty(updates.shape[1])

    def one(block: slice) -> None:
        columns = updates[:, block] if len(rows) == len(updates) else updates[rows, block]
        result[block] = (weights @ columns.double()).to(updates.dtype)

    list(in_parallel(one, column_blocks(updates.shape[1])))
    return result


def mixed_rows(mixing: Mixing, updates: Updates) -> MixedUpdates:
    """mixing [m, n] · updates [n, d] as a new matrix [m, d]."""
    result = updates.new_empty(len(mixing), updates.shape[1])
    mix = mixing.to(updates.dtype)

    def one(block: slice) -> None:
        result[:, block] = mix @ updates[:, block]

    list(in_parallel(one, column_blocks(updates.shape[1])))
    return result


def row_norms(updates: Updates) -> Norms:
    """Euclidean norm of each row in float64, where no finite float32 row can overflow; NaN or Inf if it has one."""
    norms = in_parallel(lambda row: float(torch.linalg.vector_norm(row, dtype=torch.float64)), updates.unbind())
    return torch.tensor(list(norms), dtype=torch.float64)
