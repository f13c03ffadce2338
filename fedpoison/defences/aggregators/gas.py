"""GAS: find the attackers part by part of the updates."""

import torch

from fedpoison.contract.registry import aggregator
from fedpoison.linalg.blocks import row_norms
from fedpoison.types import Base, Count, Updates, Weights


@aggregator(
    paper="arXiv:2302.06079",
    source="secondary: the authors' code, and its restatement in section VI-A of arXiv:2501.17381 (read there)",
    evidence="tests/defences/test_composite_rules.py::test_gas_equals_its_definition",
    needs="n > 2*f",
    decides=True,
    claims=("permutation", "unanimity", "translation", "scale"),
)
def gas(updates: Updates, f: int, base: Base, rng: torch.Generator, *, groups: Count = 1000) -> Weights:
    """Average the n − f updates that lie closest to a robust aggregate, summed over random groups of coordinates.

    Liu et al. 2023, gradient splitting: the coordinates are shuffled and cut into so many `groups` of equal size (the
    last may be smaller), the base rule aggregates each, and an update's score is the sum of its distances to them.
    Ties go to the lower index. It is made for high dimensions and unlike data; it moves and scales with the updates
    if its base does. Attackers who mimic one honest client lie close, and honest clients are turned away for them.
    """
    n, d = updates.shape
    scores = torch.zeros(n, dtype=torch.float64)
    for columns in torch.randperm(d, generator=rng).chunk(groups):
        part = updates[:, columns]
        scores += row_norms(part - base(part, f))
    weights = torch.zeros(n, dtype=torch.float64)
    weights[scores.argsort(stable=True)[: n - f]] = 1 / (n - f)
    return weights
