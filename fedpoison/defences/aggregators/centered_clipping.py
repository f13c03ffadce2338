"""Centered clipping: distrust whoever is far from last round's aggregate."""

import torch

from fedpoison.contract.registry import aggregator
from fedpoison.defences.aggregators.geometric_median import squared_distances_to
from fedpoison.types import Count, Gram, Positive, Weights


@aggregator(
    paper="arXiv:2012.10333",
    source="secondary: the authors' code and the docstring of a library",
    evidence="tests/defences/test_aggregators.py::test_centered_clipping_equals_its_definition",
    references=("previous",),
    claims=("permutation",),
)
def centered_clipping(gram: Gram, n: int, *, tau: Positive = 10.0, iterations: Count = 1) -> Weights:
    """Move from the previous aggregate by the mean of the differences to it, each clipped to length tau.

    Karimireddy et al. 2021: v ← v + 1/n Σ (x_i − v) · min(1, tau / ‖x_i − v‖), `iterations` times, starting at
    the previous round's aggregate (zero in the first). tau is in the units of the updates.
    """
    weights = torch.zeros(n + 1, dtype=torch.float64)
    weights[-1] = 1
    for _ in range(iterations):
        distances = squared_distances_to(gram, weights)[:n].sqrt()
        steps = (tau / distances).clamp(max=1) / n
        weights = weights * (1 - steps.sum())
        weights[:n] += steps
    return weights
