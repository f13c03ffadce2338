"""Smallest maximum eigenvalue averaging."""

from itertools import combinations

import torch

from fedpoison.contract.registry import aggregator
from fedpoison.types import Gram, Weights

_TOGETHER = 1 << 21
"""Numbers of the matrices whose eigenvalues are computed at once."""
_ROUNDING = 1e-12
"""Eigenvalues that differ by less than this share are equal."""


@aggregator(
    paper="arXiv:2302.04787",
    source="secondary: the definition as the library of the authors' laboratory documents it",
    evidence="tests/defences/test_subset_rules.py::test_smea_equals_its_definition",
    needs="n > 2*f; comb(n, f) * (n - f)**2 <= 60_000_000",
    decides=True,
    claims=("permutation", "unanimity", "translation", "scale", "rotation"),
    kappa="4*f/(n - 2*f)",
    kappa_source="proved: tests/defences/test_theory.py, which reaches it",
)
def smea(gram: Gram, f: int) -> Weights:
    """Average the n − f updates that spread least along the direction in which they spread most.

    Allouah et al. 2023 (trilemma): of all subsets of n − f the one whose empirical covariance has the smallest maximum
    eigenvalue. A covariance has the eigenvalues of the subset's centred Gram matrix, divided by n − f, and zeros. All
    n choose f subsets are tried, each in a time that goes with (n − f)² or a little more, so both are bounded together,
    at some seconds; of equals the first in lexicographic order.
    """
    n = len(gram)
    subsets = torch.tensor(list(combinations(range(n), n - f)))
    together = min(2048, 1 + _TOGETHER // (n - f) ** 2)
    largest = torch.cat([_largest_eigenvalues(gram, some) for some in subsets.split(together)]).clamp(min=0)
    equals = largest <= largest.min() * (1 + _ROUNDING)
    weights = torch.zeros(n, dtype=torch.float64)
    weights[subsets[equals.int().argmax()]] = 1 / (n - f)
    return weights


def _largest_eigenvalues(gram: Gram, subsets: torch.Tensor) -> torch.Tensor:
    """The largest eigenvalue of each subset's Gram matrix about the subset's own mean."""
    among = gram[subsets.unsqueeze(2), subsets.unsqueeze(1)]
    centred = among - among.mean(dim=1, keepdim=True)
    eigenvalues: torch.Tensor = torch.linalg.eigvalsh(centred - centred.mean(dim=2, keepdim=True))
    return eigenvalues[:, -1]
