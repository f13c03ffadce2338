"""Centered clipping: distrust whoever is far from last round's aggregate."""

from collections.abc import Callable

import torch

from fedpoison.contract.registry import aggregator
from fedpoison.defences.aggregators.geometric_median import squared_distances_to
from fedpoison.defences.clip import left_of, tell
from fedpoison.types import Gram, Repeats, Threshold, Weights


@aggregator(
    paper="arXiv:2012.10333",
    source="secondary: the authors' code and the docstring of a library",
    evidence="tests/defences/test_aggregators.py::test_centered_clipping_equals_its_definition",
    references=("previous",),
    claims=("permutation",),
)
def centered_clipping(
    gram: Gram, n: int, say: Callable[[str], None], *, tau: Threshold = "median", iterations: Repeats = 1
) -> Weights:
    """Move from the previous aggregate by the mean of the differences to it, each clipped to length tau.

    Karimireddy et al. 2021: v ← v + 1/n Σ (x_i − v) · min(1, tau / ‖x_i − v‖), `iterations` times, starting at
    the previous round's aggregate (zero in the first). tau is in the units of the updates, or "median": of the
    distances to v, anew each time. One that is made for gradients may clip none of the updates of whole local training,
    and this is the mean then, which is said.
    """
    weights = torch.zeros(n + 1, dtype=torch.float64)
    weights[-1] = 1
    left = []
    for _ in range(iterations):
        left.append(left_of(squared_distances_to(gram, weights)[:n].sqrt(), tau))
        steps = left[-1] / n
        weights = weights * (1 - steps.sum())
        weights[:n] += steps
    tell(say, torch.stack(left), "tau", tau)
    return weights
