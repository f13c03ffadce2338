"""Nearest-neighbour mixing."""

import torch

from fedpoison.contract.registry import preaggregator
from fedpoison.types import Mixing, SquaredDistances


@preaggregator(
    paper="arXiv:2302.01772",
    source="secondary: the code of the authors' laboratory",
    evidence="tests/defences/test_preaggregators.py::test_nnm_equals_its_definition",
    needs="n > 2*f",
    kappa="8*f/(n - f)*(kappa + 1)",
    kappa_source="secondary: Allouah et al. 2023 (arXiv:2302.01772)",
)
def nnm(squared_distances: SquaredDistances, f: int) -> Mixing:
    """Replace each update by the average of its n − f nearest, itself among them.

    Allouah et al. 2023. Ties go to the lower index.
    """
    n = len(squared_distances)
    nearest = squared_distances.clone().fill_diagonal_(-1).argsort(dim=1, stable=True)[:, : n - f]
    return torch.zeros(n, n, dtype=torch.float64).scatter_(1, nearest, 1 / (n - f))
