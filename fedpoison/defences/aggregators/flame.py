"""FLAME: admit the majority that lies closest by angle, clip to the median norm, add noise."""

import math
from statistics import mode
from typing import Literal

import torch
from torch import Tensor

from fedpoison.contract.registry import aggregator
from fedpoison.types import Noisy, Norms, NotNegative, Positive, SquaredDistances


def cosine_distances(squared_distances: SquaredDistances, lengths: Tensor) -> SquaredDistances:
    """1 − cos of the angle between each two rows, from their distances and lengths; 1 beside a row of length 0.

    2|a||b|(1 − cos) = |a − b|² − (|a| − |b|)², which is exact for whole models too, whose angles are tiny.
    """
    products = 2 * lengths * lengths.unsqueeze(1)
    gaps = (lengths - lengths.unsqueeze(1)).square()
    return torch.where(products > 0, (squared_distances - gaps).clamp(min=0) / products, 1.0)


def linked_majority(distances: SquaredDistances) -> Tensor:
    """Which rows are in the first group of more than half of all, when pairs are linked in order of distance.

    What HDBSCAN finds with min_cluster_size = ⌊n/2⌋ + 1, min_samples = 1 and a single cluster allowed: no group can
    split into two so large, so its one cluster shrinks to the last that is large enough.
    """
    n = len(distances)
    group, reached = list(range(n)), math.inf
    pairs = torch.triu_indices(n, n, 1)
    lengths, order = distances[pairs[0], pairs[1]].sort(stable=True)
    for length, (one, other) in zip(lengths.tolist(), pairs.T[order].tolist(), strict=True):
        if length > reached:
            break
        if group[one] != group[other]:
            group = [group[one] if name == group[other] else name for name in group]
            if group.count(group[one]) > n // 2:
                reached = length  # pairs at just this distance still count
    return torch.tensor(group) == mode(group)


@aggregator(
    paper="arXiv:2101.02281",
    source="secondary: Algorithm 1 as audits and libraries restate it; λ = 0.001 as later papers quote it for images",
    evidence="tests/defences/test_composite_rules.py::test_flame_equals_its_definition",
    needs="(epsilon is None) == (delta is None)",
    decides=True,
    references=("origin", "zero_model"),
    claims=("permutation",),
)
def flame(
    squared_distances: SquaredDistances,
    norms: Norms,
    *,
    variant: Literal["models", "updates"] = "models",
    noise_factor: NotNegative = 0.001,
    epsilon: Positive | None = None,
    delta: Positive | None = None,
) -> Noisy:
    """Average the majority closest by angle, clipped to the median norm of all updates, with noise in proportion.

    Nguyen et al. 2022, Algorithm 1: HDBSCAN on the cosine distances of the local models admits more than half of the
    clients; their updates are clipped to S, the median of all clients' norms, and averaged; the noise has standard
    deviation λS. λ is `noise_factor`, or √(2 ln(1.25/δ))/ε where `epsilon` and `delta` are given. "updates" measures
    the angles of the updates, as many implementations do: models that have hardly moved all look alike. Attackers
    within the angles of the honest are admitted; honest clients farther out than just over half of all are not.
    """
    n = len(norms)
    lengths = squared_distances[:n, n + 1].sqrt() if variant == "models" else norms
    admitted = linked_majority(cosine_distances(squared_distances[:n, :n], lengths))
    median = norms.quantile(0.5)
    shares = admitted * torch.where(norms > median, median / norms, 1.0) / admitted.sum()
    if epsilon and delta:
        noise_factor = math.sqrt(2 * math.log(1.25 / delta)) / epsilon
    weights = torch.cat([shares, 1 - shares.sum(dim=0, keepdim=True), torch.zeros(1, dtype=torch.float64)])
    return Noisy(weights, float(noise_factor * median))
