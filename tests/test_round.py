"""One round: what is played, what is written down, and what a hostile update can and cannot do to it."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import Tensor

from fedpoison import Verdict, aggregate, aggregator, update_attack
from fedpoison.clients.cleaning import Cleaning
from fedpoison.clients.harvest import Cohort, Harvest
from fedpoison.clients.training import Plan, Task
from fedpoison.common import parallel
from fedpoison.config.config import parse
from fedpoison.contract.vocabulary import Record
from fedpoison.defences.defence import Defence
from fedpoison.measures.metrics import DETECTION
from fedpoison.measures.rounds import detection, rejection_skew, spread_of, summary_of_norms
from fedpoison.round import State, World, play
from fedpoison.runs.world import build
from fedpoison.types import State as Memory
from fedpoison.types import Update, Updates

NAN = float("nan")


@pytest.fixture(autouse=True)
def _two_workers() -> Iterator[None]:
    """As in a run: two threads inside one small torch operation would only wait for each other."""
    with parallel.using(2):
        yield


def world_of(attack: Callable[..., Any] | None = None, **changes: Any) -> tuple[World, State]:
    """Eight clients with digits; `attack` is a decorated function in place of the configured update attack."""
    base = {
        "name": "t",
        "rounds": 6,
        "data": {"name": "digits"},
        "model": "logistic",
        "clients": {"count": 8, "local": {"lr": 0.5}},
        "threat": {"malicious": 3, "update": "model_replacement"},
    }
    world, state = build(parse({**base, **changes}))
    if attack is not None:
        world = replace(world, threats=(replace(world.threats[0], update=(attack.entry, {})),))
    return world, state


def sending(make: Callable[[int, int], Any]) -> Callable[..., Any]:
    """An attack that sends make(n_malicious, d)."""

    @update_attack()
    def sends(n_malicious, params):  # type: ignore[no-untyped-def]
        """Send what was given."""
        return make(n_malicious, len(params))

    return sends


def honest_updates(world: World, state: State, record: Record) -> Tensor:
    clients = [client for client in record["cohort"] if client not in record["malicious"]]
    plan = Plan(world.seed, state.round + 1, tuple(Task(client) for client in clients))
    return world.engine.train(state.params, plan).updates


def events(record: Record, what: str) -> list[dict[str, Any]]:
    return [event for event in record["events"] if event["what"] == what]


def as_json(record: Record) -> str:
    """The record as it is written; an error if it has a NaN."""
    return json.dumps(record, allow_nan=False)


def timeless(record: Record) -> Record:
    return {key: value for key, value in record.items() if key != "seconds"}


# The record

KEYS = {
    "round",
    "accuracy",
    "loss",
    "per_class_recall",
    "asr",
    "asr_untriggered",
    "target_success",
    "cohort",
    "malicious",
    "over_budget",
    "weights",
    "flagged",
    "detection",
    "sanitised",
    "distance_to_honest_mean",
    "kappa",
    "update_norms",
    "events",
    "seconds",
}


@pytest.mark.parametrize(
    "threat",
    [
        {"malicious": 0},
        {"malicious": 3, "update": "model_replacement", "data": "badnets"},
        {"malicious": 3, "data": "label_flip"},
        {"malicious": 3, "update": "nan"},
        {"malicious": 8, "update": "nan"},
    ],
)
@pytest.mark.parametrize("rule", ["mean", "multi_krum", "median"])
def test_a_record_has_all_its_keys_and_is_json(threat: dict[str, Any], rule: str) -> None:
    world, state = world_of(threat=threat, defence={"f": 2, "aggregator": rule})
    _, record = play(state, world)
    assert record.keys() >= KEYS
    assert record["seconds"].keys() == {"train", "attack", "defence", "evaluate"}
    assert all(seconds >= 0 for seconds in record["seconds"].values())
    assert record["update_norms"].keys() == {"honest", "malicious"}
    assert json.loads(as_json(record)) == record
    assert len(record["per_class_recall"]) == 10
    assert all(event.keys() == {"what", "clients", "detail"} for event in record["events"])


def test_a_record_says_what_the_attack_aims_at_and_only_that() -> None:
    measured = {
        attack: {key for key in ("asr", "asr_untriggered", "target_success") if record[key] is not None}
        for attack in (None, "badnets", "label_flip")
        for record in [play(*reversed(world_of(threat={"malicious": 2, "data": attack} if attack else {})))[1]]
    }
    assert measured == {None: set(), "badnets": {"asr", "asr_untriggered"}, "label_flip": {"target_success"}}


def test_the_model_is_evaluated_when_it_is_due_and_in_the_last_round() -> None:
    world, state = world_of(evaluate_every=4)
    measured = []
    for number in range(1, 7):
        state, record = play(state, world)
        assert record["round"] == state.round == number
        measured.append(record["accuracy"] is not None)
        assert record.keys() >= KEYS
        assert (record["loss"] is None) == (record["per_class_recall"] is None) == (record["accuracy"] is None)
    assert measured == [False, False, False, True, False, True]


# The round is a function


@aggregator()
def remembers(updates: Updates, rng: torch.Generator, state: Memory) -> tuple[Update, Memory]:
    """Average with noise, and remember."""
    noise = 1e-3 * torch.randn(updates.shape[1], generator=rng)
    return updates.mean(0) + noise, {"sum": state.get("sum", torch.zeros(())) + updates.sum()}


@update_attack()
def remembers_too(benign, n_malicious, previous, state, rng):  # type: ignore[no-untyped-def]
    """Send noise about the mean, and remember."""
    drawn = benign.mean(0) - previous + torch.randn(n_malicious, len(previous), generator=rng)
    return drawn, {"rounds": state.get("rounds", torch.zeros(())) + 1}


def clone(state: State) -> State:
    memories = {owner: {k: v.clone() for k, v in memory.items()} for owner, memory in state.memories.items()}
    return replace(state, params=state.params.clone(), previous=state.previous.clone(), memories=memories)


def equal(a: State, b: State) -> bool:
    tensors = torch.equal(a.params, b.params) and torch.equal(a.previous, b.previous)
    memories = all(
        x.keys() == y.keys() and all(torch.equal(x[key], y[key]) for key in x)
        for x, y in ((a.memory_of(owner), b.memory_of(owner)) for owner in {*a.memories, *b.memories})
    )
    return a.round == b.round and tensors and memories


@pytest.mark.parametrize("engine", ["sequential", "batched"])
@pytest.mark.parametrize("data", [None, "badnets"])
def test_playing_a_round_twice_gives_the_same_and_changes_nothing(engine: str, data: str | None) -> None:
    threat = {"malicious": 3, "update": "model_replacement", **({"data": data} if data else {})}
    world, state = world_of(remembers_too, threat=threat, engine=engine, clients={"count": 8, "per_round": 6})
    world = replace(world, defence=Defence((), (remembers.entry, {})))
    images, labels = world.federation.dataset.train_images.clone(), world.federation.dataset.train_labels.clone()
    for _ in range(3):
        before = clone(state)
        first, record = play(state, world)
        kept = clone(first)
        torch.manual_seed(int(first.params.sum() * 1e3) % 1000)
        second, again = play(state, world)
        assert timeless(record) == timeless(again)
        assert equal(first, second)
        assert equal(first, kept)
        assert equal(state, before)
        assert not torch.equal(first.params, state.params)
        state = first
    assert torch.equal(world.federation.dataset.train_images, images)
    assert torch.equal(world.federation.dataset.train_labels, labels)
    assert state.memory_of("defence").keys() == {"sum"}
    assert state.memory_of("attack") == {"rounds": torch.tensor(3.0)}


def test_an_attacks_memory_waits_while_the_attack_is_off() -> None:
    threat = {"malicious": 3, "update": "model_replacement", "schedule": {"every": 2}}
    world, state = world_of(remembers_too, threat=threat)
    counted = []
    for _ in range(4):
        state, _ = play(state, world)
        counted.append(float(state.memory_of("attack")["rounds"]))
    assert counted == [1, 1, 2, 2]


# The step


@pytest.mark.parametrize("server_lr", [0.1, 1.0, 3.0])
def test_the_server_adds_the_aggregate_times_its_learning_rate(server_lr: float) -> None:
    world, state = world_of(server={"lr": server_lr}, threat={"malicious": 0})
    after, record = play(state, world)
    mean = honest_updates(world, state, record).double().mean(0)
    torch.testing.assert_close(after.previous.double(), mean, atol=1e-8, rtol=1e-6)
    assert torch.equal(after.params, state.params + server_lr * after.previous)
    assert record["weights"] == [1 / 8] * 8


def harvest(rows: Tensor, bad: Tensor, train: bool = False, twins: Tensor | None = None) -> Harvest:
    """Of clients 10, 11, …; the rows are the honest clients' unless the attackers train too; every third is late."""
    clients = 10 + torch.arange(len(bad))
    return Harvest(
        cohort=Cohort(clients=clients, group=bad.long() - 1, late=clients % 3 == 0),
        trained=~bad | train,
        updates=rows,
        twinned=bad & (twins is not None),
        twins=rows[:0] if twins is None else twins,
        root=None,
        momentum={},
        drills={},
        cleaning=Cleaning((), {}, (), None),
        lost=(),
        events=(),
    )


