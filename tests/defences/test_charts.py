"""Charts of a series, and accuracies by class: by values computed elsewhere, against river's, and in runs."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from fedpoison import Alarm
from fedpoison.api import chain
from fedpoison.common import parallel
from fedpoison.common.errors import ConfigError
from fedpoison.common.seeding import Stream
from fedpoison.config.config import parse
from fedpoison.config.sweep import load as experiment
from fedpoison.contract.vocabulary import Record
from fedpoison.contract.words import WORDS
from fedpoison.defences.monitoring import View, Watch, watch
from fedpoison.defences.monitors.adwin import adwin
from fedpoison.defences.monitors.cusum import cusum
from fedpoison.defences.monitors.ewma import ewma
from fedpoison.defences.monitors.page_hinkley import page_hinkley
from fedpoison.defences.monitors.per_class_drop import per_class_drop
from fedpoison.defences.situation import Situation
from fedpoison.flower import RobustStrategy
from fedpoison.round import play
from fedpoison.runs.running import Job
from fedpoison.runs.world import build
from fedpoison.types import Exam

Told = list[tuple[Alarm | None, dict[str, float]]]


def through(monitor: Callable[..., Any], values: Sequence[float], **options: Any) -> Told:
    """What a chart says of each value, with its sums after it."""
    state: dict[str, Tensor] = {}
    told = []
    for value in values:
        alarm, state = monitor(lambda series, value=value: value, state, **options)
        told.append((alarm, {name: float(each) for name, each in state.items() if each.dim() == 0}))
    return told


def alarms(told: Told) -> list[int]:
    """The rounds with an alarm, from 1."""
    return [number for number, (alarm, _) in enumerate(told, 1) if alarm]


FALLING = [0.80, 0.82] * 5 + [0.79, 0.78, 0.77]
SERIES = [
    (cusum, {}, "down", [1.397, 3.743], 13),
    (ewma, {"limit": 4.0}, "mean", [-0.37947, -0.87277], 13),
    (page_hinkley, {}, None, [1.225, 3.176], 13),
]


@pytest.mark.parametrize(("monitor", "options", "name", "sums", "found"), SERIES)
def test_a_series_by_hand(
    monitor: Callable[..., Any], options: dict[str, Any], name: str | None, sums: list[float], found: int
) -> None:
    """The mean of the first ten is .81, their deviation .010541."""
    told = through(monitor, FALLING, warmup=10, **options)
    assert alarms(told) == [found]
    after = [each[name] if name else each["most"] - each["down"] for _, each in told[10:12]]
    assert after == pytest.approx(sums, abs=1e-3)
    assert alarms(through(monitor, FALLING, warmup=10, direction="up", **options)) == []
    risen = [1.62 - value for value in FALLING]
    assert alarms(through(monitor, risen, warmup=10, direction="up", **options)) == [found]
    assert alarms(through(monitor, risen, warmup=10, direction="down", **options)) == []


def test_cusum_forgets_what_goes_the_other_way() -> None:
    _, sums = through(cusum, [*FALLING[:10], *[0.9] * 30], warmup=10, direction="down")[-1]
    assert sums["down"] == 0
    assert sums["up"] == pytest.approx(30 * (0.09 / 0.0105409 - 0.5), abs=0.01)


def test_what_is_said_of_an_alarm() -> None:
    said = [through(each, FALLING, warmup=10)[-1][0] for each in (cusum, page_hinkley)]
    assert [alarm.detail for alarm in said if alarm] == [
        "norm is 0.77, -3.79 deviations from its first 10: falls sum up to 7.04",
        "norm is 0.77, -3.79 deviations from its first 10: a fall of 5.81",
    ]


def test_ewma_is_off_where_its_raw_average_is_below_its_limit() -> None:
    assert alarms(through(ewma, FALLING[:12], warmup=10)) == [12]
    z = through(ewma, FALLING[:12], warmup=10, limit=9.0)[-1][1]["mean"]
    assert 0.81 + 0.010541 * z == pytest.approx(0.8008, abs=1e-4)
    three = through(ewma, [0.0, 2.0, 1.0, 1.0 + 2.9, 1.0 + 3.1], warmup=3, weight=1.0)  # Shewhart's chart
    assert alarms(three) == [5]


@pytest.mark.parametrize("monitor", [cusum, ewma, page_hinkley])
def test_charts_start_late_wait_and_begin_anew_after_an_alarm(monitor: Callable[..., Any]) -> None:
    late = through(monitor, [0.1, 0.5, 0.7, *FALLING], skip=3, warmup=10)
    assert [number - 3 for number in alarms(late)] == alarms(through(monitor, FALLING, warmup=10))
    last = alarms(late)[-1] - 1
    assert late[last][1] == {"seen": last + 1}
    assert not alarms(through(monitor, [1.0] * 9 + [50.0], warmup=10))
    again = through(monitor, FALLING[:10] + [0.6] * 40, warmup=10)
    assert (len(alarms(again)) > 2) == (monitor is not page_hinkley)  # the measure stays, and its own mean moves


def test_adwin_takes_no_note_of_what_is_no_number() -> None:
    told = through(adwin, [0.1, float("inf"), 0.1])
    assert told[1] == (Alarm("norm is inf"), told[0][1])


@pytest.mark.parametrize("monitor", [cusum, ewma, page_hinkley])
def test_a_chart_of_what_never_moved_and_of_what_is_no_number(monitor: Callable[..., Any]) -> None:
    assert not alarms(through(monitor, [2.0] * 20, warmup=10))
    assert alarms(through(monitor, [2.0] * 10 + [2.02], warmup=10)) == [11]
    told = through(monitor, [*FALLING[:10], float("nan"), 0.81], warmup=10)
    assert alarms(told) == [11]
    assert told[10][0] == Alarm("norm is nan")
    assert told[10][1] == told[9][1]


RIVER = {  # river 0.26.1, PageHinkley(min_instances=12, delta=.5, threshold=5, alpha=1), by direction and seed
    ("both", 0): [62],
    ("both", 1): [15, 56, 71, 98],
    ("both", 2): [30, 63],
    ("both", 3): [64],
    ("down", 0): [62],
    ("down", 1): [],
    ("down", 2): [63],
    ("down", 3): [],
    ("up", 0): [],
    ("up", 1): [15, 56, 71, 98],
    ("up", 2): [30],
    ("up", 3): [64],
}


def test_page_hinkley_is_river_s_on_deviations() -> None:
    for (direction, seed), found in RIVER.items():
        values = torch.randn(120, generator=torch.Generator().manual_seed(seed)).double()
        values[60:] += 1.5 if seed % 2 else -1.5
        assert alarms(through(page_hinkley, values.tolist(), warmup=12, direction=direction)) == found


# adwin

ADWIN = {  # river 0.26.1, by seed, delta and clock
    (0, 0.002, 1): [161, 224],
    (0, 0.002, 32): [192],
    (1, 0.3, 1): [107, 205],
    (2, 0.3, 1): [116, 209],
    (2, 0.05, 8): [120, 216],
    (3, 0.002, 1): [184, 277],
}


def test_adwin_is_river_s() -> None:
    for (seed, delta, clock), found in ADWIN.items():
        values = torch.randn(300, generator=torch.Generator().manual_seed(seed)).double()
        values[100:] += 1
        values[200:] -= 2
        assert alarms(through(adwin, values.tolist(), delta=delta, clock=clock)) == found


def test_adwin_finds_large_shifts_late_and_small_ones_never() -> None:
    assert alarms(through(adwin, [0.8] * 60 + [0.1] * 40, clock=32)) == [96]
    told = through(adwin, [9.0, *[0.8] * 60, *[0.1] * 30], skip=1)
    assert alarms(told) == [87]
    assert told[86][0] == Alarm("the mean of norm went from 0.8 to 0.1")
    for delta, found in ((0.002, [[31], [61], [], []]), (0.05, [[16], [27], [69], []])):
        shifts = [alarms(through(adwin, [0.8] * 50 + [value] * 75, delta=delta)) for value in (0.1, 0.4, 0.6, 0.7)]
        assert [[number - 50 for number in each] for each in shifts] == found


def test_adwin_keeps_few_buckets_and_the_window_whole() -> None:
    state: dict[str, Tensor] = {}
    values = torch.rand(400, generator=torch.Generator().manual_seed(4)).double()
    for value in values.tolist():
        _, state = adwin(lambda series, value=value: value, state, delta=1e-9)
    sizes, means, squares = state["buckets"].unbind(1)
    assert sizes.sum() == 400
    assert len(sizes) < 40
    assert sizes.tolist() == sorted(sizes.tolist(), reverse=True)
    torch.testing.assert_close((sizes * means).sum() / 400, values.mean())
    whole = squares.sum() + (sizes * (means - values.mean()) ** 2).sum()
    torch.testing.assert_close(whole / 399, values.var())


# per_class_drop


def exam(rights: Sequence[float], sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    return torch.tensor(rights).double(), torch.tensor(sizes).double()


def by_class(rounds: Sequence[Sequence[float]], sizes: Sequence[int], **options: Any) -> list[str]:
    state: dict[str, Tensor] = {}
    said = []
    for rights in rounds:
        alarm, state = per_class_drop(lambda on, rights=rights: exam(rights, sizes), state, **options)
        said.append(alarm.detail if alarm else "")
    return said


def test_per_class_drop_by_hand() -> None:
    usual = [[0.9, 0.8, 1.0]] * 3
    found = "accuracy on the validation samples fell: class 1 from 0.8 to 0.5"
    sizes = [50, 50, 50]  # 3·√(.8·.2/50) is .170
    assert by_class([*usual, [0.9, 0.5, 0.9]], sizes, window=3) == ["", "", "", found]
    assert by_class([*usual, [0.9, 0.61, 0.9]], sizes, window=3)[3] == ""
    assert by_class([*usual, [0.9, 0.61, 0.9]], sizes, window=3, drop=0.18)[3] != ""
    assert by_class([*usual, [0.9, 0.64, 0.95]], sizes, window=3, drop=0.1)[3] == ""  # by chance
    assert by_class([*usual, [0.9, 0.1, 0.9]], [50, 19, 50], window=3)[3] == ""  # too few
    assert by_class([*usual, [0.9, 0.1, 0.9]], [50, 19, 0], window=3, fewest=5)[3] != ""
    again = by_class([*usual, *[[0.9, 0.5, 0.9]] * 4], sizes, window=3)
    assert again[3:] == [found] * 4  # what raised an alarm is not learned from
    assert by_class([*usual[:2], [0.9, 0.5, 0.9]], sizes, window=3) == ["", "", ""]  # not full
    gone = [[0.9, float("nan"), 1.0]] * 4
    assert by_class(gone, [50, 0, 50], window=3) == [""] * 4


# What the server supplies


def test_the_series_are_what_the_server_sees_of_a_round() -> None:
    asked: list[float] = []

    def exam(params: Tensor) -> Exam:
        asked.append(float(params[0]))
        return Exam(0.7, torch.tensor([0.5, float("nan"), 1.0]).double(), torch.tensor([10.0, 0.0, 30.0]).double())

    nothing = torch.zeros(2)
    known = Situation(
        f=0, client_ids=torch.arange(3), sizes=torch.ones(3).double(), params=nothing, previous=nothing,
        stream=Stream(0, "defence", 1), state={}, exams={"root": exam},
    )  # fmt: skip
    verdict = chain("mean")(torch.tensor([[3.0, 4.0], [0.0, 1.0], [torch.nan, 0.0]]), known)
    view = View(verdict, known, torch.tensor([7.0, 0.0]))
    assert view.reading("norm") == pytest.approx((1.5**2 + 2.5**2) ** 0.5)
    assert view.reading("median_norm") == 3.0  # of 1 and 5
    assert (view.reading("root_loss"), view.reading("root_accuracy")) == (0.7, 0.875)
    assert view.recalls("root")[1].tolist() == [10, 0, 30]
    assert asked == [7.0]  # once, and the model after the round
    watches = [Watch((per_class_drop.entry, {"on": "validation", "window": 1}))]  # type: ignore[attr-defined]
    (event,) = watch(watches, verdict, known, {}, nothing).events
    assert (event.what, event.detail) == ("monitor_failed", "the server has no validation samples of its own")


def test_no_word_of_a_monitor_is_about_test_samples() -> None:
    assert not [word for word in WORDS["monitor"].values() if "test" in word.text]


TABLE: dict[str, Any] = {
    "name": "charted",
    "rounds": 12,
    "evaluate_every": 12,
    "data": {"name": "digits", "root": {"samples": 200}, "validation": 200},
    "model": {"name": "mlp", "hidden": [16]},
    "clients": {"count": 6, "local": {"lr": 0.2, "epochs": 2}},
    "threat": {"malicious": 2, "data": {"name": "label_flip", "source": 3, "target": 5}, "schedule": {"start": 12}},
}


def played(table: dict[str, Any]) -> list[Record]:
    config, records = parse(table), []
    with parallel.using(2):
        world, state = build(config)
        while state.round < config.rounds:
            state, record = play(state, world)
            records.append(record)
    return records


def test_a_class_that_is_flipped_is_seen_by_its_own_accuracy_and_not_by_all_samples_together() -> None:
    threat = {**TABLE["threat"], "update": {"name": "model_replacement", "scale": 2.0}}
    monitors = [{"name": "per_class_drop", "on": "validation", "window": 4, "fewest": 10, "drop": 0.3}]
    monitors += [{"name": "cusum", "series": "validation_accuracy", "direction": "down", "skip": 7, "warmup": 4}]
    monitors += [{"name": "ewma", "series": "root_loss", "direction": "down", "warmup": 2}]  # it learns
    records = played({**TABLE, "threat": threat, "defence": {"monitors": monitors}})
    said = {(e["detail"].split(":")[0], r["round"]) for r in records for e in r["events"] if e["what"] == "alarm"}
    assert {number for name, number in said if name == "per_class_drop"} == {12}
    assert {name for name, _ in said} == {"per_class_drop", "ewma"}
    assert not [e for r in records for e in r["events"] if e["what"] == "monitor_failed"]


def test_what_a_monitor_lacks_is_said_before_anything_runs(tmp_path: Any) -> None:
    data = {"name": "digits", "validation": 50}
    for monitor, says in (
        ({"name": "cusum", "series": "root_accuracy"}, "cusum: root_accuracy needs [data] root"),
        ({"name": "per_class_drop", "on": "root"}, "per_class_drop: on = 'root' needs [data] root"),
    ):
        table = {**TABLE, "data": data, "sweep": {"defence.monitors": [[], [monitor]]}}
        with pytest.raises(ConfigError) as error:
            Job(experiment(table), tmp_path).check()
        assert error.value.problems == [says]
    build(parse({**TABLE, "data": data, "defence": {"monitors": [{"name": "ewma", "series": "validation_loss"}]}}))
    with pytest.raises(ValueError, match=r"root_loss needs \[data\] root, which runs of an experiment have"):
        RobustStrategy("mean", monitors=[{"name": "ewma", "series": "root_loss"}])
    with pytest.raises(ConfigError, match=r"ewma.series = 'accuracy'"):
        parse({**TABLE, "defence": {"monitors": [{"name": "ewma", "series": "accuracy"}]}})
