"""Flower's own strategies against ours: the same where both follow the paper, and where not, who does."""

import logging
from dataclasses import dataclass
from functools import partial
from typing import Any

import making
import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.server.strategy.aggregate import aggregate as old_fedavg
from flwr.server.strategy.aggregate import aggregate_krum, aggregate_median, aggregate_trimmed_avg
from flwr.serverapp.strategy import Bulyan, FedAvg, FedMedian, FedTrimmedAvg, Krum, MultiKrum
from torch import Tensor

from fedpoison import Verdict, aggregate

logging.getLogger("flwr").setLevel(logging.ERROR)
CUT = 12
"""Clients send two arrays; this many numbers are in the first."""


rows = partial(making.rows, dtype=torch.float32)


def layers(row: Tensor) -> list[np.ndarray]:
    return [row[:CUT].reshape(3, 4).numpy().copy(), row[CUT:].numpy().copy()]


def joined(arrays: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate([array.ravel() for array in arrays]))


@dataclass
class Reply:
    """What a strategy reads of a message; a real one needs a running task."""

    content: RecordDict

    def has_error(self) -> bool:
        return False


def flower(strategy: FedAvg, updates: Tensor, examples: list[int] | None = None) -> Tensor:
    """What a Flower strategy makes of these rows, each sent as a reply with its own num-examples."""
    replies = []
    for row, count in zip(updates, examples or [1] * len(updates), strict=True):
        arrays = ArrayRecord(dict(zip("ab", map(Array, layers(row)), strict=True)))
        content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": count})})
        replies.append(Reply(content))
    aggregated, _ = strategy.aggregate_train(1, replies)  # type: ignore[arg-type]
    assert aggregated is not None
    return joined(aggregated.to_numpy_ndarrays())


def old_flower(function: Any, updates: Tensor, *arguments: Any) -> Tensor:
    """What one of the functions behind Flower's older strategies makes of them."""
    return joined(function([(layers(row), 1) for row in updates], *arguments))


def krum_choice(updates: Tensor, f: int) -> int:
    """The paper's choice, in float64, by differences."""
    exact = updates.double()
    distances = torch.stack([(exact - row).square().sum(dim=1) for row in exact]).fill_diagonal_(torch.inf)
    return int(distances.sort(dim=1).values[:, : len(updates) - f - 2].sum(dim=1).argmin())


def chosen(verdict: Verdict) -> int:
    assert verdict.weights is not None
    return int(verdict.weights.argmax())


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-5, atol=1e-6)


# ---- the same on benign updates

SIZES = ((5, 1), (6, 1), (10, 3), (11, 4), (25, 5))


@pytest.mark.parametrize(("n", "f"), SIZES)
def test_fedavg_agrees(n: int, f: int) -> None:
    updates, sizes = rows(n, seed=n), torch.arange(1, n + 1)
    assert_same(aggregate("mean", updates).update, flower(FedAvg(), updates))
    assert_same(aggregate("mean", updates).update, old_flower(old_fedavg, updates))
    ours = aggregate("mean", updates, sizes=sizes.double(), weighting="sizes").update
    assert_same(ours, flower(FedAvg(), updates, sizes.tolist()))


@pytest.mark.parametrize(("n", "f"), SIZES)
def test_median_agrees(n: int, f: int) -> None:
    updates = rows(n, seed=n)
    assert_same(aggregate("median", updates).update, flower(FedMedian(), updates))
    assert_same(aggregate("median", updates).update, old_flower(aggregate_median, updates))


@pytest.mark.parametrize(("n", "f"), SIZES)
def test_trimmed_mean_agrees_where_beta_n_is_no_fraction(n: int, f: int) -> None:
    updates, beta = rows(n, seed=n), f / n + 1e-9
    ours = aggregate("trimmed_mean", updates, f=f).update
    assert_same(ours, flower(FedTrimmedAvg(beta=beta), updates))
    assert_same(ours, old_flower(aggregate_trimmed_avg, updates, beta))
    assert_same(aggregate("trimmed_mean", updates, f=0).update, flower(FedTrimmedAvg(beta=0.0), updates))