def test_rows_stand_in_the_cohorts_order() -> None:
    honest, malicious = torch.arange(6.0).view(3, 2), -torch.arange(4.0).view(2, 2)
    bad = torch.tensor([True, False, False, True, False])
    rows = harvest(honest, bad).attacked({0: malicious})
    assert isinstance(rows, Tensor)
    assert torch.equal(rows, torch.stack([malicious[0], honest[0], honest[1], malicious[1], honest[2]]))
    listed = harvest(honest, bad).attacked({0: torch.zeros(2, 9)})
    assert [row.shape for row in listed] == [(9,), (2,), (2,), (9,), (2,)]
    assert torch.equal(listed[2], honest[1])


@pytest.mark.parametrize("train", [False, True])
def test_whom_the_engine_loses_is_gone_from_all_of_the_harvest(train: bool) -> None:
    """Clients 10, 11, …; the attackers are 10 and 13, and 11 and 13 are lost."""
    bad = torch.tensor([True, False, False, True, False])
    rows = torch.arange(10.0).view(5, 2)
    made = harvest(rows if train else rows[~bad], bad, train, twins=-rows[bad])
    left = made.without((11, 13))
    assert made.without(()) is made
    assert left.cohort.clients.tolist() == [10, 12, 14]
    assert left.cohort.malicious.tolist() == [True, False, False]
    assert left.cohort.late.tolist() == [False, True, False]
    assert torch.equal(left.honest, rows[[2, 4]])
    assert torch.equal(left.own(0), rows[:1] if train else rows[:0])
    assert torch.equal(left.behaved(0), -rows[:1])
    assert torch.equal(
        torch.stack([*left.attacked({0: torch.ones(1, 2)})]), torch.stack([torch.ones(2), rows[2], rows[4]])
    )


