"""What every registered rule and pre-aggregator is held to; a new one is found here by its registration."""

import ast
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedpoison import Verdict, aggregate, aggregator, parallel
from fedpoison.lookup import entries
from fedpoison.registry import Entry
from fedpoison.types import Update, Updates
from fedpoison.vocabulary import REFERENCES

ROOT = Path(__file__).parents[2]
RULES, STEPS = entries("aggregator").values(), entries("preaggregator").values()
N, D = 11, 24
CLAIMS = {"permutation", "unanimity", "translation", "scale", "rotation"}
NOT_ROBUST = {"mean", "rlr"}
"""Rules that promise nothing against huge rows."""
ONE_DIRECTION = {"dnc"}
"""Rules that withstand huge rows in one direction only."""

each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda entry: entry.name)
each_step = pytest.mark.parametrize("step", STEPS, ids=lambda entry: entry.name)
each = pytest.mark.parametrize("entry", [*RULES, *STEPS], ids=lambda entry: entry.name)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def claiming(claim: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("rule", [e for e in RULES if claim in e.claims], ids=lambda entry: entry.name)


def rows(seed: int = 0, dtype: torch.dtype = torch.float64, n: int = N, d: int = D) -> Tensor:
    return (torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5).to(dtype)


def most_attackers(entry: Entry, n: int = N) -> int:
    """The largest minority of n rows that the rule says it withstands."""
    options = entry.validate({})
    return max(f for f in range((n + 1) // 2) if entry.requirement(n, f, options) is None)


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


@each_rule
def test_it_claims_what_is_tested_here(rule: Entry) -> None:
    assert set(rule.claims) <= CLAIMS


@each
def test_the_bound_of_its_error_is_somebody_s_and_not_below_what_is_possible(entry: Entry) -> None:
    assert bool(entry.kappa) == bool(entry.kappa_source)
    if not entry.kappa:
        return
    assert re.match(r"(read|secondary|proved): \S", entry.kappa_source)
    assert entry.rows is None, "the bound is of as many rows as there were"
    for n, f in ((N, 0), (N, 2), (N, most_attackers(entry))):
        possible = f / (n - 2 * f)
        assert entry.robustness(n, f, entry.validate({}), possible) >= possible  # Allouah et al. 2023
    assert entry.robustness(N, (N + 1) // 2, entry.validate({}), 1.0) is None


# ---- what it claims


@claiming("permutation")
@each_dtype
def test_the_order_of_the_clients_does_not_matter(rule: Entry, dtype: torch.dtype) -> None:
    within = 1e-5 if dtype == torch.float32 else 1e-8
    for seed in range(3):
        updates, ids, sizes = rows(seed, dtype), torch.arange(N) * 3, torch.arange(1.0, N + 1).double()
        order = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
        one = run(rule, updates, client_ids=ids, sizes=sizes)
        other = run(rule, updates[order], client_ids=ids[order], sizes=sizes[order])
        assert_same(other.update, one.update, within)
        for mine, theirs in ((one.weights, other.weights), (one.flagged, other.flagged)):
            assert (mine is None) == (theirs is None)
            if mine is not None and theirs is not None:
                assert_same(theirs.double(), mine[order].double(), 1e-4 if dtype == torch.float32 else 1e-6)


@claiming("unanimity")
@each_dtype
def test_when_all_send_the_same_that_is_the_aggregate(rule: Entry, dtype: torch.dtype) -> None:
    for f in {0, 1, most_attackers(rule)}:
        for row in (rows(5, dtype)[0], 1e-3 * rows(6, dtype)[0], 1e6 * rows(7, dtype)[0], torch.zeros(D, dtype=dtype)):
            result = run(rule, row.repeat(N, 1), f=f).update
            torch.testing.assert_close(result, row, rtol=1e-6, atol=0)


@claiming("translation")
def test_moving_all_moves_the_aggregate(rule: Entry) -> None:
    for seed in range(3):
        updates, shift = rows(seed), 3 * rows(seed + 50)[0]
        assert_same(run(rule, updates + shift).update, run(rule, updates).update + shift)


@claiming("scale")
def test_scaling_all_scales_the_aggregate(rule: Entry) -> None:
    for seed, factor in enumerate((0.3, -2.5, 1e3, 1e-4)):
        updates = rows(seed)
        assert_same(run(rule, updates * factor).update / factor, run(rule, updates).update)
        assert_same(run(rule, (updates * factor).float()).update.double() / factor, run(rule, updates).update, 1e-4)


@claiming("rotation")
def test_rotating_all_rotates_the_aggregate(rule: Entry) -> None:
    for seed in range(3):
        updates = rows(seed)
        rotation = torch.linalg.qr(rows(seed + 50, n=D)).Q
        assert_same(run(rule, updates @ rotation).update, run(rule, updates).update @ rotation)


def test_the_rotation_is_one_that_coordinatewise_rules_do_not_survive() -> None:
    updates, rotation = rows(0), torch.linalg.qr(rows(50, n=D)).Q
    for name in ("median", "trimmed_mean"):
        rule = entries("aggregator")[name]
        assert "rotation" not in rule.claims
        assert (run(rule, updates @ rotation).update - run(rule, updates).update @ rotation).norm() > 1e-2


@pytest.mark.parametrize("rule", [e for e in RULES if e.coordinatewise], ids=lambda entry: entry.name)
def test_a_coordinatewise_rule_sees_each_coordinate_alone(rule: Entry) -> None:
    updates = rows(1, torch.float32)
    together = run(rule, updates).update
    apart = torch.cat([run(rule, updates[:, [j]]).update for j in range(D)])
    assert torch.equal(together, apart)


# ---- what everyone owes


@each_rule
@each_dtype
def test_a_rule_keeps_the_precision_and_says_who_counted(rule: Entry, dtype: torch.dtype) -> None:
    verdict = run(rule, rows(2, dtype))
    assert verdict.update.dtype == dtype
    assert verdict.update.shape == (D,)
    assert verdict.update.isfinite().all()
    assert (verdict.weights is not None) == (rule.returns == "weights")
    if verdict.weights is not None:
        assert verdict.weights.shape == (N,)
        assert (verdict.weights >= 0).all()
        assert verdict.weights.sum() <= 1 + 1e-9
    assert (verdict.flagged is not None) == bool(rule.decides)


@each_rule
def test_float32_and_float64_agree(rule: Entry) -> None:
    assert_same(run(rule, rows(3, torch.float32)).update.double(), run(rule, rows(3)).update, 1e-4)


@each_rule
@each_dtype
def test_a_rule_neither_changes_nor_returns_what_it_was_given(rule: Entry, dtype: torch.dtype) -> None:
    known = {"sizes": torch.ones(N).double(), "client_ids": torch.arange(N), "previous": rows(9, dtype)[0]}
    for f in (0, 2):
        updates = rows(4, dtype)
        before = {name: value.clone() for name, value in known.items()}
        verdict = run(rule, updates, f=f, **known)
        for result in (verdict.update, verdict.norms, verdict.weights):
            if result is not None:
                result.fill_(-1)
        assert torch.equal(updates, rows(4, dtype))
        assert all(torch.equal(known[name], before[name]) for name in known)


@each_rule
def test_a_rule_gives_the_same_bits_for_the_same_seed_and_any_number_of_workers(rule: Entry) -> None:
    updates = rows(5, torch.float32, d=5000)
    first = run(rule, updates, seed=3).update
    torch.manual_seed(99)
    before = torch.get_rng_state()
    for count in (1, 2, 3):
        with parallel.using(count):
            assert torch.equal(run(rule, updates, seed=3).update, first)
    assert torch.equal(torch.get_rng_state(), before)


@each_rule
def test_one_client_can_be_aggregated_or_is_refused_with_the_bound(rule: Entry) -> None:
    updates = rows(6)[:1]
    options = rule.validate({})
    broken = rule.requirement(1, 0, options)
    if broken is None:
        assert run(rule, updates, f=0).update.shape == (D,)
    else:
        with pytest.raises(ValueError, match=re.escape(broken)):
            aggregate(rule.function, updates)


# ---- breakdown


def poisoned(rule: Entry, seed: int, large: float, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Updates, which of them are honest, and f: attackers at random places, as many as the rule withstands."""
    f = most_attackers(rule)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
    attackers, honest = order[:f], order[f:]
    for direction in (torch.ones(f, D), rows(seed + 70, n=f) - 0.5, -rows(seed, n=N)[attackers]):
        updates = rows(seed)
        updates[attackers] = large * direction.double()
        yield updates.to(dtype), honest, f


@pytest.mark.parametrize(
    "rule", [e for e in RULES if e.name not in NOT_ROBUST | ONE_DIRECTION], ids=lambda entry: entry.name
)
@each_dtype
@pytest.mark.parametrize("large", [1e3, 1e9, 1e30])
def test_the_attackers_cannot_carry_the_aggregate_away(rule: Entry, large: float, dtype: torch.dtype) -> None:
    # Every published bound here is a small multiple of the honest spread; centered clipping moves at most tau.
    for updates, honest, f in poisoned(rule, int(math.log10(large)), large, dtype):
        exact = updates[honest].double()
        middle = exact.mean(dim=0)
        spread = (exact - middle).norm(dim=1).max()
        reach = 2 * (N - f) / (N - 2 * f) * spread
        assert (run(rule, updates, f=f).update.double() - middle).norm() <= reach


@pytest.mark.parametrize("large", [1e3, 1e9])
def test_huge_rows_must_go_several_ways_to_carry_dnc_away(large: float) -> None:
    for name in ONE_DIRECTION:
        rule = entries("aggregator")[name]
        together, apart, _ = poisoned(rule, int(math.log10(large)), large, torch.float64)
        for (updates, honest, f), withstood in ((together, True), (apart, False)):
            moved = (run(rule, updates, f=f).update - updates[honest].mean(dim=0)).norm()
            assert (moved < 10 * updates[honest].norm(dim=1).max()) == withstood


def test_one_huge_row_carries_the_mean_away() -> None:
    for name in NOT_ROBUST:
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