@pytest.mark.parametrize(("n", "f"), [(7, 1), (11, 2), (16, 3), (24, 5)])
def test_bulyan_agrees_when_it_chooses_at_once(n: int, f: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower scores once; the paper chooses one after the other, and that gives another aggregate."""
    monkeypatch.setattr("gc.collect", lambda: 0)  # Flower collects garbage at each choice, which takes minutes here
    apart = 0
    for seed in range(5):
        updates = rows(n, seed=seed)
        theirs = flower(Bulyan(num_malicious_nodes=f), updates)
        assert_same(aggregate("bulyan", updates, f=f, variant="one_shot").update, theirs)
        apart += not torch.allclose(aggregate("bulyan", updates, f=f).update, theirs, atol=1e-4)
    assert apart > 0


@pytest.mark.parametrize(("n", "f"), SIZES)
def test_krum_agrees(n: int, f: int) -> None:
    for seed in range(4):
        updates = rows(n, seed=seed)
        updates[seed] *= 5
        ours = aggregate("krum", updates, f=f).update
        assert torch.equal(ours, updates[krum_choice(updates, f)])
        assert_same(ours, flower(Krum(num_malicious_nodes=f), updates))
        assert_same(ours, old_flower(aggregate_krum, updates, f, 0))


@pytest.mark.parametrize("large", [1e3, 1e6, 1e12])
def test_krum_agrees_on_a_huge_row_at_any_index(large: float) -> None:
    for attacker in range(7):
        updates = rows(7, seed=attacker)
        updates[attacker] *= large
        ours = aggregate("krum", updates, f=1).update
        assert torch.equal(ours, updates[krum_choice(updates, 1)])
        assert_same(ours, old_flower(aggregate_krum, updates, 1, 0))


@pytest.mark.parametrize(("n", "f"), SIZES)
def test_multi_krum_agrees(n: int, f: int) -> None:
    for m in (1, 2, n - f):
        updates = rows(n, seed=n)
        ours = aggregate("multi_krum", updates, f=f, m=m).update
        assert_same(ours, flower(MultiKrum(num_malicious_nodes=f, num_nodes_to_select=m), updates))
        assert_same(ours, old_flower(aggregate_krum, updates, f, m))


@pytest.mark.parametrize(("n", "f"), SIZES)
def test_multi_krum_agrees_on_clients_of_many_sizes(n: int, f: int) -> None:
    sizes = torch.arange(1, n + 1)
    for m in (2, n - f):
        updates = rows(n, seed=n)
        ours = aggregate("multi_krum", updates, f=f, m=m, sizes=sizes, weighting="sizes").update
        theirs = flower(MultiKrum(num_malicious_nodes=f, num_nodes_to_select=m), updates, sizes.tolist())
        assert_same(ours, theirs)
        assert not torch.allclose(ours, aggregate("multi_krum", updates, f=f, m=m, sizes=sizes).update, atol=1e-4)


# ---- where they differ


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_fedmedian_and_fedavg_pass_on_what_is_not_finite_ours_set_it_aside(bad: float) -> None:
    # The median of 5 rows is defined without the row that is no vector of numbers; np.median makes NaN of all.
    updates = rows(6)
    updates[2] = bad
    others = torch.cat([updates[:2], updates[3:]])
    assert not flower(FedAvg(), updates).isfinite().any()
    assert flower(FedMedian(), updates).isfinite().all() == (bad == torch.inf)
    for rule in ("mean", "median", "trimmed_mean", "krum"):
        verdict = aggregate(rule, updates, f=1)
        assert verdict.update.isfinite().all()
        assert [(e.what, e.clients) for e in verdict.events] == [("set_aside", (2,))]
        assert torch.equal(verdict.update, aggregate(rule, others, f=0).update)


def test_fedtrimmedavg_truncates_beta_n_ours_takes_the_count() -> None:
    # Yin et al. trim βn values a side: 0.29 · 100 = 29. int(0.29 * 100) is 28, and one attacker's value stays in.
    updates = rows(100, seed=1)
    updates[:29] = 1e6
    theirs = flower(FedTrimmedAvg(beta=0.29), updates)
    assert (theirs > 1e4).all()
    assert_same(theirs, aggregate("trimmed_mean", updates, f=28).update)
    ours = aggregate("trimmed_mean", updates, f=29).update
    assert (ours.abs() < 2).all()
    assert_same(ours, updates.double().sort(dim=0).values[29:71].mean(dim=0))


def test_flower_s_krum_cancels_on_weights_ours_does_not() -> None:
    # Flower aggregates weights by ‖x‖² + ‖y‖² − 2x·y in float32: here ‖w‖ = 120, and updates are 0.03 % of that, so
    # that rounding is a hundred times what their scores differ by, whatever processor rounds.
    d, wrong = 60_000, 0
    for seed in range(5):
        base = 120 * rows(1, d, seed=100)[0] / d**0.5
        lengths = 0.036 * torch.linspace(0.97, 1.03, 10).unsqueeze(1)
        weights = base + lengths * rows(10, d, seed=seed) / d**0.5
        right = krum_choice(weights, 3)
        assert chosen(aggregate("krum", weights, f=3)) == right
        wrong += not torch.equal(flower(Krum(num_malicious_nodes=3), weights), weights[right])
        assert torch.equal(old_flower(aggregate_krum, weights, 3, 0), weights[right])  # it takes differences
    assert wrong >= 1


def test_a_claimed_sample_count_outvotes_in_flower_not_here() -> None:
    # McMahan et al. weight by the samples a client has; Flower asks the client, here the server knows.
    updates = rows(5, seed=3)
    updates[4] = 100
    theirs = flower(FedAvg(), updates, [10, 10, 10, 10, 10_000_000])
    assert (theirs > 99).all()
    sizes = torch.full((5,), 10.0, dtype=torch.float64)
    assert_same(aggregate("mean", updates, sizes=sizes, weighting="sizes").update, updates.double().mean(dim=0))


def test_an_impossible_f_is_clamped_by_flower_refused_here() -> None:
    # Blanchard et al. prove Krum for n > 2f + 2 only; Flower takes max(1, n − f − 2) neighbours without a word.
    updates = rows(5, seed=4)
    assert flower(Krum(num_malicious_nodes=4), updates).isfinite().all()
    with pytest.raises(ValueError, match=r"krum needs n > 2\*f \+ 2: n = 5, f = 4"):
        aggregate("krum", updates, f=4)
