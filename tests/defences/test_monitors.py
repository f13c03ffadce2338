"""Monitors: the first by hand, what every one owes, and what a server does on an alarm."""

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fedpoison import Alarm, monitor
from fedpoison.api import chain, watched
from fedpoison.common import parallel
from fedpoison.common.errors import ConfigError
from fedpoison.common.seeding import Stream
from fedpoison.config.config import parse
from fedpoison.contract.entry import Entry
from fedpoison.contract.lookup import entries
from fedpoison.contract.vocabulary import Record
from fedpoison.defences.monitoring import Watch, watch
from fedpoison.defences.monitors.norm_jump import norm_jump
from fedpoison.defences.situation import Situation
from fedpoison.round import State, play
from fedpoison.runs.happened import happened
from fedpoison.runs.simulation import simulate
from fedpoison.runs.world import build
from fedpoison.server import Server
from fedpoison.types import Exam

ROOT = Path(__file__).parents[2]
MONITORS = entries("monitor").values()
each = pytest.mark.parametrize("entry", MONITORS, ids=lambda entry: entry.name)


def shown(norm: float, state: dict[str, Tensor], **options: Any) -> tuple[Alarm | None, dict[str, Tensor]]:
    return norm_jump(torch.tensor([norm, 0.0]), torch.ones(3).double(), torch.arange(3), state, **options)


def through(values: list[float], **options: Any) -> tuple[list[bool], dict[str, Tensor]]:
    """Which of these norms, one after the other, raise an alarm; and the memory after them."""
    state: dict[str, Tensor] = {}
    raised = []
    for value in values:
        alarm, state = shown(value, state, **options)
        raised.append(alarm is not None)
    return raised, state


SERIES = [1, 1.1, 0.9, 1.05, 0.95, 1, 1.1, 0.9]


def test_norm_jump_by_hand() -> None:
    _, state = through(SERIES, window=8)
    assert shown(1.3, state, window=8)[0] is None  # 2.70 deviations
    alarm, after = shown(1.4, state, window=8)  # 3.60
    assert alarm is not None
    assert alarm.detail == "the aggregate's norm is 1.4, 3.6 deviations from 1"
    assert torch.equal(after["norms"], state["norms"])  # what raised an alarm is not learned from
    assert shown(1.4, state, window=8, threshold=3.61)[0] is None
    assert through([*SERIES, 0.6], window=8)[0] == [False] * 8 + [True]  # a fall is a jump too


def test_norm_jump_waits_until_its_window_is_full_and_forgets_what_is_older() -> None:
    assert not any(through([*SERIES, 50.0], window=9)[0])
    raised, state = through([9.0, *SERIES, 1.0], window=8)
    assert not any(raised[:8])
    torch.testing.assert_close(state["norms"], torch.tensor([*SERIES[1:], 1.0]).double())


def test_norm_jump_where_most_or_all_are_alike() -> None:
    # mean absolute deviation of (1 × 7, 1.8): .1, so a deviation is .12533
    _, state = through([1.0] * 7 + [1.8], window=8)
    assert shown(1.43, state, window=8)[0] is None
    assert shown(1.45, state, window=8)[0] is not None
    _, state = through([2.0] * 8, window=8)
    assert shown(2.001, state, window=8)[0] is None
    assert shown(2.003, state, window=8)[0] is not None


def test_norm_jump_suspects_whose_norms_are_far_from_the_others() -> None:
    _, state = through(SERIES, window=8)
    norms = torch.tensor([1.0, 9.0, 1.1, torch.nan, 0.9, torch.inf]).double()
    alarm, _ = norm_jump(torch.tensor([7.0, 0.0]), norms, torch.tensor([3, 5, 8, 9, 11, 12]), state, window=8)
    assert alarm is not None
    assert alarm.suspects == (5,)


# What every monitor owes


def exam(params: Tensor) -> Exam:
    """Of a model that is right as long as its parameters are not huge."""
    right = 0.9 if params.norm() < 1e4 else 0.3
    return Exam(1 - right, torch.full((3,), right).double(), torch.full((3,), 50.0).double())


def situation(clients: int = 4, d: int = 5, **known: Any) -> Situation:
    stream, nothing = Stream(0, "defence", 1), torch.zeros(d)
    given = {"f": 1, "client_ids": torch.arange(clients) * 3, "sizes": torch.ones(clients).double(), "params": nothing}
    given |= {"previous": nothing, "stream": stream, "state": {}, "exams": {"validation": exam}}
    return Situation(**{**given, **known})


def rounds(clients: int, d: int, count: int) -> list[Tensor]:
    drawn = torch.Generator().manual_seed(clients + d)
    return [torch.randn(clients, d, generator=drawn) + 1 for _ in range(count)]


