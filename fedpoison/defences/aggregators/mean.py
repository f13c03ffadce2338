"""Plain averaging: the rule every other is measured against."""

from typing import Literal

import torch

from fedpoison.contract.registry import aggregator
from fedpoison.types import Sizes, Weights


@aggregator(
    paper="arXiv:1602.05629",
    source="secondary: the average over participants that every later paper states",
    evidence="tests/defences/test_aggregators.py::test_mean_is_the_average",
    claims=("permutation", "unanimity", "translation", "scale", "rotation"),
    withstands="nothing",
)
def mean(sizes: Sizes, *, weighting: Literal["uniform", "sizes"] = "uniform") -> Weights:
    """The average of all updates, each counting the same or by its sample count.

    McMahan et al. 2017 (FedAvg) with `weighting = "sizes"`. The sizes are the server's own
    knowledge; a count that clients report would let one of them outweigh the rest.
    """
    weights = torch.ones_like(sizes) if weighting == "uniform" else sizes
    return weights / weights.sum()
