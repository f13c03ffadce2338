"""The geometric median, found among inner products."""

import torch
from torch import Tensor

from fedpoison.linalg.gram import median_distances
from fedpoison.registry import aggregator
from fedpoison.types import Count, Gram, Positive, SquaredDistances, Weights

_ITERATIONS = 1000
_SETTLED = 1e-9
"""Converged when a step is shorter than this, relative to the updates' typical distance."""


def squared_distances_to(gram: Gram, weights: Tensor) -> Tensor:
    """‖x_i − Σ_j weights[j] x_j‖² for each row i; the weights sum to 1."""
    reach = gram @ weights
    return (gram.diagonal() - 2 * reach + weights @ reach).clamp(min=0)


@aggregator(
    paper="arXiv:1912.13445",
    source="secondary: the authors' code (smoothed Weiszfeld)",
    evidence="tests/unit/test_aggregators.py::test_geometric_median_minimises_the_sum_of_distances",
    claims=("permutation", "unanimity", "translation", "scale", "rotation"),
    kappa="4*(1 + f/(n - 2*f))**2 if iterations is None and smoothing <= 1e-6 else None",
    kappa_source="secondary: Allouah et al. 2023 (arXiv:2302.01772), of the exact median",
)
def geometric_median(
    gram: Gram,
    squared_distances: SquaredDistances,
    *,
    smoothing: Positive = 1e-6,
    iterations: Count | None = None,
) -> Weights:
    """The point with the least sum of distances to all updates.

    Pillutla et al. 2022 (RFA), the smoothed Weiszfeld algorithm; every iterate is a weighted mean of the updates, so
    it needs their inner products only. `smoothing` bounds distances from below and is relative to the smallest median
    distance of an update to the others. It runs until the weights settle, or for `iterations` from the uniform mean,
    as RFA does. An update that is itself the minimum (after Vardi and Zhang 2000) is found at once.
    """
    n = len(gram)
    distances = squared_distances.sqrt()
    if iterations is None:
        centre = int(distances.sum(dim=1).argmin())
        if _is_minimum(gram, distances, centre):
            return torch.eye(n, dtype=torch.float64)[centre]
        weights = 1 / distances.sum(dim=1)
        weights /= weights.sum()
    else:
        weights = torch.full((n,), 1 / n, dtype=torch.float64)
    typical = median_distances(distances).min()  # rows far away, if fewer than half, don't count
    scale = max(float(typical), torch.finfo(torch.float64).tiny ** 0.5)  # so that 1/(smoothing · scale) is finite
    for _ in range(_ITERATIONS if iterations is None else iterations):
        before = weights
        weights = 1 / squared_distances_to(gram, weights).sqrt().clamp(min=smoothing * scale)
        weights /= weights.sum()
        step = weights - before
        if iterations is None and float(step @ gram @ step) < (_SETTLED * scale) ** 2:
            break
    return weights


def _is_minimum(gram: Gram, distances: Tensor, k: int) -> bool:
    """Whether row k minimises: the unit vectors from it to the others add up to at most its multiplicity."""
    here = distances[k] == 0
    pull = torch.where(here, 0.0, 1 / distances[k].masked_fill(here, 1))
    pull[k] -= pull.sum()
    return float(pull @ gram @ pull) <= float(here.sum()) ** 2