@each
def test_its_evidence_and_source_are_told(entry: Entry) -> None:
    path, _, name = entry.evidence.partition("::")
    assert name in {n.name for n in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(n, ast.FunctionDef)}
    assert entry.source.split(":")[0] in ("read", "secondary")


@each
@pytest.mark.parametrize(("clients", "d"), [(1, 1), (2, 3), (9, 4)])
def test_a_monitor_changes_nothing_fails_never_and_says_the_same_twice(entry: Entry, clients: int, d: int) -> None:
    watches = [Watch((entry, entry.validate({})))]
    told = []
    for _ in range(2):
        memory: Any = {}
        said = []
        for number, updates in enumerate(rounds(clients, d, 45), 1):
            huge = 1e6 if number >= 28 else 1.0
            known = situation(clients, d, stream=Stream(0, "defence", number))
            verdict = chain("mean")(huge * updates, known)
            before = verdict.update.clone(), verdict.norms.clone()
            seen = watch(watches, verdict, known, memory, known.params + verdict.update)
            assert torch.equal(verdict.update, before[0])
            assert torch.equal(verdict.norms, before[1])
            assert not [event for event in seen.events if event.what == "monitor_failed"]
            memory = seen.memory
            said.append(seen.events)
        told.append((said, {name: value.tolist() for name, value in memory.items()}))
    assert told[0] == told[1]
    assert any(event.what == "alarm" for events in told[0][0][27:] for event in events)


# What the server does


@monitor()
def nervous(update, client_ids, state):  # type: ignore[no-untyped-def]
    """An alarm in every second round."""
    turn = state.get("turn", torch.zeros(())) + 1
    alarm = Alarm("it is the second", (int(client_ids[0]),)) if int(turn) % 2 == 0 else None
    return alarm, {"turn": turn}


@monitor()
def broken(norms):  # type: ignore[no-untyped-def]
    """Fail."""
    raise KeyError("lost")


@monitor()
def wrong(norms):  # type: ignore[no-untyped-def]
    """Suspect somebody else."""
    return Alarm("him", (77,))


def served(server: Server, action: str, updates: list[Tensor], *others: Watch) -> list[Any]:
    monitors = (watched({"name": nervous, "action": action}), *others)
    params, previous = torch.zeros(5), torch.zeros(5)
    defence, known, memory, seen = chain("foolsgold"), {}, {}, {}
    made = []
    for number, rows in enumerate(updates, 1):
        stream = Stream(0, "defence", number)
        now = situation(params=params, previous=previous, stream=stream, state=known)
        got = server.serve(rows, now, defence, memory, round=number, rounds=4, monitors=monitors, watched=seen)
        params, previous, known, memory, seen = got.params, got.previous, got.verdict.state, got.memory, got.watched
        made.append(got)
    return made


SERVER = Server(optimizer="adam", lr=0.1)


def test_a_warning_leaves_the_round_as_it_is_and_a_rollback_takes_it_back_whole() -> None:
    updates = rounds(4, 5, 4)
    plain = served(SERVER, "warn", updates)
    back = served(SERVER, "rollback", updates)
    first = plain[0]
    for one, other in ((plain[0], back[0]),):
        assert torch.equal(one.params, other.params)
        assert [e.what for e in (*one.verdict.events, *other.verdict.events)] == []
    assert [(e.what, e.clients) for e in plain[1].verdict.events] == [("alarm", (0,))]
    assert plain[1].verdict.events[0].detail == "nervous: it is the second"
    assert [(e.what, e.clients) for e in back[1].verdict.events] == [("alarm", (0,)), ("rollback", ())]
    assert not torch.equal(plain[1].params, first.params)
    assert torch.equal(back[1].params, first.params)
    assert torch.equal(back[1].previous, first.previous)
    for before, after in ((first.memory, back[1].memory), (first.verdict.state, back[1].verdict.state)):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert float(back[1].watched["monitor0/turn"]) == 2  # the monitor itself goes on
    assert not back[1].verdict.skipped
    assert [made.stepped for made in (*plain[:2], *back[:2])] == [True, True, True, False]


def test_a_monitor_that_fails_is_an_event_and_disturbs_no_other() -> None:
    others = (watched(broken), watched(wrong))
    got = served(SERVER, "rollback", rounds(4, 5, 2), *others)
    for made in got:
        failed = [e.detail for e in made.verdict.events if e.what == "monitor_failed"]
        assert failed[0].endswith("broken fails with KeyError: 'lost'")
        assert failed[1].endswith("wrong suspects [77], who are not among this round's clients")
    assert [e.what for e in got[1].verdict.events] == ["alarm", "monitor_failed", "monitor_failed", "rollback"]


def test_a_skipped_round_is_shown_to_no_monitor() -> None:
    got = served(SERVER, "rollback", [torch.full((4, 5), torch.nan), *rounds(4, 5, 2)])
    assert got[0].verdict.skipped
    assert [float(made.watched.get("monitor0/turn", torch.zeros(()))) for made in got] == [0, 1, 2]


