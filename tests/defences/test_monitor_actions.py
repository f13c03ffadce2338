"""What an alarm can do besides a warning and a rollback: end the run, and put suspects in quarantine."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fedpoison.api import watched
from fedpoison.cli import main
from fedpoison.clients.federation import Federation
from fedpoison.common import parallel
from fedpoison.common.errors import ConfigError
from fedpoison.config.config import parse
from fedpoison.contract.lookup import find
from fedpoison.contract.vocabulary import Record, stopped
from fedpoison.data import Dataset
from fedpoison.defences.quarantine import free, kept_out
from fedpoison.flower import RobustStrategy
from fedpoison.round import State, play
from fedpoison.runs.happened import happened
from fedpoison.runs.simulation import simulate
from fedpoison.runs.watching import look
from fedpoison.runs.world import build

TABLE: dict[str, Any] = {
    "name": "acted",
    "rounds": 10,
    "evaluate_every": 10,
    "data": {"name": "digits"},
    "model": {"name": "mlp", "hidden": [8]},
    "clients": {"count": 8, "local": {"lr": 0.1}},
}
OWN = """
from fedpoison import Alarm, monitor

@monitor()
def at(client_ids, state, *, number: int = 1, whom: int = 1):
    "An alarm in a round, of its first clients."
    turn = state.get("turn", client_ids[:1] * 0) + 1
    suspects = tuple(client_ids[:whom].tolist())
    return (Alarm("it is time", suspects) if int(turn) == number else None), {"turn": turn}
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


def acting(*monitors: dict[str, Any], **other: Any) -> dict[str, Any]:
    return {**TABLE, **other, "defence": {"monitors": [{"name": "own.py:at", **each} for each in monitors]}}


def played(table: dict[str, Any], folder: Path) -> tuple[State, list[Record]]:
    config, records = parse(table, folder), []
    with parallel.using(2):
        world, state = build(config)
        while state.round < config.rounds:
            state, record = play(state, world)
            records.append(record)
    return state, records


# stop


def test_a_run_that_a_monitor_ends_is_whole_and_says_so(own: Path) -> None:
    config = parse(acting({"number": 4, "action": "stop"}), own)
    seen: list[int] = []
    folder = simulate(config, own, lambda record: seen.append(record["round"]))
    records = folder.records()
    assert seen == [record["round"] for record in records] == [1, 2, 3, 4]
    assert [stopped(record) for record in records] == [False, False, False, True]
    assert records[-1]["accuracy"] is not None  # the last round is evaluated, whichever it is
    assert folder.finished
    assert not (folder.path / "checkpoint.safetensors").exists()
    state, _ = played({**TABLE, "rounds": 4}, own)
    assert torch.equal(load_file(folder.model)["params"], state.params)  # the round itself counts
    simulate(config, own, lambda record: seen.append(record["round"]))
    assert seen[4:] == [1, 2, 3, 4]
    (folder.path / "sums.json").unlink()
    assert folder.damage(thorough=True) is None  # without checksums too it is known to be whole
    assert happened([folder])[-1] == "1 of 4 rounds ended the run: a monitor's alarm"


@pytest.mark.parametrize("cut", [3, 4])
def test_a_run_that_is_cut_ends_where_it_would_have(own: Path, cut: int) -> None:
    config = parse(acting({"number": 4, "action": "stop"}), own)

    def interrupt(record: Record) -> None:
        if record["round"] == cut:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(config, own, interrupt)
    folder = simulate(config, own)
    assert [record["round"] for record in folder.records()] == [1, 2, 3, 4]
    assert folder.finished


def test_a_monitor_may_take_the_last_round_back_too(own: Path) -> None:
    both = acting({"number": 4, "action": "stop"}, {"number": 4, "action": "rollback"})
    folder = simulate(parse(both, own), own)
    assert [e["what"] for e in folder.records()[-1]["events"]] == ["alarm", "alarm", "rollback", "stop"]
    state, _ = played({**TABLE, "rounds": 3}, own)
    assert torch.equal(load_file(folder.model)["params"], state.params)