def test_cohort_weights_and_flags_tell_of_the_same_clients() -> None:
    far = sending(lambda k, d: 1e3 * torch.arange(1.0, k + 1).unsqueeze(1).repeat(1, d))
    defence = {"f": 3, "aggregator": "multi_krum"}
    world, state = world_of(far, defence=defence, clients={"count": 20, "per_round": 12}, threat=THREAT)
    seen = 0
    for _ in range(4):
        after, record = play(state, world)
        cohort, weights = record["cohort"], record["weights"]
        assert cohort == sorted(set(cohort))
        assert len(cohort) == len(weights) == 12
        assert sum(weights) == pytest.approx(1)
        assert set(record["malicious"]) <= set(cohort)
        assert len(record["flagged"]) == 3
        assert set(record["malicious"]) <= set(record["flagged"])
        assert [client for client, weight in zip(cohort, weights, strict=True) if weight == 0] == record["flagged"]
        trained = world.engine.train(state.params, Plan(world.seed, state.round + 1, tuple(map(Task, cohort)))).updates
        torch.testing.assert_close(
            after.previous.double(), torch.tensor(weights).double() @ trained.double(), atol=1e-8, rtol=1e-6
        )
        seen += len(record["malicious"])
        state = after
    assert seen > 3


THREAT = {"malicious": 3, "update": "model_replacement"}