# In runs

TABLE: dict[str, Any] = {
    "name": "watched",
    "rounds": 12,
    "evaluate_every": 12,
    "data": {"name": "digits"},
    "model": {"name": "mlp", "hidden": [16]},
    "clients": {"count": 8, "local": {"lr": 0.1, "epochs": 2}},
    "threat": {
        "malicious": 2,
        "data": {"name": "badnets"},
        "update": {"name": "model_replacement"},
        "schedule": {"at": [11]},
    },
    "defence": {"monitors": [{"name": "norm_jump", "window": 6, "action": "rollback"}]},
}


def played(table: dict[str, Any]) -> tuple[State, list[Record]]:
    config, records = parse(table), []
    with parallel.using(2):
        world, state = build(config)
        while state.round < config.rounds:
            state, record = play(state, world)
            records.append(record)
    return state, records


def test_a_replaced_model_is_rolled_back_and_who_sent_it_suspected() -> None:
    asr = {}
    for action in ("warn", "rollback"):
        monitors = [{"name": "norm_jump", "window": 6, "action": action}]
        _, records = played({**TABLE, "rounds": 11, "evaluate_every": 11, "defence": {"monitors": monitors}})
        events = {record["round"]: {e["what"]: e["clients"] for e in record["events"]} for record in records}
        assert events[11]["alarm"] == records[10]["malicious"]
        assert ("rollback" in events[11]) == (action == "rollback")
        asr[action] = records[-1]["asr"]
    assert asr["warn"] > asr["rollback"] + 0.2


def test_alarms_and_monitors_that_fail_are_said_under_tables(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        'from fedpoison import monitor\n\n@monitor()\ndef lost(norms):\n    "Fail."\n    raise KeyError("it")\n'
    )
    monitors = [{"name": "norm_jump", "window": 6, "action": "rollback"}, "own.py:lost"]
    config = parse({**TABLE, "rounds": 11, "evaluate_every": 11, "defence": {"monitors": monitors}}, tmp_path)
    said = happened([simulate(config, tmp_path)])
    failed, *others = said
    assert others == [
        "1 of 11 rounds had an alarm: norm_jump",
        "1 of 11 rounds were taken back: a monitor's alarm",
    ]
    assert failed.startswith("11 of 11 rounds: a monitor failed: ")
    assert failed.endswith("own.py:6: lost fails with KeyError: 'it'")


def test_a_watched_run_that_is_cut_ends_as_an_uncut_one(tmp_path: Path) -> None:
    whole, records = played(TABLE)

    def cut(record: Record) -> None:
        if record["round"] in (9, 11):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            simulate(parse(TABLE), tmp_path, cut)
    folder = simulate(parse(TABLE), tmp_path)
    assert torch.equal(load_file(folder.model)["params"], whole.params)
    assert [r["events"] for r in folder.records()] == [r["events"] for r in records]


def test_monitors_stand_in_the_configuration_as_they_were_given() -> None:
    config = parse(TABLE)
    (table,) = config.table()["defence"]["monitors"]
    assert table == {"name": "norm_jump", "window": 6, "threshold": 3.5, "action": "rollback"}
    assert parse(config.table()).hash == config.hash
    assert "defence.monitors.0" in config.components
    without = parse({**TABLE, "defence": {}})
    assert without.hash == parse({**TABLE, "defence": {"monitors": []}}).hash == "8fbeb5823f5a"
    warned = parse({**TABLE, "defence": {"monitors": ["norm_jump"]}})
    assert len({without.hash, config.hash, warned.hash}) == 3
    with pytest.raises(ConfigError, match="there is no monitor 'norm_jmp'"):
        parse({**TABLE, "defence": {"monitors": ["norm_jmp"]}})
    with pytest.raises(ConfigError, match=r"defence.monitors.0.action"):
        parse({**TABLE, "defence": {"monitors": [{"name": "norm_jump", "action": "panic"}]}})
    with pytest.raises(ConfigError, match=r"norm_jump.window = 0"):
        parse({**TABLE, "defence": {"monitors": [{"name": "norm_jump", "window": 0}]}})
    with pytest.raises(ValueError, match="action = 'panic' of a monitor is none of warn, rollback"):
        watched({"name": "norm_jump", "action": "panic"})


def test_the_truth_is_no_word_of_a_monitor() -> None:
    from fedpoison.contract.words import WORDS

    assert not {"malicious", "n_malicious", "own", "benign"} & WORDS["monitor"].keys()
    verdict = chain("mean")(torch.ones(4, 5), situation())
    assert watch((), verdict, replace(situation(), f=2), {}, torch.zeros(5)).events == ()
