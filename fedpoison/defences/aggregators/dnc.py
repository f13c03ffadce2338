"""Divide and conquer: drop whoever lies far out along the direction of largest spread."""

import torch

from fedpoison.common.rounding import half_up
from fedpoison.contract.registry import aggregator
from fedpoison.types import Count, Positive, Repeats, Updates, Weights


@aggregator(
    paper="Shejwalkar and Houmansadr, NDSS 2021",
    source="secondary: the algorithm as libraries have it",
    evidence="tests/defences/test_more_rules.py::test_dnc_equals_its_definition",
    needs="n > 2*f",
    decides=True,
    claims=("permutation", "unanimity", "translation", "scale"),
    withstands="huge rows in one direction",
)
def dnc(
    updates: Updates,
    f: int,
    rng: torch.Generator,
    *,
    iterations: Repeats = 5,
    dimensions: Count = 10_000,
    share: Positive = 1.0,
) -> Weights:
    """Average the updates that are never among the outliers along the first principal direction.

    Shejwalkar and Houmansadr 2021, Algorithm 2: in each iteration the updates are centred on so many random
    coordinates, projected on their first right singular vector, and the `share` · f (rounded half up) with the
    largest squared projections drop out; the average is of those who stay in all iterations. Where nobody does, of
    those who stay most often. It is made against colluders: attackers who go far in several directions hide each
    other, for an iteration looks along one.
    """
    n, d = updates.shape
    drop = min(half_up(share * f), n - 1)
    stayed = torch.zeros(n, dtype=torch.int64)
    for _ in range(iterations):
        chosen = torch.randperm(d, generator=rng)[:dimensions].sort().values
        centred = updates[:, chosen].double()
        centred -= centred.mean(dim=0)
        # the projections on the right singular vector are those on the left one times the singular value
        projections = torch.linalg.eigh(centred @ centred.T).eigenvectors[:, -1].square()
        stayed[projections.argsort(stable=True)[: n - drop]] += 1
    kept = stayed == stayed.max()
    return kept.double() / kept.sum()
