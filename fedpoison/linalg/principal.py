"""Rows of numbers along the directions in which they vary most."""

import torch
from torch import Tensor


def principal(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The centred rows' projections [N, count] on their top right singular vectors, and the singular values."""
    centred = (rows - rows.mean(dim=0)).double()
    wide = centred.shape[1] > centred.shape[0]
    squares, vectors = torch.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    values, vectors = squares.flip(0)[:count].clamp(min=0).sqrt(), vectors.flip(1)[:, :count]
    return vectors * values if wide else centred @ vectors, values


def whitened(rows: Tensor, components: int) -> Tensor:
    """The rows along their first principal directions in which they vary, each with variance 1."""
    projections, values = principal(rows, components)
    varying = values > max(1e-6 * float(values[0]), 1e-9)
    made: Tensor = projections[:, varying] / values[varying] * len(rows) ** 0.5
    return made
