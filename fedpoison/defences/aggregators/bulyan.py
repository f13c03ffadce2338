"""Bulyan: Krum again and again, then the mean around the median of what it chose."""

from typing import Literal

import torch

from fedpoison.contract.registry import aggregator
from fedpoison.defences.aggregators.krum import krum_scores
from fedpoison.defences.aggregators.meamed import mean_around_median
from fedpoison.linalg.blocks import by_columns
from fedpoison.types import SquaredDistances, Update, Updates


@aggregator(
    paper="arXiv:1802.07927",
    source="secondary: libraries of the authors' laboratory and others",
    evidence="tests/defences/test_more_rules.py::test_bulyan_equals_its_definition",
    needs="n > 4*f + 2",
    claims=("permutation", "unanimity", "translation", "scale"),
)
def bulyan(
    updates: Updates,
    squared_distances: SquaredDistances,
    f: int,
    *,
    variant: Literal["iterated", "one_shot"] = "iterated",
) -> Update:
    """Choose n − 2f updates by Krum, one after the other, then average the n − 4f values closest to their median.

    El Mhamdi et al. 2018, with Krum as the inner rule: each choice scores the updates that are left, m of them, by
    their m − f − 2 nearest, one at the least. With one neighbour two mutually nearest updates score alike; of equals
    the one closer to all that are left is taken, so that the clients' order does not matter. "one_shot" scores once and
    takes the n − 2f lowest, as Flower does.
    """
    n = len(updates)
    if variant == "one_shot":
        chosen = krum_scores(squared_distances, f).argsort(stable=True)[: n - 2 * f]
    else:
        chosen = torch.tensor(_one_by_one(squared_distances, f))
    kept = chosen.sort().values
    return by_columns(lambda block: mean_around_median(block[kept], n - 4 * f), updates)


def _one_by_one(squared_distances: SquaredDistances, f: int) -> list[int]:
    n = len(squared_distances)
    left, chosen = list(range(n)), []
    for _ in range(n - 2 * f):
        among = squared_distances[left][:, left]
        scores = krum_scores(among, f)
        equals = torch.where(scores == scores.min(), among.sum(dim=1), torch.inf)
        chosen.append(left.pop(int(equals.argmin())))
    return chosen
