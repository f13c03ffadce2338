"""What a defence does around its rule: screening, bounds, skipped rounds, credit, memory, and what it costs."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import making
import pytest
import torch
from torch import Tensor

from fedpoison import Verdict, aggregate, aggregator, preaggregator
from fedpoison.api import chain
from fedpoison.common.errors import AlgorithmError
from fedpoison.common.seeding import Stream
from fedpoison.contract.lookup import entries, find
from fedpoison.defences.defence import Defence
from fedpoison.defences.rows import screen
from fedpoison.defences.situation import Situation
from fedpoison.linalg import gram as gram_module
from fedpoison.types import (
    Base,
    ClientIds,
    Event,
    Gram,
    Layer,
    Mixing,
    Norms,
    Params,
    Sizes,
    SquaredDistances,
    State,
    Update,
    Updates,
    Weights,
)

D = 6
BUCKETS = {"name": "bucketing", "s": 2}


def rows(n: int, d: int = D, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return making.rows(n, d, seed, dtype)


def defend(defence: Defence, updates: Tensor | Sequence[Tensor], f: int = 0, **known: Any) -> Verdict:
    """A round in which client 10·i sent update i."""
    n = len(updates)
    situation: dict[str, Any] = {
        "client_ids": torch.arange(n) * 10,
        "sizes": torch.ones(n, dtype=torch.float64),
        "params": torch.zeros(D),
        "previous": torch.zeros(D),
        "stream": Stream(0, "defence", 1),
        "state": {},
        "layers": (Layer("weight", slice(0, D - 2), (2, (D - 2) // 2)), Layer("bias", slice(D - 2, D), (2,))),
    }
    return defence(updates, Situation(f=f, **{**situation, **known}))


@aggregator()
def told(f: int, n: int, client_ids: ClientIds, sizes: Sizes, norms: Norms) -> Weights:
    """Remember what a rule is told, weigh all the same."""
    TOLD.append((f, n, client_ids.tolist(), sizes.tolist(), norms.tolist()))
    return torch.full((n,), 1 / n, dtype=torch.float64)


TOLD: list[tuple[int, int, list[int], list[float], list[float]]] = []

# ---- screening


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("at", [(0, 0), (3, 5), (6, 2)])
def test_a_row_that_is_not_finite_is_set_aside(bad: float, at: tuple[int, int]) -> None:
    updates = rows(7)
    updates[at] = bad
    others = [i for i in range(7) if i != at[0]]
    verdict = defend(chain("mean"), updates, f=2)
    assert verdict.events == (Event("set_aside", (10 * at[0],), "not finite"),)
    assert not verdict.skipped
    torch.testing.assert_close(verdict.update, updates[others].mean(dim=0))
    assert verdict.weights is not None
    assert verdict.weights[at[0]] == 0
    torch.testing.assert_close(verdict.weights[others], torch.full((6,), 1 / 6, dtype=torch.float64))
    assert verdict.norms.shape == (7,)
    assert not verdict.norms[at[0]].isfinite()
    torch.testing.assert_close(verdict.norms[others], updates[others].double().norm(dim=1))


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(D + 1),
        torch.zeros(D - 1),
        torch.zeros(1, D),
        torch.tensor(1.0),
        torch.zeros(0),
        torch.zeros(D, dtype=torch.int64),
        torch.zeros(D, dtype=torch.bool),
        torch.zeros(D, dtype=torch.complex64),
    ],
    ids=lambda t: f"{tuple(t.shape)} {t.dtype}",
)
def test_what_is_not_a_vector_of_d_numbers_is_set_aside(wrong: Tensor) -> None:
    updates = list(rows(6))
    updates[4] = wrong
    verdict = defend(chain("krum"), updates, f=1)
    assert verdict.events == (Event("set_aside", (40,), f"not a vector of {D} numbers"),)
    assert verdict.norms[4].isnan()
    assert verdict.norms[[0, 1, 2, 3, 5]].isfinite().all()
    assert verdict.weights is not None
    assert verdict.weights[4] == 0
    assert torch.equal(verdict.update, updates[int(verdict.weights.argmax())])


def test_each_reason_is_one_event_with_all_its_clients() -> None:
    updates = list(rows(8))
    updates[1] = torch.zeros(D + 1)
    updates[2] = torch.full((D,), torch.nan)
    updates[5] = torch.zeros(D, dtype=torch.int32)
    updates[7] = torch.full((D,), torch.inf)
    kept, norms, events = screen(updates, torch.zeros(D), torch.arange(8) * 10)
    assert kept.tolist() == [0, 3, 4, 6]
    assert events == (
        Event("set_aside", (10, 50), f"not a vector of {D} numbers"),
        Event("set_aside", (20, 70), "not finite"),
    )
    assert norms.isfinite().nonzero().flatten().tolist() == [0, 3, 4, 6]
    assert defend(chain("mean"), updates).events == events


@pytest.mark.parametrize(
    "updates",
    [
        [torch.zeros(D + 1)] * 3,
        [torch.full((D,), torch.nan)] * 3,
        [torch.zeros(D, dtype=torch.int64)] * 3,
        torch.full((3, D), torch.inf),
        torch.zeros(3, D + 1),
        torch.zeros(3, D, dtype=torch.int64),
        torch.zeros(3, D, 1),
    ],
    ids=["longer", "nan", "integers", "inf matrix", "longer matrix", "integer matrix", "three dimensions"],
)
@pytest.mark.parametrize("rule", ["mean", "krum", "median", "geometric_median"])
def test_when_nothing_is_left_the_round_is_skipped(rule: str, updates: Tensor | Sequence[Tensor]) -> None:
    verdict = defend(chain(rule, ["nnm"]), updates, f=1, state={"memory": torch.ones(2)})
    assert verdict.skipped
    assert torch.equal(verdict.update, torch.zeros(D))
    assert verdict.events[-1] == Event("skipped", detail="no update is left")
    assert [event.clients for event in verdict.events] == [(0, 10, 20), ()]
    assert verdict.weights is None
    assert verdict.flagged is None
    assert len(verdict.norms) == 3
    assert torch.equal(verdict.state["memory"], torch.ones(2))


def test_an_ordinary_round_has_no_events_and_says_what_the_norms_were() -> None:
    updates = rows(5)
    for given in (updates, list(updates)):
        verdict = defend(chain("median"), given)
        assert verdict.events == ()
        assert not verdict.skipped
        torch.testing.assert_close(verdict.norms, updates.double().norm(dim=1))


def test_a_list_of_rows_is_aggregated_as_the_matrix_of_them() -> None:
    updates = rows(9)
    for rule in ("mean", "krum", "trimmed_mean", "geometric_median", "centered_clipping"):
        one, other = (defend(chain(rule, ["nnm"]), given, f=2) for given in (updates, list(updates)))
        assert torch.equal(one.update, other.update)


@pytest.mark.parametrize(("f", "screened", "left"), [(3, 0, 3), (3, 1, 2), (3, 3, 0), (1, 3, 0), (0, 2, 0)])
def test_who_was_set_aside_counts_against_f(f: int, screened: int, left: int) -> None:
    updates = rows(10)
    updates[2 : 2 + screened, 3] = torch.nan
    TOLD.clear()
    defend(chain(told), updates, f=f, sizes=torch.arange(10.0).double())
    kept = [i for i in range(10) if not 2 <= i < 2 + screened]
    norms = [updates[i].double().norm().item() for i in kept]
    assert len(TOLD) == 1
    assert TOLD[0] == (left, 10 - screened, [10 * i for i in kept], [float(i) for i in kept], pytest.approx(norms))


def test_one_client_does_not_choose_the_aggregate_s_precision() -> None:
    for sent in (torch.float64, torch.float16):
        updates = list(rows(7))
        updates[3] = updates[3].to(sent)
        for rule in ("mean", "krum", "median"):
            assert defend(chain(rule), updates, f=1).update.dtype == torch.float32


def test_a_number_that_is_none_in_the_model_s_precision_is_set_aside() -> None:
    updates = list(rows(7))
    updates[3] = torch.full((D,), 1e39, dtype=torch.float64)  # finite there, infinite in float32
    for rule in ("mean", "median"):
        verdict = defend(chain(rule), updates, f=1)
        assert [(event.what, event.clients) for event in verdict.events] == [("set_aside", (30,))]
        assert verdict.update.abs().max() < 10


@pytest.mark.parametrize("rule", ["mean", "krum", "median", "geometric_median", "centered_clipping"])
def test_updates_are_aggregated_in_their_own_precision(rule: str) -> None:
    for dtype in (torch.float32, torch.float64):
        known = {"params": torch.zeros(D, dtype=dtype), "previous": torch.zeros(D, dtype=dtype)}
        assert defend(chain(rule, ["nnm"]), rows(7, dtype=dtype), f=1, **known).update.dtype == dtype


# ---- the bound


def test_the_bound_is_checked_on_the_rows_that_bucketing_leaves() -> None:
    after = "krum needs n > 2*f + 2: n = 4, f = 1"
    assert chain("krum", [BUCKETS]).problems(8, 1) == [after]
    assert chain("krum", [BUCKETS]).problems(9, 1) == []
    assert chain("krum", ["nnm", BUCKETS, BUCKETS]).problems(20, 2) == ["krum needs n > 2*f + 2: n = 5, f = 2"]
    assert chain("krum", [BUCKETS, "nnm"]).problems(6, 2) == [
        "nnm needs n > 2*f: n = 3, f = 2",
        "krum needs n > 2*f + 2: n = 3, f = 2",
    ]
    assert chain("krum", ["nnm", BUCKETS]).problems(6, 3)[0] == "nnm needs n > 2*f: n = 6, f = 3"
    with pytest.raises(ValueError, match=f"^{re.escape(after)}$"):
        aggregate("krum", rows(8), f=1, pre=[BUCKETS])
    verdict = defend(chain("krum", [BUCKETS]), rows(8), f=1)
    assert verdict.skipped
    assert verdict.events == (Event("skipped", detail=after),)


def test_the_bound_is_checked_on_the_rows_that_screening_leaves() -> None:
    updates = rows(9)
    assert not defend(chain("krum"), updates, f=3).skipped
    updates[[1, 4], 0] = torch.nan
    assert not defend(chain("krum"), updates, f=3).skipped  # 7 rows of which at most 1 is malicious
    verdict = defend(chain("krum"), updates[:5], f=3)  # 3 rows of which 1 may be
    assert verdict.skipped
    assert verdict.events == (
        Event("set_aside", (10, 40), "not finite"),
        Event("skipped", detail="krum needs n > 2*f + 2: n = 3, f = 1"),
    )
    assert torch.equal(verdict.update, torch.zeros(D))
    assert verdict.norms.isfinite().tolist() == [True, False, True, True, False]


def test_bounds_are_checked_after_screening_and_bucketing_together() -> None:
    updates = rows(10)
    assert not defend(chain("krum", [BUCKETS]), updates, f=1).skipped
    assert defend(chain("krum", [BUCKETS]), updates[:8], f=1).skipped
    updates[0, 0] = torch.nan
    assert not defend(chain("krum", [BUCKETS]), updates, f=2).skipped  # 9 rows, 5 buckets, f = 1


def test_an_option_in_a_bound_is_quoted() -> None:
    @aggregator(needs="n > 2*f and k <= n")
    def pick(updates: Updates, f: int, *, k: int = 3) -> Update:
        """The k-th row."""
        return updates[k - 1]

    assert chain(pick).problems(5, 1) == []
    assert chain(pick, options={"k": 6}).problems(5, 1) == ["pick needs n > 2*f and k <= n: n = 5, f = 1, k = 6"]
    assert chain(pick).problems(2, 1) == ["pick needs n > 2*f and k <= n: n = 2, f = 1, k = 3"]


def test_an_f_that_is_no_number_of_clients_is_refused() -> None:
    assert chain("median").problems(5, -1) == ["f must be at least 0, it is -1"]
    assert chain("median").problems(5, 6) == ["f = 6 is more than the n = 5 clients"]


# ---- an f of a step's own


@aggregator()
def as_its_base(updates: Updates, base: Base, f: int) -> Update:
    """Whatever the base makes of all."""
    return base(updates, f)


def test_a_step_s_own_f_stands_in_place_of_what_the_others_are_told() -> None:
    updates, nnm = rows(10), {"name": "nnm", "f": 1}
    own = defend(chain("trimmed_mean", options={"f": 2}), updates, f=4)
    assert torch.equal(own.update, defend(chain("trimmed_mean"), updates, f=2).update)
    one = defend(chain("trimmed_mean", [nnm], {"f": 2}), updates, f=4)
    assert torch.equal(one.update, defend(chain("trimmed_mean", [nnm]), updates, f=2).update)
    assert torch.equal(one.update, defend(chain("trimmed_mean", ["nnm"], {"f": 2}), updates, f=1).update)
    assert not torch.equal(one.update, defend(chain("trimmed_mean", ["nnm"]), updates, f=2).update)
    inner = defend(chain(as_its_base, base={"name": "trimmed_mean", "f": 2}), updates, f=4)
    assert torch.equal(inner.update, own.update)


def test_who_was_set_aside_counts_against_a_step_s_own_f_too() -> None:
    updates, base = rows(10), {"name": "trimmed_mean", "f": 2}
    updates[3] = torch.nan
    for defence in (chain("trimmed_mean", options={"f": 2}), chain(as_its_base, base=base)):
        assert torch.equal(defend(defence, updates).update, defend(chain("trimmed_mean"), updates, f=2).update)
        assert not torch.equal(defend(defence, updates).update, defend(chain("trimmed_mean"), updates, f=3).update)


def test_bounds_hold_for_a_step_s_own_f() -> None:
    assert chain("krum", options={"f": 4}).problems(10, 0) == ["krum needs n > 2*f + 2: n = 10, f = 4"]
    assert chain("krum", options={"f": 3}).problems(10, 5) == []
    assert chain("krum", [{"name": "nnm", "f": 5}]).problems(10, 1) == ["nnm needs n > 2*f: n = 10, f = 5"]
    assert chain(told, options={"f": 11}).problems(10, 1) == ["f = 11 is more than the n = 10 clients"]
    base = {"name": "trimmed_mean", "f": 5}
    assert chain(as_its_base, base=base).problems(10, 1) == [
        "in as_its_base: trimmed_mean needs n > 2*f: n = 10, f = 5"
    ]
    assert chain("trimmed_mean", ["nnm"], {"f": 2}).robustness(10, 1) is None
    assert chain("trimmed_mean", options={"f": 2}).robustness(10, 2) == chain("trimmed_mean").robustness(10, 2)


@pytest.mark.parametrize("f", [-1, True, 1.0, "true", None])
def test_an_own_f_is_a_whole_number_of_a_step_that_asks_for_it(f: Any) -> None:
    with pytest.raises(ValueError, match=r"trimmed_mean\.f = .*: a whole number from 0 to 10000000 is needed"):
        chain("trimmed_mean", options={"f": f})
    with pytest.raises(ValueError, match="median has no option 'f'"):
        chain("median", options={"f": 1})


def test_as_many_updates_as_clients_are_needed() -> None:
    with pytest.raises(ValueError, match="there are 3 updates from 4 clients"):
        defend(chain("mean"), rows(3), client_ids=torch.arange(4), sizes=torch.ones(4, dtype=torch.float64))


# ---- skipped rounds


def test_an_aggregate_that_overflows_skips_the_round() -> None:
    @aggregator()
    def overflowing(updates: Updates) -> Update:
        """Ten times the first row."""
        return updates[0] * 10

    updates = torch.full((3, D), 1e38)
    assert defend(chain("mean"), updates).update.isfinite().all()
    verdict = defend(chain(overflowing), updates, state={"memory": torch.ones(1)})
    assert verdict.skipped
    assert verdict.events == (Event("skipped", detail="the aggregate is not finite"),)
    assert torch.equal(verdict.update, torch.zeros(D))
    torch.testing.assert_close(verdict.norms, updates.double().norm(dim=1))
    assert torch.equal(verdict.state["memory"], torch.ones(1))


def test_a_rule_that_gives_nan_skips_the_round_and_its_memory_is_not_kept() -> None:
    @aggregator()
    def spoiled(updates: Updates, state: State) -> tuple[Update, State]:
        """NaN, and a memory of it."""
        return updates[0] * torch.nan, {"memory": torch.full((1,), torch.nan)}

    verdict = defend(chain(spoiled), rows(3), state={"memory": torch.ones(1)})
    assert verdict.skipped
    assert torch.equal(verdict.state["memory"], torch.ones(1))


# ---- credit


def test_weights_and_flags_are_spread_back_to_all_clients() -> None:
    updates = list(rows(9))
    updates[2] = torch.zeros(D + 3)
    updates[6] = torch.full((D,), torch.nan)
    updates[4] = torch.full((D,), 1e6)
    verdict = defend(chain("multi_krum"), updates, f=3)  # seven rows, f = 1: six are kept
    assert verdict.weights is not None
    assert verdict.weights.tolist() == [0 if i in (2, 4, 6) else 1 / 6 for i in range(9)]
    assert verdict.flagged is not None
    assert verdict.flagged.tolist() == [i in (2, 4, 6) for i in range(9)]


def test_only_rules_that_decide_about_clients_flag() -> None:
    updates = rows(9)
    for name in entries("aggregator"):
        entry = find("aggregator", name)
        base = "median" if "base" in entry.asks else None
        verdict = defend(chain(name, base=base), updates, f=1, probe=lambda update: (float(update.norm()), 0.5))
        assert (verdict.flagged is not None) == bool(entry.decides), name
        assert entry.returns == "weights" or verdict.weights is None, name


def test_flags_end_where_clients_are_merged() -> None:
    updates = rows(16)
    clipping = {"name": "clipping", "threshold": 1.0}
    assert defend(chain("multi_krum", [clipping]), updates, f=1).flagged is not None
    for pre in ([BUCKETS], ["nnm"], ["nnm", BUCKETS], [BUCKETS, "nnm"]):
        verdict = defend(chain("multi_krum", pre), updates, f=1)
        assert verdict.flagged is None
        assert verdict.weights is not None
        assert verdict.weights.sum().item() == pytest.approx(1)


def test_clients_are_credited_through_the_chain() -> None:
    updates = rows(16, dtype=torch.float64)
    known = {"params": torch.zeros(D, dtype=torch.float64), "previous": torch.zeros(D, dtype=torch.float64)}
    for pre in ([], ["nnm"], [BUCKETS], ["nnm", BUCKETS], [{"name": "clipping", "threshold": 1.5}, "nnm"]):
        for rule in ("mean", "krum", "multi_krum", "geometric_median"):
            verdict = defend(chain(rule, pre), updates, f=1, **known)
            assert verdict.weights is not None
            assert verdict.weights.shape == (16,)
            torch.testing.assert_close(verdict.weights @ updates, verdict.update)


def test_centered_clipping_credits_clients_with_what_they_moved() -> None:
    updates, previous = rows(5), torch.full((D,), 3.0)
    verdict = defend(chain("centered_clipping", options={"tau": 1.0}), updates, previous=previous)
    assert verdict.weights is not None
    steps = 1 / (updates - previous).double().norm(dim=1) / 5
    torch.testing.assert_close(verdict.weights, steps, rtol=1e-5, atol=0)


# ---- what a rule is supplied


def test_a_rule_gets_what_it_asks_for() -> None:
    seen: dict[str, Any] = {}

    @aggregator(references=("previous", "origin"))
    def curious(
        updates: Updates,
        gram: Gram,
        squared_distances: SquaredDistances,
        norms: Norms,
        sizes: Sizes,
        client_ids: ClientIds,
        previous: Update,
        params: Params,
        n: int,
        f: int,
        rng: torch.Generator,
        *,
        share: float = 0.5,
    ) -> Weights:
        """Remember all that a rule may ask for."""
        seen.update(locals())
        return torch.eye(n + 2, dtype=torch.float64)[1]

    updates, previous, params = rows(5), rows(1, seed=1)[0], rows(1, seed=2)[0]
    sizes = torch.tensor([5.0, 4, 3, 2, 1], dtype=torch.float64)
    stream = Stream(3, "defence", 4)
    verdict = defend(
        chain(curious, options={"share": 0.25}),
        updates,
        2,
        previous=previous,
        params=params,
        sizes=sizes,
        stream=stream,
    )
    assert torch.equal(verdict.update, updates[1])
    assert (seen["n"], seen["f"], seen["share"]) == (5, 2, 0.25)
    assert torch.equal(seen["updates"], updates)
    assert torch.equal(seen["previous"], previous)
    assert torch.equal(seen["params"], params)
    assert torch.equal(seen["sizes"], sizes)
    assert seen["client_ids"].tolist() == [0, 10, 20, 30, 40]
    assert seen["rng"].initial_seed() == stream.torch().initial_seed()
    torch.testing.assert_close(seen["norms"], updates.double().norm(dim=1))
    everything = torch.cat([updates, previous.unsqueeze(0), torch.zeros(1, D)]).double()  # in the order asked for
    expected = (everything.unsqueeze(1) - everything).square().sum(dim=2)
    torch.testing.assert_close(seen["squared_distances"], expected, rtol=1e-5, atol=0)
    diagonal = seen["gram"].diagonal()
    torch.testing.assert_close(diagonal + diagonal.unsqueeze(1) - 2 * seen["gram"], expected, rtol=1e-5, atol=1e-5)


def test_references_can_be_weighted() -> None:
    @aggregator(references=("origin", "previous"))
    def halfway(n: int) -> Weights:
        """Half of the first row, a quarter of the previous aggregate, the rest on zero."""
        return torch.tensor([0.5] + [0] * (n - 1) + [0.25, 0.25], dtype=torch.float64)

    updates, previous = rows(6), rows(1, seed=1)[0]
    verdict = defend(chain(halfway), updates, previous=previous)
    torch.testing.assert_close(verdict.update, 0.5 * updates[0] + 0.25 * previous)
    assert verdict.weights is not None
    assert verdict.weights.tolist() == [0.5, 0, 0, 0, 0, 0]
    nnm = defend(chain(halfway, ["nnm", {"name": "clipping", "threshold": 0.1}]), updates, previous=previous)
    mean = updates.mean(dim=0)
    torch.testing.assert_close(nnm.update, 0.5 * mean * 0.1 / mean.norm() + 0.25 * previous)


def test_norms_of_mixed_rows_are_their_own() -> None:
    updates = rows(7)
    TOLD.clear()
    defend(chain(told, ["nnm", {"name": "clipping", "threshold": 0.5}]), updates)
    assert TOLD[0][4] == pytest.approx([min(0.5, updates.mean(dim=0).norm().item())] * 7, rel=1e-5)


def test_a_rule_that_asks_who_sent_a_row_is_refused_after_bucketing() -> None:
    sentence = "told asks who sent each row, and bucketing merges clients"
    assert chain(told, ["nnm"]).problems(6, 1) == []
    assert chain(told, ["nnm", BUCKETS]).problems(6, 1) == [sentence]
    with pytest.raises(ValueError, match=sentence):
        aggregate(told, rows(6), pre=[BUCKETS])

    @preaggregator()
    def by_sender(n: int, client_ids: ClientIds) -> Mixing:
        """Ask for the senders, change nothing."""
        return torch.eye(n, dtype=torch.float64)

    assert chain("mean", [by_sender, BUCKETS]).problems(6, 1) == []
    assert chain("mean", [BUCKETS, by_sender]).problems(6, 1) == [sentence.replace("told", "by_sender")]


def test_what_a_rule_writes_into_its_statistics_reaches_nobody_else() -> None:
    @preaggregator(references=("origin",))
    def vandal(squared_distances: SquaredDistances, gram: Gram, norms: Norms, sizes: Sizes, n: int) -> Mixing:
        """Write into everything, change nothing."""
        for statistic in (squared_distances, gram, norms, sizes):
            statistic.zero_()
        return torch.eye(n, dtype=torch.float64)

    updates = rows(9)
    sizes = torch.arange(1.0, 10).double()
    for rule in ("krum", "geometric_median", told):
        TOLD.clear()
        clean, dirty = (defend(chain(rule, pre), updates, f=1, sizes=sizes) for pre in ([], [vandal]))
        torch.testing.assert_close(clean.update, dirty.update)
        assert sizes.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
        assert not TOLD or TOLD[0] == (*TOLD[1][:3], pytest.approx(TOLD[1][3]), pytest.approx(TOLD[1][4]))


# ---- memory


@aggregator()
def moving_average(updates: Updates, state: State, *, keep: float = 0.5) -> tuple[Update, State]:
    """The mean, averaged over the rounds."""
    before = state.get("average", torch.zeros_like(updates[0]))
    rounds = state.get("rounds", torch.zeros(1))
    average = keep * before + (1 - keep) * updates.mean(dim=0)
    if "average" in state:
        state["average"].fill_(torch.nan)  # what a rule does to its argument must not matter
    return average, {"average": average, "rounds": rounds + 1}


@aggregator(references=("previous",))
def trusting(n: int, state: State) -> tuple[Weights, State]:
    """All weight on one row, the next one each time."""
    turn = int(state.get("turn", torch.zeros(1)))
    return torch.eye(n + 1, dtype=torch.float64)[turn % n], {"turn": torch.tensor([turn + 1])}


def test_a_rule_with_memory_gets_and_returns_its_state() -> None:
    updates, state, average = rows(4), {}, torch.zeros(D)
    for number in range(1, 4):
        kept = {name: value.clone() for name, value in state.items()}
        verdict = aggregate(moving_average, updates * number, state=state)
        average = 0.5 * average + 0.5 * (updates * number).mean(dim=0)
        torch.testing.assert_close(verdict.update, average)
        assert verdict.state["rounds"].tolist() == [number]
        assert all(torch.equal(state[name], kept[name]) for name in kept)  # the same round can be played again
        state = dict(verdict.state)
    torch.testing.assert_close(aggregate(moving_average, updates, state=state, keep=0.0).update, updates.mean(dim=0))


def test_a_weighting_rule_with_memory() -> None:
    updates, state = rows(3), {}
    for turn in (0, 1, 2, 0):
        verdict = aggregate(trusting, updates, state=state)
        assert torch.equal(verdict.update, updates[turn])
        assert verdict.weights is not None
        assert verdict.weights.argmax() == turn
        state = dict(verdict.state)


def test_the_memory_outlives_rules_that_have_none_and_skipped_rounds() -> None:
    state = {"memory": torch.arange(3.0)}
    for rule in ("mean", "median", "krum"):
        assert torch.equal(aggregate(rule, rows(5), state=state).state["memory"], state["memory"])
    skipped = defend(chain(moving_average), torch.full((2, D), torch.nan), state=state)
    assert skipped.skipped
    assert torch.equal(skipped.state["memory"], state["memory"])


@preaggregator(references=("origin",))
def fading(n: int, state: State) -> tuple[Mixing, State]:
    """Count less in every round: by half, by a third, …"""
    rounds = state.get("rounds", torch.zeros(())) + 1
    return torch.eye(n) / (1 + rounds), {"rounds": rounds}


@aggregator()
def growing(updates: Updates, state: State) -> tuple[Update, State]:
    """The mean, times how often it was called."""
    calls = state.get("calls", torch.zeros(())) + 1
    return updates.mean(dim=0) * calls, {"calls": calls}


@aggregator()
def twice(updates: Updates, f: int, base: Base, state: State) -> tuple[Update, State]:
    """The base rule on all rows and then on all but the last, added; and how often it was done."""
    times = state.get("times", torch.zeros(())) + 1
    return base(updates, f) + base(updates[:-1], f), {"times": times}


def test_every_step_of_a_chain_has_a_memory_of_its_own() -> None:
    """Two pre-aggregators of one name, a rule and its base, over three rounds and through a skipped one."""
    matrix, state = rows(4), dict[str, Tensor]()
    for number in (1, 2, 3):
        verdict = aggregate(twice, matrix, pre=[fading, "nnm", fading], base=growing, state=state)
        state = dict(verdict.state)
        mixed = matrix / (1 + number) ** 2
        nearest = mixed.mean(dim=0)  # with f = 0 nnm makes it of every row
        torch.testing.assert_close(verdict.update, nearest * (2 * number - 1) + nearest * 2 * number)
        assert state.keys() == {"times", "pre0/rounds", "pre2/rounds", "base/calls"}
        assert float(state["base/calls"]) == 2 * number
        lost = aggregate(
            twice, torch.full((4, D), torch.nan), pre=[fading], base=growing, params=rows(1)[0], state=state
        )
        assert lost.skipped
        assert lost.state.keys() == state.keys()


@pytest.mark.parametrize("name", ["base/x", "pre0/x"])
def test_a_rule_s_memory_has_names_that_no_other_step_s_has(name: str) -> None:
    @aggregator()
    def greedy(updates: Updates, state: State) -> tuple[Update, State]:
        """Keep what is another's."""
        return updates.mean(dim=0), {name: updates[0].clone()}

    with pytest.raises(AlgorithmError, match=re.escape(f"greedy keeps state['{name}']: what stands before a /")):
        aggregate(greedy, rows(3))