# Measures


@pytest.mark.parametrize("rule", ["mean", "median", "krum", "geometric_median"])
@pytest.mark.parametrize("update", ["sign_flip", "gaussian", {"name": "ipm", "epsilon": 3.0}])
def test_kappa_and_the_distance_equal_a_plain_computation(rule: str, update: Any) -> None:
    world, state = world_of(threat={"malicious": 2, "update": update}, defence={"aggregator": rule})
    after, record = play(state, world)
    honest, update_ = honest_updates(world, state, record).double(), after.previous.double()
    centre = honest.mean(0)
    variance = ((honest - centre) ** 2).sum(dim=1).mean()
    distance = (update_ - centre).norm()
    assert record["distance_to_honest_mean"] == pytest.approx(float(distance), rel=1e-4)
    assert record["kappa"] == pytest.approx(float(distance**2 / variance), rel=1e-3)


def spread(verdict: Verdict, honest: Tensor) -> dict[str, Any]:
    norms = torch.linalg.vector_norm(honest.double(), dim=1)
    return spread_of(replace(verdict, norms=norms), honest, torch.ones(len(honest), dtype=torch.bool))


def test_the_spread_is_that_of_the_honest_rows_alone_in_a_matrix_or_a_list() -> None:
    rows = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    honest = torch.tensor([True, False, True, True, False, True])
    expected = spread(Verdict(rows[1]), rows[honest])
    mixed = Verdict(rows[1], norms=torch.linalg.vector_norm(rows.double(), dim=1))
    assert spread_of(mixed, rows, honest) == pytest.approx(expected)
    as_list = [*rows[:4], torch.zeros(2), rows[5]]
    assert spread_of(mixed, as_list, honest) == pytest.approx(expected)


def test_kappa_of_the_trimmed_means_worst_case_is_its_bound() -> None:
    f, n = 2, 9  # honest: f zeros and n − 2f ones; f attackers beyond: κ = f/(n − 2f), and it is reached
    honest = torch.tensor([[0.0]] * f + [[1.0]] * (n - 2 * f))
    measured = spread(Verdict(torch.tensor([1.0])), honest)
    assert measured["distance_to_honest_mean"] == pytest.approx(f / (n - f))
    assert measured["kappa"] == pytest.approx(f / (n - 2 * f))


@pytest.mark.parametrize("width", [1e-1, 1e-2, 2e-3])
def test_kappa_is_right_where_honest_updates_nearly_agree(width: float) -> None:
    drawn = torch.randn(7, 4000, generator=torch.Generator().manual_seed(0))
    honest = 1 + width * drawn  # seven rows: 1/7 has no exact value
    update = honest.mean(0) + width * drawn[0]
    exact = honest.double()
    variance = ((exact - exact.mean(0)) ** 2).sum(dim=1).mean()
    expected = float((update.double() - exact.mean(0)).square().sum() / variance)
    measured = spread(Verdict(update), honest)
    assert measured["kappa"] == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    ("honest", "skipped"), [([[1.0, 2.0]] * 3, False), ([[0.0, 0.0]] * 3, False), ([[1.0, 2.0], [3.0, 4.0]], True)]
)
def test_there_is_no_kappa_without_a_spread_or_an_aggregate(honest: list[list[float]], skipped: bool) -> None:
    rows = torch.tensor(honest)
    measured = spread(Verdict(torch.ones(2), skipped=skipped), rows)
    assert measured["kappa"] is None
    assert (measured["distance_to_honest_mean"] is None) == skipped


