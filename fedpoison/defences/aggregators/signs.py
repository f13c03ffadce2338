"""Rules that look at signs: a vote, and a learning rate that turns where the vote is narrow."""

import torch

from fedpoison.contract.registry import aggregator
from fedpoison.linalg.sorting import mean_rows
from fedpoison.types import Count, Positive, Update, Updates


@aggregator(
    paper="arXiv:1810.05291",
    source="secondary: the definition as later papers state it",
    evidence="tests/defences/test_more_rules.py::test_sign_majority_equals_its_definition",
    coordinatewise=True,
    claims=("permutation",),
)
def sign_majority(updates: Updates, *, step: Positive = 0.001) -> Update:
    """Move each coordinate by `step` in the direction that most updates have; not at all if they are even.

    Bernstein et al. 2019, signSGD with majority vote. An attacker has one vote a coordinate, however large it is.
    """
    return step * torch.sign(torch.sign(updates).sum(dim=0))


@aggregator(
    paper="arXiv:2007.03767",
    source="secondary: the authors' code",
    evidence="tests/defences/test_more_rules.py::test_rlr_equals_its_definition",
    needs="threshold is None or threshold <= n",
    coordinatewise=True,
    claims=("permutation", "unanimity", "scale"),
    withstands="nothing",
)
def rlr(updates: Updates, f: int, *, threshold: Count | None = None) -> Update:
    """The mean, turned round in each coordinate in which the signs add up to less than `threshold` in size.

    Ozdayi et al. 2021, robust learning rate over FedAvg. The threshold is f + 1 unless given: their condition is that
    it exceeds the number of attackers. It is made against backdoors; a huge update still carries the mean away.
    """
    agreement = torch.sign(updates).sum(dim=0).abs()
    direction = torch.where(agreement >= (f + 1 if threshold is None else threshold), 1.0, -1.0).to(updates.dtype)
    return direction * mean_rows(updates)