def test_the_returned_update_is_not_the_memory() -> None:
    verdict = aggregate(moving_average, rows(4))
    verdict.update.add_(1)
    assert not torch.equal(verdict.update, verdict.state["average"])


# ---- signatures are contracts, checked when the file is imported


def no_docstring(updates: Updates) -> Update:
    return updates[0]


def unknown_word(updates: Updates, budget: int) -> Update:
    """Ask for what nothing supplies."""
    return updates[budget]


def an_attack_s_word(updates: Updates, benign: Updates) -> Update:
    """Ask for what only attacks are given."""
    return benign[0]


def untyped_option(updates: Updates, *, share=0.5) -> Update:  # type: ignore[no-untyped-def]
    """An option of no type."""
    return updates[0] * share


def no_return(updates: Updates):  # type: ignore[no-untyped-def]
    """Say nothing of what comes back."""
    return updates[0]


def wrong_return(updates: Updates) -> Tensor:
    """Return some tensor."""
    return updates[0]


def a_matrix(updates: Updates) -> Updates:
    """Return as many rows as came."""
    return updates


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (unknown_word, "aggregator unknown_word: nothing supplies budget"),
        (an_attack_s_word, "aggregator an_attack_s_word: nothing supplies benign"),
        (untyped_option, "aggregator untyped_option: the options share need a type annotation"),
        (no_return, "aggregator no_return must say by its return annotation that it returns Weights, Noisy, Update"),
        (wrong_return, "aggregator wrong_return must say by its return annotation"),
        (a_matrix, "aggregator a_matrix must say by its return annotation"),
        (no_docstring, "aggregator no_docstring needs a docstring"),
    ],
)
def test_a_rule_with_a_wrong_signature_is_refused(function: Callable[..., Any], complaint: str) -> None:
    with pytest.raises(TypeError, match=re.escape(complaint)):
        aggregator()(function)
    assert function.__name__ not in entries("aggregator")


