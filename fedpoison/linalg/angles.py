"""Cosines of rows, about the origin.

A cosine is wrong by no more than rounding however long the rows are, so nothing has to be centred. Products are in
float64: rows that differ little in direction are told apart by 1 − cos, which may be far below float32's precision.
"""

import torch
from torch import Tensor

from fedpoison.common.parallel import in_parallel
from fedpoison.linalg.blocks import WIDTH, column_blocks, of_each
from fedpoison.types import Cosines, Update, Updates

_GROUP = 16 * WIDTH
"""Columns that one task accumulates before its sum is handed over."""


def cosines(rows: Updates) -> Cosines:
    """The cosine of each pair [n, n]; 0 with a zero row, itself included."""
    n, d = rows.shape
    scale = _scale(torch.linalg.vector_norm(rows, ord=torch.inf, dim=1)).unsqueeze(1)

    def group(columns: slice) -> Tensor:
        total = torch.zeros(n, n, dtype=torch.float64)
        for block in column_blocks(columns.stop, start=columns.start):
            part = (rows[:, block] * scale).numpy()
            total += torch.from_numpy(part @ part.T)  # numpy sees that it is symmetric and does half the work
        return total

    total = torch.zeros(n, n, dtype=torch.float64)
    for part in in_parallel(group, column_blocks(d, _GROUP)):
        total += part
    inverse = _scale(total.diagonal().sqrt())
    return ((total + total.T) / 2 * inverse * inverse.unsqueeze(1)).clamp(-1, 1)


def cosines_to(vector: Update, rows: Updates) -> Tensor:
    """The cosine of each row with one vector [n]; 0 where either is zero. Equal rows get equal bits."""
    direction = _unit(vector)
    return torch.tensor(of_each(lambda row: float(_unit(row) @ direction), rows.unbind()), dtype=torch.float64)


def _unit(vector: Update) -> Update:
    scaled = vector.double() * _scale(torch.linalg.vector_norm(vector, ord=torch.inf))
    return scaled * _scale(torch.linalg.vector_norm(scaled))


def _scale(lengths: Tensor) -> Tensor:
    """1 / length in float64, 0 for a length of 0."""
    lengths = lengths.double()
    return torch.where(lengths > 0, 1 / lengths.clamp(min=torch.finfo(torch.float64).tiny), 0.0)