def test_the_command_line_takes_an_ended_run_for_a_finished_one(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(own)
    (own / "acted.toml").write_text(
        'name = "acted"\nrounds = 9\nseeds = [0, 1]\ndata = "digits"\nmodel = { name = "mlp", hidden = [8] }\n'
        'clients.count = 4\ndefence.monitors = [{ name = "own.py:at", number = 2, action = "stop" }]\n'
    )
    assert main(["run", "acted.toml"]) == 0
    said = capsys.readouterr()
    assert "2/2" in said.out
    assert "1 of 2 rounds ended the run in 2 of 2 runs: a monitor's alarm" in " ".join((said.out + said.err).split())
    assert main(["show", "results/acted"]) == 0
    assert "2 of 9, ended by a monitor" in capsys.readouterr().out
    sweep = look(own / "results" / "acted")
    assert sweep.over
    assert sweep.seconds_left == 0
    assert (sweep.as_dict()["rounds"], sweep.as_dict()["rounds_done"]) == (4, 4)


# quarantine


def test_who_is_put_away_is_not_drawn_for_so_many_rounds(own: Path) -> None:
    clients = {"count": 8, "per_round": 5, "local": {"lr": 0.1}}
    state, records = played(
        acting({"number": 3, "whom": 2, "action": "quarantine", "for_rounds": 4}, clients=clients), own
    )
    _, plain = played({**TABLE, "clients": clients}, own)
    cohorts, usual = ([record["cohort"] for record in each] for each in (records, plain))
    away = set(cohorts[2][:2])
    assert cohorts[:3] == usual[:3]
    assert cohorts[7:] == usual[7:]
    for cohort in cohorts[3:7]:
        assert not away & set(cohort)
        assert len(set(cohort)) == 5
        assert cohort == sorted(cohort)
    assert any(away & set(cohort) for cohort in usual[3:7])
    (event,) = [e for record in records for e in record["events"] if e["what"] == "quarantine"]
    assert (event["clients"], event["detail"]) == (sorted(away), "not drawn for 4 rounds")
    assert state.memory_of("quarantine")["until"].tolist() == [7 if client in away else 0 for client in range(8)]


def test_where_nobody_is_left_rounds_are_skipped_until_somebody_is_back(own: Path) -> None:
    table = acting({"number": 2, "whom": 8, "action": "quarantine", "for_rounds": 2}, rounds=6)
    _, records = played(table, own)
    assert [len(record["cohort"]) for record in records] == [8, 8, 0, 0, 8, 8]
    assert [record["skipped"] for record in records] == [False, False, True, True, False, False]


def test_a_quarantine_outlives_a_cut(own: Path) -> None:
    table = acting({"number": 3, "action": "quarantine", "for_rounds": 4}, rounds=8)
    whole, _ = played(table, own)

    def cut(record: Record) -> None:
        if record["round"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(parse(table, own), own, cut)
    folder = simulate(parse(table, own), own)
    assert torch.equal(load_file(folder.model)["params"], whole.params)
    assert happened([folder])[-1] == "1 of 8 rounds put suspects in quarantine: a monitor's alarm"


def test_the_memory_of_who_is_away() -> None:
    assert free({}, 3) is None
    memory = kept_out({}, {1: 2, 3: 5}, 4, 5)
    assert memory["until"].tolist() == [0, 6, 0, 9, 0]
    known = [free(memory, round) for round in (6, 7, 9, 10)]
    assert [each if each is None else each.tolist() for each in known] == [[0, 2, 4], [0, 1, 2, 4], [0, 1, 2, 4], None]
    assert kept_out(memory, {}, 5, 5) is memory
    again = kept_out(memory, {3: 1, 0: 1}, 5, 5)["until"]
    assert again.tolist() == [6, 6, 0, 9, 0]  # it is never made shorter
    assert memory["until"].tolist() == [0, 6, 0, 9, 0]


def test_a_cohort_among_some_is_of_these_and_of_all_what_it_was() -> None:
    data = Dataset(torch.zeros(20, 1), torch.arange(20) % 2, torch.zeros(2, 1), torch.arange(2), 2)
    entry = find("partition", "iid")
    federation = Federation(data, (entry, entry.validate({})), 10, 3)
    assert torch.equal(federation.cohort(4, 6), federation.cohort(4, 6, torch.arange(10)))
    some = torch.tensor([1, 4, 5, 8, 9])
    drawn = [federation.cohort(number, 3, some) for number in range(30)]
    assert {*torch.cat(drawn).tolist()} == {*some.tolist()}
    assert all(len({*each.tolist()}) == 3 for each in drawn)
    assert federation.cohort(1, 6, some).tolist() == federation.cohort(1, 5, some).tolist() == some.tolist()


# What is refused


def test_a_quarantine_has_a_length_and_nothing_else_has_one() -> None:
    for monitor in (
        {"name": "norm_jump", "action": "quarantine"},
        {"name": "norm_jump", "action": "stop", "for_rounds": 3},
    ):
        with pytest.raises(ConfigError, match=r"defence.monitors.0.* quarantine lasts and nothing else: action = "):
            parse({**TABLE, "defence": {"monitors": [monitor]}})
    for span, says in (
        (None, "how long a quarantine lasts"),
        (2.5, "for_rounds"),
        (0, "at least 1"),
        (-1, "at least 1"),
    ):
        with pytest.raises(ValueError, match=says):
            watched({"name": "norm_jump", "action": "quarantine", "for_rounds": span})
    config = parse({**TABLE, "defence": {"monitors": [{"name": "norm_jump", "action": "quarantine", "for_rounds": 3}]}})
    assert parse(config.table()).hash == config.hash


def test_flower_draws_and_counts_itself() -> None:
    for each in ({"action": "stop"}, {"action": "quarantine", "for_rounds": 3}):
        with pytest.raises(ValueError, match=f"action = '{each['action']}' is for runs of an experiment"):
            RobustStrategy("mean", monitors=[{"name": "norm_jump", **each}])