def test_an_unknown_word_s_refusal_lists_the_words() -> None:
    with pytest.raises(TypeError, match="aggregator may ask for") as refused:
        aggregator()(unknown_word)
    for word in ("updates", "gram", "squared_distances", "previous", "rng", "state"):
        assert word in str(refused.value)


def test_a_preaggregator_knows_its_words() -> None:
    def layered(updates: Updates, layers: Any) -> Mixing:
        """Ask for what only rules are given."""
        return torch.eye(len(updates))

    with pytest.raises(TypeError, match="preaggregator layered: nothing supplies layers"):
        preaggregator()(layered)


def test_unknown_references_are_refused() -> None:
    for decorator in (aggregator, preaggregator):
        with pytest.raises(TypeError, match="unknown references"):
            decorator(references=("median",))


def test_a_rule_stays_itself_and_does_not_enter_the_list() -> None:
    assert moving_average(rows(2), {})[1]["rounds"].tolist() == [1]
    assert "moving_average" not in entries("aggregator")
    with pytest.raises(ValueError, match="there is no aggregator 'moving_average'"):
        chain("moving_average")
    with pytest.raises(ValueError, match="did you mean 'krum'"):
        chain("krun")
    with pytest.raises(ValueError, match="preaggregator decorator"):
        chain("mean", [moving_average])


