"""Bucketing: average small random groups first."""

import math

import torch

from fedpoison.contract.registry import preaggregator
from fedpoison.types import Count, Mixing


def _buckets(n: int, s: int) -> int:
    return math.ceil(n / s)


@preaggregator(
    paper="arXiv:2006.09365",
    source="secondary: the authors' code; the paper's first version (read) resamples instead",
    evidence="tests/defences/test_preaggregators.py::test_bucketing_averages_disjoint_groups",
    rows=_buckets,
)
def bucketing(n: int, rng: torch.Generator, *, s: Count = 2) -> Mixing:
    """Shuffle the updates, cut them into ⌈n/s⌉ buckets of s (the last may be smaller), average each.

    Karimireddy et al. 2022. f malicious updates spoil at most f buckets, so the rule after it
    is told the same f of fewer rows.
    """
    order = torch.randperm(n, generator=rng)
    mixing = torch.zeros(_buckets(n, s), n, dtype=torch.float64)
    for bucket, members in enumerate(order.split(s)):
        mixing[bucket, members] = 1 / len(members)
    return mixing