def test_a_lost_honest_client_is_left_out_of_the_honest_mean() -> None:
    rows = torch.tensor([[1.0, 2.0], [NAN, 0.0], [3.0, 4.0]])
    measured = spread(Verdict(torch.tensor([2.0, 3.0])), rows)
    assert measured["distance_to_honest_mean"] == pytest.approx(0, abs=1e-6)
    assert measured["kappa"] == pytest.approx(0, abs=1e-6)


def mask(*places: int, n: int = 6) -> Tensor:
    chosen = torch.zeros(n, dtype=torch.bool)
    chosen[list(places)] = True
    return chosen


NOTHING = dict.fromkeys(DETECTION.values())


@pytest.mark.parametrize(
    ("flagged", "bad", "expected"),
    [
        (
            mask(0, 1, 5),
            mask(0, 5, 3),
            {"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "false_positive_rate": 1 / 3},
        ),
        (mask(0, 1, 2, 3), mask(0), {"precision": 0.25, "recall": 1, "f1": 0.4, "false_positive_rate": 3 / 5}),
        (mask(0), mask(0, 1, 2), {"precision": 1, "recall": 1 / 3, "f1": 0.5, "false_positive_rate": 0}),
        (mask(4), mask(0), {"precision": 0, "recall": 0, "f1": 0, "false_positive_rate": 0.2}),
        (mask(), mask(0, 1), {"precision": None, "recall": 0, "f1": 0, "false_positive_rate": 0}),
        (mask(1, 2), mask(), {"false_positive_rate": 1 / 3}),
        (mask(), mask(), {"false_positive_rate": 0}),
        (mask(0, 1), mask(*range(6)), {"precision": 1, "recall": 1 / 3, "f1": 0.5}),
    ],
)
def test_detection_is_counted_from_the_flags(flagged: Tensor, bad: Tensor, expected: dict[str, Any]) -> None:
    measured = detection(Verdict(torch.zeros(1), flagged=flagged), bad)
    assert measured == {**NOTHING, **{key: v if v is None else pytest.approx(v) for key, v in expected.items()}}


@pytest.mark.parametrize(
    ("weights", "share", "auroc"),
    [
        ([0.0, 0.0, 0.25, 0.25, 0.25, 0.25], 0, 1),
        ([0.5, 0.5, 0.0, 0.0, 0.0, 0.0], 1, 0),
        ([1 / 6] * 6, 1 / 3, 0.5),
        ([0.1, 0.3, 0.2, 0.2, 0.2, 0.0], 0.4, (3 + 0 + 0 + 0) / 8),
        ([0.2, 0.0, 0.2, 0.2, 0.4, 0.0], 0.2, (0.5 + 0.5 + 1 + 0 + 1 + 1 + 1 + 0.5) / 8),
    ],
)
def test_weights_give_the_attackers_share_and_the_auroc(weights: list[float], share: float, auroc: float) -> None:
    verdict = Verdict(torch.zeros(1), weights=torch.tensor(weights, dtype=torch.float64))
    expected = {**NOTHING, "malicious_weight": pytest.approx(share), "auroc": pytest.approx(auroc)}
    assert detection(verdict, mask(0, 1)) == expected
    assert detection(verdict, mask()) == NOTHING


def test_the_false_positive_rate_is_reported_on_clean_rounds_too() -> None:
    world, state = world_of(threat={"malicious": 0}, defence={"f": 2, "aggregator": "multi_krum"})
    _, record = play(state, world)
    assert len(record["flagged"]) == 2
    assert record["detection"] == {**NOTHING, "false_positive_rate": 0.25}
    assert record["update_norms"]["malicious"] is None
    assert record["over_budget"] is False


def test_nothing_is_detected_by_a_rule_that_does_not_decide() -> None:
    for rule in ("mean", "krum", "median"):
        world, state = world_of(defence={"f": 2, "aggregator": rule})
        _, record = play(state, world)
        assert record["flagged"] is None
        assert record["detection"]["recall"] is None
        assert (record["weights"] is None) == (record["detection"]["auroc"] is None) == (rule == "median")


def test_norms_are_summed_up_for_honest_and_malicious_clients() -> None:
    norms = torch.tensor([1.0, 9.0, 4.0, NAN, 2.0, 7.0], dtype=torch.float64)
    assert summary_of_norms(norms, mask(1, 5)) == {
        "honest": {"median": 2.0, "max": 4.0},
        "malicious": {"median": 8.0, "max": 9.0},
    }
    assert summary_of_norms(norms, mask(3))["malicious"] is None
    world, state = world_of()
    _, record = play(state, world)
    norms = honest_updates(world, state, record).double().norm(dim=1)
    assert record["update_norms"]["honest"] == {
        "median": pytest.approx(float(norms.median())),
        "max": pytest.approx(float(norms.max())),
    }
    assert record["update_norms"]["malicious"]["median"] > record["update_norms"]["honest"]["max"]


# Hostile updates


@pytest.mark.parametrize("rule", ["mean", "median", "trimmed_mean", "multi_krum", "krum", "geometric_median"])
def test_nan_costs_the_sender_only(rule: str) -> None:
    world, state = world_of(threat={"malicious": 2, "update": "nan"}, defence={"aggregator": rule})
    for _ in range(3):
        after, record = play(state, world)
        assert record["events"] == [{"what": "set_aside", "clients": record["malicious"], "detail": "not finite"}]
        assert len(record["malicious"]) == 2
        alone = aggregate(rule, honest_updates(world, state, record))  # f = 0: both attackers are gone
        assert torch.equal(after.previous, alone.update)
        weights, honest = record["weights"], [client not in record["malicious"] for client in record["cohort"]]
        if weights is not None:
            assert torch.equal(torch.tensor(weights)[torch.tensor(honest)], alone.weights.float())
            assert sum(weights) == pytest.approx(1)
            assert record["detection"]["malicious_weight"] == 0
        if record["flagged"] is not None:
            assert record["flagged"] == record["malicious"]
        assert record["update_norms"]["malicious"] is None
        assert not record["skipped"]
        as_json(record)
        state = after
    assert record["accuracy"] > 0.4


MISSHAPEN: dict[str, Callable[[int, int], Any]] = {
    "a column too many": lambda k, d: torch.zeros(k, d + 1),
    "a column too few": lambda k, d: torch.zeros(k, d - 1),
    "a row too many": lambda k, d: torch.zeros(k + 1, d),
    "a row too few": lambda k, d: torch.zeros(k - 1, d),
    "no row": lambda k, d: torch.zeros(0, d),
    "no column": lambda k, d: torch.zeros(k, 0),
    "a number": lambda k, d: torch.zeros(()),
    "numbers": lambda k, d: torch.zeros(k),
    "a cube": lambda k, d: torch.zeros(k, d, 1),
    "transposed": lambda k, d: torch.zeros(d, k),
    "integers": lambda k, d: torch.ones(k, d, dtype=torch.int64),
    "truth values": lambda k, d: torch.ones(k, d, dtype=torch.bool),
    "complex": lambda k, d: torch.ones(k, d, dtype=torch.complex64),
    "inf": lambda k, d: torch.full((k, d), torch.inf),
    "one nan": lambda k, d: torch.zeros(k, d).index_fill(1, torch.tensor([d // 2]), torch.nan),
    "beyond float32": lambda k, d: torch.full((k, d), 1e300, dtype=torch.float64),
}


@pytest.mark.parametrize(
    ("sent", "rule"), [*((sent, "mean") for sent in MISSHAPEN), ("a row too few", "multi_krum"), ("inf", "multi_krum")]
)
@pytest.mark.filterwarnings("ignore:Casting complex")
def test_what_is_no_update_is_set_aside_and_the_run_goes_on(sent: str, rule: str) -> None:
    world, state = world_of(
        sending(MISSHAPEN[sent]), threat={"malicious": 2, "update": "nan"}, defence={"aggregator": rule}
    )
    for _ in range(2):
        after, record = play(state, world)
        (event,) = events(record, "set_aside")
        assert event["clients"] == record["malicious"]
        assert event["detail"] == "not finite" or event["detail"].startswith(f"not a vector of {len(state.params)} ")
        assert torch.equal(after.previous, aggregate(rule, honest_updates(world, state, record)).update)
        assert not record["skipped"]
        as_json(record)
        state = after
    assert record["accuracy"] > 0.3


@pytest.mark.parametrize(
    "make",
    [
        lambda k, d: torch.full((k, d), 0.01, dtype=torch.float64),
        lambda k, d: torch.full((d,), 0.01, dtype=torch.float64),
        lambda k, d: torch.full((k, d), 0.01, dtype=torch.float16),
        lambda k, d: torch.full((1, d), 0.01).expand(k, d),
    ],
    ids=["float64", "one-float64-row", "float16", "expanded"],
)
def test_the_model_keeps_its_precision_whatever_is_sent(make: Callable[[int, int], Tensor]) -> None:
    world, state = world_of(sending(make))
    for _ in range(2):
        state, record = play(state, world)
        assert state.params.dtype == state.previous.dtype == torch.float32
        assert not events(record, "skipped")
        as_json(record)


@pytest.mark.parametrize("size", [1e30, 3e38])
@pytest.mark.parametrize("model", ["logistic", {"name": "mlp", "hidden": [5]}])
@pytest.mark.parametrize("server_lr", [1.0, 10.0])
def test_a_huge_update_under_the_mean_ruins_the_model_but_not_the_run(
    size: float, model: Any, server_lr: float
) -> None:
    attack = sending(
        lambda k, d: torch.full((k, d), size) * torch.randn(d, generator=torch.Generator().manual_seed(0)).sign()
    )
    world, state = world_of(attack, model=model, server={"lr": server_lr})
    records = []
    for _ in range(4):
        state, record = play(state, world)
        as_json(record)
        assert record.keys() >= KEYS
        assert state.params.isfinite().all()
        assert state.previous.isfinite().all()
        assert record["accuracy"] is not None
        records.append(record)
    if model != "logistic":  # one layer still gives finite numbers
        assert any(record["events"] for record in records)
    assert records[-1]["accuracy"] < 0.5


def test_a_huge_update_is_survived_by_a_robust_rule() -> None:
    world, state = world_of(
        sending(lambda k, d: torch.full((k, d), 1e30)),
        threat={"malicious": 2, "update": "nan"},
        defence={"aggregator": "multi_krum"},
    )
    for _ in range(3):
        state, record = play(state, world)
        assert set(record["malicious"]) <= set(record["flagged"])
        assert record["detection"]["recall"] == 1
        assert record["detection"]["malicious_weight"] == 0
        assert record["events"] == []
        as_json(record)
    assert record["accuracy"] > 0.4


def test_a_step_beyond_float32_is_not_taken() -> None:
    world, state = world_of(sending(lambda k, d: torch.full((k, d), 3e38)), server={"lr": 10.0})
    after, record = play(state, world)
    assert torch.equal(after.params, state.params)
    assert torch.equal(after.previous, state.previous)
    assert record["skipped"]
    assert [event["detail"] for event in events(record, "skipped")] == ["parameters overflow"]
    assert record["kappa"] is None
    assert record["accuracy"] == world.evaluator(state.params).accuracy


def test_a_round_in_which_nobody_sends_numbers_is_skipped() -> None:
    world, state = world_of(threat={"malicious": 8, "update": "nan"})
    after, record = play(state, world)
    assert record["skipped"]
    assert [event["detail"] for event in events(record, "skipped")] == ["no update is left"]
    assert torch.equal(after.params, state.params)
    assert after.round == 1
    assert record["weights"] is None
    assert record["flagged"] is None
    as_json(record)


def test_a_round_the_rule_cannot_take_is_skipped_with_the_reason() -> None:
    world, state = world_of(defence={"f": 2, "aggregator": "krum"})
    after, record = play(state, replace(world, f=3))
    assert [event["detail"] for event in events(record, "skipped")] == ["krum needs n > 2*f + 2: n = 8, f = 3"]
    assert torch.equal(after.params, state.params)


@pytest.mark.parametrize("rule", ["mean", "median"])
def test_an_honest_client_whose_training_diverges_costs_itself_only(rule: str) -> None:
    world, state = world_of(threat={"malicious": 0}, defence={"aggregator": rule})
    images = world.federation.dataset.train_images
    spoilt = world.federation.shard(3).index
    kept = images[spoilt].clone()
    expected = honest_updates(world, state, {"cohort": [0, 1, 2, 4, 5, 6, 7], "malicious": []})
    try:
        images[spoilt] = 3e38
        after, record = play(state, world)
    finally:
        images[spoilt] = kept
    assert record["events"] == [{"what": "set_aside", "clients": [3], "detail": "not finite"}]
    assert torch.equal(after.previous, aggregate(rule, expected).update)
    assert record["distance_to_honest_mean"] is not None
    assert math.isfinite(record["update_norms"]["honest"]["max"])
    as_json(record)


# How the aggregate lies to the honest updates


@pytest.mark.parametrize("degrees", [0.0, 1e-3, 30.0, 90.0, 179.999, 180.0])
@pytest.mark.parametrize("length", [1e-3, 1.0, 1e3])
def test_the_angle_to_the_honest_mean_is_exact(degrees: float, length: float) -> None:
    turned = math.radians(degrees)
    update = length * torch.tensor([math.cos(turned), math.sin(turned)], dtype=torch.float64)
    honest = torch.tensor([[1.0, 0.5], [1.0, -0.5]], dtype=torch.float64)
    measured = spread(Verdict(update), honest)
    assert measured["angle_to_honest_mean"] == pytest.approx(degrees, abs=1e-4)
    assert measured["heterogeneity"] == pytest.approx(0.25)


def test_there_is_no_angle_to_nothing() -> None:
    honest = torch.ones(2, 2)
    measured = spread(Verdict(torch.zeros(2)), honest)
    assert measured["angle_to_honest_mean"] is None


@pytest.mark.parametrize(
    ("flagged", "weights", "expected"),
    [
        (
            [False, False, True, True, True],
            None,
            3**0.5 / 2,
        ),  # the two most skewed of the honest four; and the attacker
        ([True, True, False, False, True], None, -(3**0.5) / 2),
        (None, [0.3, 0.25, 0.2, 0.15, 0.1], 1.0),
        (None, [0.1, 0.15, 0.2, 0.25, 0.3], -1.0),
        ([False] * 5, [0.2] * 5, None),
        (None, None, None),
    ],
)
def test_rejection_is_held_against_label_skew(flagged: Any, weights: Any, expected: float | None) -> None:
    verdict = Verdict(
        torch.zeros(1),
        flagged=None if flagged is None else torch.tensor(flagged),
        weights=None if weights is None else torch.tensor(weights),
    )
    skew = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.0], dtype=torch.float64)
    got = rejection_skew(verdict, mask(4, n=5), skew)
    assert got == (None if expected is None else pytest.approx(expected, abs=0.03))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=30))
@settings(derandomize=True, deadline=None)
def test_the_correlation_is_spearmans(pairs: list[tuple[int, int]]) -> None:
    weights, skew = (torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True))
    got = rejection_skew(Verdict(torch.zeros(1), weights=-weights), mask(n=len(pairs)), skew)
    if len(set(weights.tolist())) == 1 or len(set(skew.tolist())) == 1:
        assert got is None
    else:
        assert got == pytest.approx(spearmanr(weights, skew).statistic)


def test_label_skew_is_the_total_variation_distance() -> None:
    world, _ = world_of()
    labels, split = world.federation.dataset.train_labels, world.federation
    shards = [labels[split.shard(i).index] for i in range(split.clients)]
    whole = torch.bincount(torch.cat(shards), minlength=10) / sum(map(len, shards))
    for client, shard in enumerate(shards):
        expected = 0.5 * float((torch.bincount(shard, minlength=10) / len(shard) - whole).abs().sum())
        assert float(split.skew(torch.tensor([client]))) == pytest.approx(expected, abs=1e-6)