def test_options_are_checked() -> None:
    for options, complaint in (
        ({"smothing": 1e-3}, "geometric_median has no option 'smothing'; did you mean 'smoothing'?"),
        ({"iterations": 2.5}, "geometric_median.iterations = 2.5"),
        ({"smoothing": "small"}, "geometric_median.smoothing = 'small'"),
    ):
        with pytest.raises(ValueError, match=re.escape(complaint)):
            chain("geometric_median", options=options)
    with pytest.raises(ValueError, match=re.escape("clipping has no option 'tau'")):
        chain("mean", [{"name": "clipping", "tau": 1.0}])


# ---- what a chain costs


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of every Gram product that is made."""
    made: list[int] = []
    original = gram_module.inner_products

    def counted(matrix: Tensor, *arguments: Any) -> Tensor:
        made.append(len(matrix))
        return original(matrix, *arguments)

    monkeypatch.setattr(gram_module, "inner_products", counted)
    return made


CLIP: Mapping[str, Any] = {"name": "clipping", "threshold": 2.0}


@pytest.mark.parametrize("pre", [(), (CLIP,), (BUCKETS,), (BUCKETS, BUCKETS)], ids=str)
@pytest.mark.parametrize("rule", ["mean", "median", "trimmed_mean"])
def test_a_chain_that_needs_no_distances_makes_no_gram_product(rule: str, pre: Any, products: list[int]) -> None:
    defend(chain(rule, pre), rows(40), f=1)
    assert products == []


@pytest.mark.parametrize(
    "pre",
    [(), (CLIP,), ("nnm",), (BUCKETS,), (CLIP, "nnm"), ("nnm", CLIP, BUCKETS), (CLIP, BUCKETS, "nnm", CLIP, "nnm")],
    ids=str,
)
@pytest.mark.parametrize("rule", ["krum", "multi_krum", "geometric_median", "centered_clipping"])
def test_a_chain_of_any_length_makes_one_gram_product(rule: str, pre: Any, products: list[int]) -> None:
    defend(chain(rule, pre), rows(40, 50), f=1, params=torch.zeros(50), previous=torch.ones(50))
    assert len(products) == 1


@pytest.mark.parametrize("pre", [("nnm",), (CLIP, "nnm", "nnm"), (BUCKETS, CLIP)], ids=str)
@pytest.mark.parametrize("rule", ["mean", "median", "trimmed_mean"])
def test_a_step_that_needs_distances_makes_one_for_all(rule: str, pre: Any, products: list[int]) -> None:
    defend(chain(rule, pre), rows(40, 50), f=1, params=torch.zeros(50), previous=torch.zeros(50))
    assert len(products) == 1


# how robust a chain is known to be


def test_a_chain_is_as_robust_as_its_steps_say_from_the_rule_back() -> None:
    def of(rule: str, *pre: Any, n: int = 10, f: int = 2) -> float | None:
        return chain(rule, pre).robustness(n, f)

    assert of("trimmed_mean") == 2 / 6
    assert of("trimmed_mean", "nnm") == 8 * 2 / 8 * (2 / 6 + 1)
    assert of("trimmed_mean", "arc") == 2 / 6 + 4 / 6
    assert of("trimmed_mean", "arc", "nnm") == 8 * 2 / 8 * (2 / 6 + 1) + 4 / 6
    assert of("trimmed_mean", "nnm", "arc") == 8 * 2 / 8 * (2 / 6 + 4 / 6 + 1)
    assert of("trimmed_mean", n=5, f=2) == 2
    assert of("trimmed_mean", n=4, f=2) is None
    for unknown in (("mean",), ("mean", "nnm"), ("median", BUCKETS), ("median", "nnm", {"name": "clipping"})):
        assert of(*unknown) is None
    assert chain("geometric_median", options={"iterations": 3}).robustness(10, 2) is None
