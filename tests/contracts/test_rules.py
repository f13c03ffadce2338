"""What every registered rule and pre-aggregator is held to; a new one is found here by its registration."""

import ast
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import making
import pytest
import torch
from torch import Tensor

from fedpoison import Verdict, aggregate, aggregator
from fedpoison.checking import CONTRACTS, Subject
from fedpoison.checking.limits import moved, placements, reach
from fedpoison.common import parallel
from fedpoison.contract.entry import Entry
from fedpoison.contract.lookup import entries
from fedpoison.contract.vocabulary import CLAIMS, REFERENCES
from fedpoison.types import Update, Updates

ROOT = Path(__file__).parents[2]
RULES, STEPS = entries("aggregator").values(), entries("preaggregator").values()
N, D = 11, 24
EFFORT = 2
"""How many draws each contract tries here: equal clients and unequal ones. The third has another shape, and is
exhaustive; `fedpoison check` tries more."""
ONCE = ("seed", "workers", "inputs", "evaluation", "bounded", "finite", "breakdown", "kappa")
"""Contracts that are about something else than whether clients are alike: one draw will do."""

SLOW = ("err", "lfr")
"""Rules that ask their base for every client: one draw will do for all contracts but where tests are exhaustive."""

OPTIONS: dict[str, dict[str, Any]] = {"gas": {"groups": 6}}
"""What makes a rule quick enough for this: GAS asks its base a thousand times by default."""

each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda entry: entry.name)
each_step = pytest.mark.parametrize("step", STEPS, ids=lambda entry: entry.name)
each = pytest.mark.parametrize("entry", [*RULES, *STEPS], ids=lambda entry: entry.name)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def rows(seed: int = 0, dtype: torch.dtype = torch.float64, n: int = N, d: int = D) -> Tensor:
    return (torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5).to(dtype)


def subject(rule: Entry, effort: int = EFFORT) -> Subject:
    return Subject(rule, rule.validate(OPTIONS.get(rule.name, {})), effort)


def run(rule: Entry, updates: Tensor, f: int = 2, **known: Any) -> Verdict:
    verdict = aggregate(rule.function, updates, f=f, **known)
    assert not verdict.skipped, verdict.events
    return verdict


def assert_same(result: Tensor, expected: Tensor, within: float = 1e-8) -> None:
    torch.testing.assert_close(result, expected, rtol=within, atol=within)


# ---- what an entry says of itself


@each
def test_its_source_is_told(entry: Entry) -> None:
    assert entry.paper
    assert re.match(r"(read|secondary): \S", entry.source), "read or secondary, then where"
    assert entry.summary.endswith(".")


@each
def test_its_evidence_exists(entry: Entry) -> None:
    path, _, name = entry.evidence.partition("::")
    assert (ROOT / path).is_file(), entry.evidence
    if path.endswith(".py"):
        tests = {node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)}
        assert name in tests, entry.evidence
        assert name.startswith("test_")


@each
def test_its_function_knows_its_entry_and_its_file_is_short(entry: Entry) -> None:
    assert entry.function.entry is entry
    path = Path(str(sys.modules[entry.function.__module__].__file__))
    assert len(path.read_text().splitlines()) < 100


# ---- what it claims, and what everyone owes


@pytest.mark.parametrize("effort", [EFFORT, pytest.param(3, marks=pytest.mark.exhaustive)], ids="effort-{}".format)
@pytest.mark.parametrize("contract", [name for name in CONTRACTS if name != "speed"])
@each_rule
def test_a_rule_keeps_its_contracts(rule: Entry, contract: str, effort: int) -> None:
    once = effort == EFFORT and (contract in ONCE or rule.name in SLOW)
    finding = CONTRACTS[contract](subject(rule, 1 if once else effort))
    assert finding.contract == contract
    assert finding.outcome != "broken", finding.sentence
    if contract in CLAIMS:
        assert (finding.outcome == "not claimed") == (contract not in rule.claims)


