"""How suspect a rule holds each client: by the numbers that it decides by, whoever was set aside or merged."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fedpoison import aggregate, aggregator
from fedpoison.common.errors import AlgorithmError
from fedpoison.contract.entry import Entry
from fedpoison.contract.lookup import entries
from fedpoison.defences.aggregators.krum import krum_scores
from fedpoison.measures.rounds import detection
from fedpoison.types import Norms, Update, Updates, Weights

SCORING = [entry for entry in entries("aggregator").values() if entry.scores]
each = pytest.mark.parametrize("rule", SCORING, ids=lambda entry: entry.name)


def rows(n: int = 9, far: int = 2) -> Tensor:
    made = torch.randn(n, 5, generator=torch.Generator().manual_seed(1)).double()
    made[:far] += 20
    return made


def test_those_that_have_a_number_say_it() -> None:
    assert {rule.name for rule in SCORING} == {"cge", "krum", "multi_krum"}
    assert aggregate("median", rows(), f=2).scores is None


@each
def test_scores_are_a_number_a_client_that_moves_with_it_and_who_is_far_has_more(rule: Entry) -> None:
    updates, order = rows(), torch.randperm(9, generator=torch.Generator().manual_seed(2))
    scores = aggregate(rule.function, updates, f=2).scores
    assert scores is not None
    assert scores.dtype == torch.float64
    assert scores[:2].min() > scores[2:].max()
    moved = aggregate(rule.function, updates[order], f=2).scores
    torch.testing.assert_close(moved, scores[order])


@each
def test_whom_a_rule_decides_against_it_holds_most_suspect(rule: Entry) -> None:
    for seed in range(5):
        updates = torch.randn(11, 4, generator=torch.Generator().manual_seed(seed)).double()
        verdict = aggregate(rule.function, updates, f=3)
        assert verdict.scores is not None
        if verdict.flagged is not None:
            assert verdict.scores[verdict.flagged].min() >= verdict.scores[~verdict.flagged].max()
        elif verdict.weights is not None:
            assert verdict.scores[verdict.weights.argmax()] == verdict.scores.min()


def test_krums_scores_are_those_of_its_definition() -> None:
    updates = rows(7, 1)
    squared = torch.cdist(updates, updates).square()
    torch.testing.assert_close(aggregate("krum", updates, f=1).scores, krum_scores(squared, 1))


def test_who_was_set_aside_is_most_suspect_and_who_was_merged_has_no_number() -> None:
    updates = rows()
    updates[4] = torch.nan
    scores = aggregate("cge", updates, f=2).scores
    assert scores is not None
    assert scores[4] == torch.inf
    torch.testing.assert_close(scores[5:], updates[5:].norm(dim=1))
    assert aggregate("cge", rows(), f=1, pre=["bucketing"]).scores is None
    clipped = aggregate("cge", rows(), f=2, pre=[{"name": "clipping", "threshold": 1.0}]).scores
    assert (clipped is None) == (not entries("preaggregator")["clipping"].keeps_clients)


def test_detectors_are_judged_by_their_scores() -> None:
    bad = torch.zeros(9, dtype=torch.bool)
    bad[:2] = True
    assert detection(aggregate("krum", rows(), f=2), bad)["score_auroc"] == 1
    assert detection(aggregate("krum", rows(), f=2), ~bad)["score_auroc"] == 0
    assert detection(aggregate("median", rows(), f=2), bad)["score_auroc"] is None
    assert detection(aggregate("krum", rows(), f=2), torch.zeros(9, dtype=torch.bool))["score_auroc"] is None


def test_a_users_scores_are_held_to_what_they_are() -> None:
    def short(norms: Norms) -> Any:
        return norms[1:]

    def nan(norms: Norms) -> Any:
        return norms * torch.nan

    for scores, says in ((short, r"must score 9 rows, not \(8,\)"), (lambda norms: 3, "must return a tensor")):

        @aggregator(scores=scores)
        def mine(norms: Norms) -> Weights:
            """The same for all."""
            return torch.full_like(norms, 1 / len(norms))

        with pytest.raises(AlgorithmError, match=says):
            aggregate(mine, rows())

    @aggregator(scores=nan)
    def lost(norms: Norms) -> Weights:
        """The same for all."""
        return torch.full_like(norms, 1 / len(norms))

    scores = aggregate(lost, rows()).scores
    assert scores is not None
    assert (scores == torch.inf).all()
    with pytest.raises(TypeError, match="scores asks for norms, which the rule does not"):

        @aggregator(scores=nan)
        def other(updates: Updates) -> Update:
            """The first."""
            return updates[0]
