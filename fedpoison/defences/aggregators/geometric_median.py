"""The geometric median, found among inner products."""

from typing import Literal

import torch
from torch import Tensor

from fedpoison.contract.registry import aggregator
from fedpoison.linalg.gram import median_distances
from fedpoison.types import Gram, Positive, Repeats, Sizes, SquaredDistances, Weights

_ITERATIONS = 1000
_OF_RFA = 4
"""Iterations of the authors' code."""
_SETTLED = 1e-9
"""Converged when a step is shorter than this, relative to the updates' typical distance."""


def squared_distances_to(gram: Gram, weights: Tensor) -> Tensor:
    """‖x_i − Σ_j weights[j] x_j‖² for each row i; the weights sum to 1."""
    reach = gram @ weights
    return (gram.diagonal() - 2 * reach + weights @ reach).clamp(min=0)


@aggregator(
    paper="arXiv:1912.13445",
    source="secondary: the authors' code (smoothed Weiszfeld)",
    evidence="tests/defences/test_aggregators.py::test_geometric_median_minimises_the_sum_of_distances",
    claims=("permutation", "unanimity", "translation", "scale", "rotation"),
    kappa="4*(1 + f/(n - 2*f))**2 if (iterations, variant, weighting) == (None,)*3 and smoothing <= 1e-6 else None",
    kappa_source="secondary: Allouah et al. 2023 (arXiv:2302.01772), of the exact median",
)
def geometric_median(
    gram: Gram,
    squared_distances: SquaredDistances,
    sizes: Sizes,
    *,
    smoothing: Positive = 1e-6,
    iterations: Repeats | None = None,
    variant: Literal["rfa"] | None = None,
    weighting: Literal["sizes"] | None = None,
) -> Weights:
    """The point with the least sum of distances to all updates.

    Pillutla et al. 2022 (RFA), the smoothed Weiszfeld algorithm; every iterate is a weighted mean of the updates, so
    it needs their inner products only. `smoothing` bounds distances from below and is relative to the smallest median
    distance of an update to the others. It runs until the weights settle, or for `iterations` from the mean. An update
    that is itself the minimum (after Vardi and Zhang 2000) is found at once. `weighting = "sizes"`: distances and the
    mean count by the clients' samples. `variant = "rfa"` with it is what RFA does: 4 iterations from the mean unless
    told otherwise, and `smoothing` a distance itself, on the scale of the updates.
    """
    counts, rfa = sizes if weighting else torch.ones_like(sizes), variant == "rfa"
    settles = iterations is None and not rfa
    distances = squared_distances.sqrt()
    if settles:
        costs = (counts * distances).sum(dim=1)
        centre = int(costs.argmin())
        if _is_minimum(gram, distances, counts, centre):
            return torch.eye(len(gram), dtype=torch.float64)[centre]
        weights = counts / costs
        weights /= weights.sum()
    else:
        weights = counts / counts.sum()
    typical = median_distances(distances).min()  # rows far away, if fewer than half, don't count
    scale = max(float(typical), torch.finfo(torch.float64).tiny ** 0.5)  # so that 1/(smoothing · scale) is finite
    nearest = smoothing if rfa else smoothing * scale
    for _ in range(_ITERATIONS if settles else iterations or _OF_RFA):
        before = weights
        weights = counts / squared_distances_to(gram, weights).sqrt().clamp(min=nearest)
        weights /= weights.sum()
        step = weights - before
        if settles and float(step @ gram @ step) < (_SETTLED * scale) ** 2:
            break
    return weights


def _is_minimum(gram: Gram, distances: Tensor, counts: Sizes, k: int) -> bool:
    """Whether row k minimises: unit vectors from it to the others, each times its count, add up to at most its own."""
    here = distances[k] == 0
    pull = torch.where(here, 0.0, counts / distances[k].masked_fill(here, 1))
    pull[k] -= pull.sum()
    return float(pull @ gram @ pull) <= float(counts[here].sum()) ** 2