@each
def test_the_bound_of_its_error_is_somebody_s_and_not_below_what_is_possible(entry: Entry) -> None:
    assert bool(entry.kappa) == bool(entry.kappa_source)
    if not entry.kappa:
        return
    assert re.match(r"(read|secondary|proved): \S", entry.kappa_source)
    assert entry.rows is None, "the bound is of as many rows as there were"
    for n, f in ((N, 0), (N, 2), (N, Subject(entry, entry.validate({}), 1).most(N))):
        possible = f / (n - 2 * f)
        assert entry.robustness(n, f, entry.validate({}), possible) >= possible  # Allouah et al. 2023
    assert entry.robustness(N, (N + 1) // 2, entry.validate({}), 1.0) is None


OTHERWISE: list[tuple[str, dict[str, Any], set[str]]] = [
    ("mean", {"weighting": "sizes"}, set()),
    ("multi_krum", {"m": 3}, set()),
    ("bulyan", {"variant": "one_shot"}, set()),
    ("rlr", {"threshold": 4}, set()),
    ("foolsgold", {"combine": "average"}, set()),
    ("signguard", {"variant": "sim"}, set()),
    ("signguard", {"variant": "dist"}, set()),
    ("centered_clipping", {"iterations": 3, "tau": 1.0}, set()),
    ("geometric_median", {"iterations": 3}, {"bounded"}),  # it starts at the mean, and has not come far in three steps
]
"""Rules with options that take another path, and which contracts they break then."""


@pytest.mark.parametrize(("name", "options", "broken"), OTHERWISE, ids=[name for name, *_ in OTHERWISE])
def test_a_rule_keeps_its_contracts_with_other_options(name: str, options: dict[str, Any], broken: set[str]) -> None:
    rule = entries("aggregator")[name]
    tried = Subject(rule, rule.validate(options), 1)
    told = {"speed", "breakdown", "kappa"} if making.few else {"speed"}  # of which nothing is claimed here
    found = {name for name, contract in CONTRACTS.items() if name not in told and contract(tried).outcome == "broken"}
    assert found == broken


def test_every_claim_has_a_contract() -> None:
    assert set(CLAIMS) <= set(CONTRACTS)


@pytest.mark.parametrize("name", ["median", "trimmed_mean"])
def test_the_rotation_is_one_that_coordinatewise_rules_do_not_survive(name: str) -> None:
    rule = entries("aggregator")[name]
    assert "rotation" not in rule.claims
    claiming = replace(rule, claims=("rotation",))
    assert CONTRACTS["rotation"](subject(claiming)).outcome == "broken"


@pytest.mark.parametrize("rule", [e for e in RULES if e.coordinatewise], ids=lambda entry: entry.name)
def test_a_coordinatewise_rule_gives_a_coordinate_alone_the_same_bits(rule: Entry) -> None:
    updates = rows(1, torch.float32)
    together = run(rule, updates).update
    apart = torch.cat([run(rule, updates[:, [j]]).update for j in range(D)])
    assert torch.equal(together, apart)


@each_rule
def test_a_rule_says_who_counted_if_it_weighs(rule: Entry) -> None:
    for case in subject(rule).ordinary():
        assert (subject(rule).play(case).weights is not None) == (rule.returns == "weights")


# ---- breakdown, stricter than the contract: no rule of ours is moved further than any published bound


@pytest.mark.parametrize("rule", [e for e in RULES if e.withstands == "huge rows"], ids=lambda entry: entry.name)
@each_dtype
@pytest.mark.parametrize("large", [1e3, 1e9, 1e30])
def test_the_attackers_stay_within_reach_of_the_honest_mean(rule: Entry, large: float, dtype: torch.dtype) -> None:
    # Every published bound here is a small multiple of the honest spread; centered clipping moves at most tau.
    for case in placements(subject(rule), int(math.log10(large)), large, dtype):
        update, middle, spread = moved(subject(rule), case)
        assert (update - middle).norm() <= reach(N, case.f, spread)


def limited(withstands: str) -> pytest.MarkDecorator:
    found = [e for e in RULES if e.withstands == withstands]
    return pytest.mark.parametrize("rule", found, ids=lambda entry: entry.name)


@limited("huge rows in one direction")
@pytest.mark.parametrize("large", [1e3, 1e9])
def test_huge_rows_must_go_several_ways_to_carry_it_away(rule: Entry, large: float) -> None:
    together, apart, _ = placements(subject(rule), int(math.log10(large)), large, torch.float64)
    for case, withstood in ((together, True), (apart, False)):
        update, middle, _ = moved(subject(rule), case)
        assert ((update - middle).norm() < 10 * case.updates[case.honest].norm(dim=1).max()) == withstood


@limited("nothing")
def test_huge_rows_carry_away_who_promises_nothing(rule: Entry) -> None:
    far = []
    for case in placements(subject(rule), 3, 1e30, torch.float64):
        update, middle, _ = moved(subject(rule), case)
        far.append((update - middle).norm())
    assert max(far) > 1e28


@pytest.mark.parametrize("name", ["mean", "rlr"])
def test_one_huge_row_carries_the_mean_away(name: str) -> None:
    updates = rows(1)
    updates[4] = 1e30
    assert run(entries("aggregator")[name], updates).update.abs().min() > 1e28


# ---- pre-aggregators

_seen: list[Tensor] = []


@aggregator()
def onlooker(updates: Updates) -> Update:
    """Remember the rows that arrive, pass the first on."""
    _seen.append(updates.clone())
    return updates[0]


def after(step: Entry, updates: Tensor, f: int = 2, **known: Any) -> Tensor:
    _seen.clear()
    assert not aggregate(onlooker, updates, f=f, pre=[step.function], **known).skipped
    return _seen[0]


@each_step
@each_dtype
def test_a_step_gives_as_many_rows_as_it_says(step: Entry, dtype: torch.dtype) -> None:
    for n in (1, 2, N, 2 * N):
        f = min(2, (n - 1) // 2)
        result = after(step, rows(1, dtype, n=n), f=f)
        assert result.dtype == dtype
        assert result.shape == (step.rows(n, **step.validate({})) if step.rows else n, D)
        assert result.isfinite().all()


@each_step
def test_a_step_s_rows_are_averages_or_lie_between_one_and_the_origin(step: Entry) -> None:
    updates = rows(2)
    verdict = aggregate("mean", updates, f=2, pre=[step.function])
    assert verdict.weights is not None
    assert (verdict.weights >= 0).all()
    total = verdict.weights.sum().item()
    assert total <= 1 + 1e-9
    assert total == pytest.approx(1) or "origin" in step.references
    assert set(step.references) <= set(REFERENCES)


@each_step
def test_a_step_neither_changes_nor_passes_on_its_input(step: Entry) -> None:
    updates = rows(3, torch.float32)
    for rule in ("mean", "median", "krum"):
        aggregate(rule, updates, f=1, pre=[step.function]).update.fill_(-1)
    assert torch.equal(updates, rows(3, torch.float32))


@each_step
def test_a_step_gives_the_same_bits_for_the_same_seed_and_any_number_of_workers(step: Entry) -> None:
    updates = rows(4, torch.float32, d=5000)
    first = after(step, updates, seed=3)
    torch.manual_seed(99)
    for count in (1, 2, 3):
        with parallel.using(count):
            assert torch.equal(after(step, updates, seed=3), first)


@each_step
@pytest.mark.parametrize("large", [1e3, 1e30])
def test_a_step_with_huge_rows_leaves_a_robust_rule_what_it_needs(step: Entry, large: float) -> None:
    # One attacker spoils at most one row after bucketing; the median of the others stays among them.
    for attacker in (0, 5, 10):
        updates = rows(5, torch.float32)
        updates[attacker] = large
        honest = torch.cat([updates[:attacker], updates[attacker + 1 :]])
        result = aggregate("median", updates, f=1, pre=[step.function])
        assert not result.skipped
        assert result.update.abs().max() <= honest.abs().max()


@each_step
def test_a_step_passes_unanimity_on_up_to_the_length(step: Entry) -> None:
    row = rows(6)[0]
    for result in after(step, row.repeat(N, 1)):
        share = (result @ row) / (row @ row)
        assert 0 < share <= 1 + 1e-9
        assert_same(result, share * row)
        assert share == pytest.approx(1) or "origin" in step.references
