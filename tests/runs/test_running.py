"""Runs from their configuration to their folder: resumed, in parallel, with users' files, with failures."""

import json
import math
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import tomli_w
import torch
from polars.testing import assert_frame_equal
from safetensors.torch import load_file

import fedpoison
from fedpoison.common import lifeline
from fedpoison.common.errors import LEFT, ConfigError, RunError
from fedpoison.config.config import Config, parse
from fedpoison.config.sweep import load
from fedpoison.contract.lookup import entries
from fedpoison.contract.vocabulary import PHASES, Record
from fedpoison.measures.metrics import DETECTION
from fedpoison.round import State
from fedpoison.runs import simulation
from fedpoison.runs.checkpoints import load_state, save_state
from fedpoison.runs.files import DESCRIPTION, RESULTS
from fedpoison.runs.frame import METRICS, Runs, _row
from fedpoison.runs.records import RunFolder
from fedpoison.runs.running import Job
from fedpoison.runs.simulation import simulate

RULES = '''
"""Rules of somebody who tries one out."""

import time
from pathlib import Path

import torch

from fedpoison import aggregator
from fedpoison.types import State, Update, Updates


@aggregator()
def momentum(updates: Updates, state: State, *, beta: float = 0.5) -> tuple[Update, State]:
    """A running mean of the means."""
    if Path(__file__).with_name("slow").exists():
        time.sleep(0.2)
    average = updates.mean(dim=0)
    kept = beta * state.get("kept", torch.zeros_like(average)) + (1 - beta) * average
    return kept, {"kept": kept, "rounds": state.get("rounds", torch.tensor(0)) + 1}


@aggregator()
def failing(updates: Updates, state: State, *, at: int = 2) -> tuple[Update, State]:
    """The mean, until it fails."""
    rounds = state.get("rounds", torch.tensor(0)) + 1
    if rounds == at and not Path(__file__).with_name("mended").exists():
        raise ArithmeticError(f"no idea what to do in round {int(rounds)}")
    return updates.mean(dim=0), {"rounds": rounds}
'''

ATTACKS = '''
"""Attackers that send what nobody should."""

import torch

from fedpoison import update_attack


@update_attack()
def send(own: torch.Tensor, n_malicious: int, params: torch.Tensor, *, what: str = "nan"):
    """Anything at all."""
    d = len(params)
    return {
        "nan": own * torch.nan,
        "one nan": own.index_fill(1, torch.tensor([d - 1]), torch.nan),
        "inf": own + torch.inf,
        "1e30": torch.full_like(own, 1e30),
        "largest": torch.full_like(own, torch.finfo(torch.float32).max),
        "double": torch.full_like(own, 1e300, dtype=torch.float64),
        "too long": torch.ones(n_malicious, d + 1),
        "too many": torch.ones(n_malicious + 1, d),
        "too few": torch.ones(max(0, n_malicious - 1), d),
        "one row": torch.ones(d),
        "a number": torch.tensor(1.0),
        "nothing": torch.empty(0),
        "a matrix each": torch.ones(n_malicious, d, 1),
        "integers": torch.ones(n_malicious, d, dtype=torch.int64),
        "integers of another shape": torch.ones(n_malicious, 3, dtype=torch.int64),
    }[what]
'''
SENT = [line.split('"')[1] for line in ATTACKS.splitlines() if line.startswith('        "')]


def table(**changes: Any) -> dict[str, Any]:
    base = {
        "name": "t",
        "rounds": 3,
        "data": {"name": "digits"},
        "model": "logistic",
        "clients": {"count": 8, "local": {"steps": 2, "batch_size": 16, "lr": 0.5}},
        "workers": 1,
    }
    return {**base, **changes}


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's rules and attacks; every round has its checkpoint, however long the last one took."""
    monkeypatch.setattr("fedpoison.runs.records._PATIENCE", 0)
    (tmp_path / "rules.py").write_text(RULES)
    (tmp_path / "attacks.py").write_text(ATTACKS)
    return tmp_path


def toml(folder: Path, **changes: Any) -> Path:
    path = folder / "experiment.toml"
    path.write_text(tomli_w.dumps(table(**changes)))
    return path


def outcome(folder: Path) -> tuple[list[Record], bytes]:
    """All that a run measured, and its model's bytes."""
    records = [{k: v for k, v in record.items() if k != "seconds"} for record in RunFolder(folder).records()]
    return records, (folder / "model.safetensors").read_bytes()


def measured(runs: Runs) -> pl.DataFrame:
    frame = runs.frame()
    return frame.drop(c for c in frame.columns if c.startswith("seconds_"))


def strict_lines(folder: Path) -> list[Record]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in (folder / "rounds.jsonl").read_text().splitlines()]


# run() and its frame


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Two defences against a backdoor, two seeds, each with its clean run."""
    return fedpoison.run(
        table(
            rounds=4,
            seeds=[0, 1],
            evaluate_every=2,
            paired_clean=True,
            threat={"malicious": 2, "data": {"name": "badnets"}, "update": "alie"},
            sweep={"defence": [{"aggregator": "mean"}, {"pre": ["nnm"], "aggregator": "krum"}]},
        ),
        out=tmp_path_factory.mktemp("compared"),
    )


def test_the_frame_has_a_row_a_round(compared: Runs) -> None:
    frame = compared.frame()
    assert len(compared.folders) == 8
    assert len(frame) == 8 * 4
    assert frame.group_by("run").agg(pl.col("round").sort())["round"].to_list() == [[1, 2, 3, 4]] * 8


def test_the_frame_has_the_columns_it_promises(compared: Runs) -> None:
    frame = compared.frame()
    assert {"run", "name", "seed", "rule", "attack", "round", "malicious", "over_budget", "skipped", "events"} <= set(
        frame.columns
    )
    assert set(METRICS) <= set(frame.columns)
    assert {"seconds_train", "seconds_attack", "seconds_defence", "seconds_evaluate"} <= set(frame.columns)
    floats = [*METRICS, "seconds_train"]
    assert all(frame.schema[column] == pl.Float64 for column in floats)
    assert {"defence.aggregator.name", "defence.pre"} <= set(frame.columns)  # in these the runs differ
    assert not {"clients.count", "rounds", "defence.f"} & set(frame.columns)  # in these they do not


def test_rules_and_attacks_are_named_after_their_parts(compared: Runs) -> None:
    named = compared.frame().select("rule", "attack", "seed").unique().sort("rule", "attack", "seed").rows()
    assert named == [(r, a, s) for r in ("mean", "nnm+krum") for a in ("badnets+alie", "none") for s in (0, 1)]


def test_damage_is_the_clean_runs_accuracy_less_the_attacked_ones(compared: Runs) -> None:
    frame = compared.frame()
    clean = frame.filter(pl.col("attack") == "none").select("rule", "seed", "round", other="accuracy")
    attacked = frame.filter(pl.col("attack") != "none").join(clean, on=["rule", "seed", "round"])
    assert len(attacked) == 16
    assert attacked["clean_accuracy"].to_list() == attacked["other"].to_list()
    due = attacked.filter(pl.col("accuracy").is_not_null())
    assert len(due) == 8
    assert due["damage"].to_list() == [
        c - a for c, a in zip(due["clean_accuracy"], due["accuracy"], strict=True) if c is not None
    ]
    assert due["damage"].abs().max() > 0
    assert set(frame.filter(pl.col("attack") == "none")["damage"].drop_nulls()) == {0.0}


def test_what_was_not_measured_is_null(compared: Runs) -> None:
    frame = compared.frame()
    for metric in ("accuracy", "asr", "clean_accuracy", "damage", "attack_success", "clean_success"):
        assert frame.filter(pl.col(metric).is_null())["round"].unique().sort().to_list() == [1, 3]
    assert frame["target_success"].is_null().all()
    assert frame.filter(pl.col("rule") == "mean")["detection_precision"].is_null().all()


def test_attack_success_is_asr_or_what_the_flip_wants(compared: Runs, tmp_path: Path) -> None:
    assert compared.frame()["attack_success"].equals(compared.frame()["asr"])
    flip = {"malicious": 2, "data": {"name": "label_flip", "source": 5, "target": 7}}
    flipped = fedpoison.run(table(rounds=2, threat=flip), out=tmp_path).frame()
    assert flipped["attack_success"].equals(flipped["target_success"])
    assert flipped["asr"].is_null().all()


def test_damage_of_a_loss_is_what_it_is_more_and_of_all_else_what_it_is_less(compared: Runs) -> None:
    due = compared.frame().filter((pl.col("attack") != "none") & pl.col("clean_accuracy").is_not_null())
    assert len(due)
    for metric, sign in (("loss", 1), ("balanced_accuracy", -1)):
        more = due[metric] - due[f"clean_{metric}"]
        assert due[f"damage_{metric}"].to_list() == pytest.approx((sign * more).to_list())
        assert more.abs().max() > 0
    assert due["damage_loss"].mean() > 0  # the attack does harm
    auc = {"auc": 0.7, "asr": None, "target_success": None, **PLAIN}
    assert _row({**auc}, {**auc, "auc": 0.9}, comparable=True)["damage_auc"] == pytest.approx(0.2)


PLAIN = {"round": 1, "malicious": [], "over_budget": False, "skipped": False, "events": []}
PLAIN |= {"detection": dict.fromkeys(DETECTION.values()), "seconds": dict.fromkeys(PHASES)}


def test_damage_is_null_without_a_clean_run(tmp_path: Path) -> None:
    frame = fedpoison.run(table(threat={"malicious": 2, "update": "ipm"}), out=tmp_path).frame()
    assert frame["damage"].is_null().all()
    assert frame["accuracy"].is_not_null().all()


def test_a_run_leaves_the_files_it_promises(compared: Runs) -> None:
    for folder in compared.folders:
        files = {path.name for path in folder.path.iterdir()} - {".lock"}
        assert files == {*DESCRIPTION, *RESULTS, "environment.json", "sums.json"}
        config, _ = folder.described()
        assert parse(config).hash == folder.path.name
        assert folder.path.parent.name == "t"
        model = load_file(folder.path / "model.safetensors")
        assert list(model) == ["params"]
        assert model["params"].shape == (650,)


def test_run_takes_a_file_and_overrides(tmp_path: Path) -> None:
    runs = fedpoison.run(toml(tmp_path), {"rounds": 1, "defence.aggregator": "median"}, tmp_path / "out")
    assert runs.frame().select("rule", "round").rows() == [("median", 1)]
    assert (tmp_path / "out" / "t").is_dir()


def test_what_is_wrong_is_said_before_anything_runs(tmp_path: Path) -> None:
    for wrong in (
        {"rounds": 0},
        {"clients": {"count": 2000}},  # of 1437 samples
        {"threat": {"malicious": 1, "data": {"name": "label_flip", "source": 10, "target": 1}}},
        {"model": {"name": "cnn", "channels": [1, 1, 1, 1]}},
        {"data": {"name": "fashion_mnist", "folder": str(tmp_path / "nowhere")}},
        {"seeds": [0, 1], "data": {"name": "digits", "partition": {"name": "dirichlet", "alpha": -1.0}}},
    ):
        with pytest.raises(ConfigError) as caught:
            fedpoison.run(table(**wrong), out=tmp_path / "out")
        assert len(caught.value.problems) == 1
    assert not (tmp_path / "out").exists()


def test_all_that_does_not_fit_is_said_at_once(tmp_path: Path) -> None:
    sources = [{"name": "label_flip", "source": source, "target": 1} for source in (10, 11)]
    with pytest.raises(ConfigError) as caught:
        fedpoison.run(table(threat={"malicious": 1}, sweep={"threat.data": sources}), out=tmp_path)
    assert [("10" in p, "11" in p) for p in caught.value.problems] == [(True, False), (False, True)]


def test_finished_runs_are_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = table(seeds=[0, 1])
    first = fedpoison.run(given, out=tmp_path)
    before = written(tmp_path)
    monkeypatch.setattr("fedpoison.runs.simulation.play", never)
    monkeypatch.setattr("fedpoison.runs.running.build", never)
    again = fedpoison.run(given, out=tmp_path)
    assert written(tmp_path) == before
    assert_frame_equal(again.frame(), first.frame())


def written(folder: Path) -> dict[Path, int]:
    """When each file was written, but for run.json, whose time says when a run was last asked for."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != "run.json"}


def never(*given: Any) -> Any:
    raise AssertionError("a finished run is made again")


def test_more_seeds_make_only_the_runs_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fedpoison.run(table(seeds=[0, 1]), out=tmp_path)
    made = counted(monkeypatch)
    runs = fedpoison.run(table(seeds=[1, 2, 0]), out=tmp_path)
    assert len(runs.folders) == 3
    assert made() == 3  # rounds of one run


def counted(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many rounds are played from now on."""
    calls, play = [], simulation.play

    def playing(*given: Any) -> Any:
        calls.append(1)
        return play(*given)

    monkeypatch.setattr(simulation, "play", playing)
    return lambda: len(calls)


def test_the_chance_that_attackers_exceed_f_is_told(tmp_path: Path) -> None:
    clients = {"count": 12, "per_round": 5}
    threat = {"malicious": 3, "update": "ipm"}
    chance = sum(math.comb(3, k) * math.comb(9, 5 - k) for k in (2, 3)) / math.comb(12, 5)
    job = Job(load(table(clients=clients, threat=threat, seeds=[0, 1])), tmp_path)
    assert job.warnings() == [
        f"with 3 of 12 clients malicious, a cohort of 5 has more than f = 1 of them in {chance:.1%} of rounds"
    ]
    for quiet in (
        table(clients={"count": 12}, threat=threat),
        table(clients=clients),
        table(clients=clients, threat={**threat, "draw": "per_cohort"}),
        table(clients=clients, threat=threat, defence={"f": "true"}),
    ):
        assert Job(load(quiet), tmp_path).warnings() == []


# Cut and taken up


class CutError(Exception):
    pass


ROUNDS = 4
MEMORIES = {
    "centered_clipping": {"pre": ["nnm"], "aggregator": {"name": "centered_clipping", "tau": 0.2}},
    "a row a client": {"aggregator": {"name": "foolsgold", "combine": "average"}},
    "all norms": {"aggregator": "clipped_clustering"},
    "a user's": {"aggregator": "rules.py:momentum"},
}


def long_run(folder: Path, defence: dict[str, Any]) -> Config:
    threat = {"malicious": 2, "update": {"name": "gaussian", "std": 0.1}, "schedule": {"start": 2}}
    clients = {"count": 8, "per_round": 6, "local": {"steps": 2, "batch_size": 16, "lr": 0.5, "momentum": 0.5}}
    return parse(table(rounds=ROUNDS, clients=clients, threat=threat, defence=defence, evaluate_every=2), folder)


def cut_after_report(config: Config, out: Path, k: int, patch: pytest.MonkeyPatch) -> None:
    """The process dies when round k is wholly written."""

    def report(record: Record) -> None:
        if record["round"] == k:
            raise CutError

    with pytest.raises(CutError):
        simulate(config, out, report)


def cut_before_checkpoint(config: Config, out: Path, k: int, patch: pytest.MonkeyPatch) -> None:
    """The process dies between the line of round k and its checkpoint."""

    def save(path: Path, state: State, check: str) -> None:
        if state.round == k:
            raise CutError
        save_state(path, state, check)

    with patch.context() as inner:
        inner.setattr("fedpoison.runs.records.save_state", save)
        with pytest.raises(CutError):
            simulate(config, out)


def cut_within_line(config: Config, out: Path, k: int, patch: pytest.MonkeyPatch) -> None:
    """The process dies while the line of round k is written."""
    cut_before_checkpoint(config, out, k, patch)
    rounds = out / config.name / config.hash / "rounds.jsonl"
    rounds.write_bytes(rounds.read_bytes()[:-20])


CUTS = [cut_after_report, cut_before_checkpoint, cut_within_line]


@pytest.mark.parametrize("cut", CUTS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("defence", MEMORIES.values(), ids=MEMORIES)
def test_a_cut_run_ends_as_an_uncut_one(
    defence: dict[str, Any], cut: Callable[..., None], users: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = long_run(users, defence)
    whole = outcome(simulate(config, users / "whole").path)
    assert len(whole[0]) == ROUNDS
    for k in range(1, ROUNDS + 1):
        out = users / f"cut{k}"
        cut(config, out, k, monkeypatch)
        folder = RunFolder(out / config.name / config.hash)
        assert not folder.finished
        assert len(folder.records()) == (k - 1 if cut is cut_within_line else k)
        seen: list[int] = []
        simulate(config, out, lambda record, seen=seen: seen.append(record["round"]))
        assert outcome(folder.path) == whole
        assert seen == list(range(1, ROUNDS + 1))
        assert not (folder.path / "checkpoint.safetensors").exists()


def test_a_run_that_is_cut_at_every_round_ends_as_an_uncut_one(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = long_run(users, MEMORIES["a user's"])
    whole = outcome(simulate(config, users / "whole").path)
    for k in range(1, ROUNDS + 1):
        for cut in reversed(CUTS):
            cut(config, users / "cut", k, monkeypatch)
    assert outcome(simulate(config, users / "cut").path) == whole


def test_a_memory_matters_to_the_runs_above(users: Path) -> None:
    """Or they would show nothing: without its memory a resumed run ends elsewhere."""
    for defence in MEMORIES.values():
        config = long_run(users, defence)
        whole = outcome(simulate(config, users / "whole").path)
        out = users / "forgetful"
        with pytest.MonkeyPatch.context() as patch:
            cut_after_report(config, out, 3, patch)
            patch.setattr("fedpoison.runs.records.load_state", forgetful)
            folder = simulate(config, out)
        assert outcome(folder.path) != whole


def forgetful(path: Path) -> State:
    state = load_state(path)
    return replace(state, previous=torch.zeros_like(state.previous), memories={**state.memories, "defence": {}})


def test_a_killed_run_ends_as_an_uncut_one(users: Path) -> None:
    experiment = toml(users, rounds=60, defence={"aggregator": "rules.py:momentum"})
    (users / "slow").touch()
    command = [sys.executable, "-m", "fedpoison.cli", "run", str(experiment), "--out", str(users / "killed")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and lines_below(users / "killed") < 2:
            time.sleep(0.01)
    finally:
        process.kill()
        status = process.wait()
    (users / "slow").unlink()
    assert status == -9
    assert 2 <= lines_below(users / "killed") < 60
    (killed,) = fedpoison.run(experiment, out=users / "killed").folders
    (whole,) = fedpoison.run(experiment, out=users / "whole").folders
    assert outcome(killed.path) == outcome(whole.path)
    assert len(whole.records()) == 60


def lines_below(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.rglob("rounds.jsonl"))


# Workers, processes, engines


def test_the_number_of_workers_changes_no_bit(tmp_path: Path) -> None:
    made = []
    for workers in (1, 2, 3):
        given = table(
            rounds=2,
            workers=workers,
            model={"name": "mlp", "hidden": [32]},
            clients={"count": 11, "local": {"epochs": 1, "batch_size": 16, "lr": 0.2, "momentum": 0.5}},
            data={"name": "digits", "partition": {"name": "dirichlet", "alpha": 0.5}},
            threat={"malicious": 3, "data": "badnets", "update": "alie"},
            sweep={"defence": [{"pre": ["nnm"], "aggregator": "trimmed_mean"}, {"aggregator": "geometric_median"}]},
        )
        runs = fedpoison.run(given, out=tmp_path / str(workers))
        made.append([outcome(folder.path) for folder in runs.folders])
    assert made[0] == made[1] == made[2]
    assert len(made[0]) == 2


def test_the_stack_changes_no_bit(tmp_path: Path) -> None:
    made = []
    for stack in (1, 3):
        given = table(rounds=2, workers=2, engine={"name": "batched", "stack": stack})
        (folder,) = fedpoison.run(given, out=tmp_path / str(stack)).folders
        made.append(outcome(folder.path))
    assert made[0] == made[1]


@pytest.mark.exhaustive
def test_two_processes_make_what_one_makes(users: Path) -> None:
    experiment = toml(
        users,
        seeds=[0],
        threat={"malicious": 2, "update": "ipm"},
        sweep={"defence.aggregator": ["mean", "rules.py:momentum", "rules.py:failing"]},
    )
    outcomes, failures = [], []
    for jobs in (1, 2):
        with pytest.raises(RunError) as caught:
            fedpoison.run(experiment, out=users / str(jobs), jobs=jobs)
        job = Job(load(experiment), users / str(jobs))
        folders = [job.folder(config).path for config in job.configs]
        assert list(caught.value.failures) == [folders[2]]
        failures.append(caught.value.failures[folders[2]])
        outcomes.append([outcome(folder) for folder in folders[:2]])
        assert (folders[2] / "error.txt").is_file()
    assert outcomes[0] == outcomes[1]
    (why,) = set(failures)
    assert re.search(r"rules\.py:\d+: failing fails with ArithmeticError: no idea what to do in round 2$", why)


@pytest.mark.parametrize("engine", ["sequential", "batched"])
def test_a_users_rule_works_under_every_engine(engine: str, users: Path) -> None:
    experiment = toml(users, engine=engine, defence={"aggregator": {"name": "rules.py:momentum", "beta": 0.25}})
    (folder,) = fedpoison.run(experiment, out=users / "out").folders
    weight = load_file(folder.path / "model.safetensors")["params"]
    plain = toml(users, defence={"aggregator": {"name": "rules.py:momentum", "beta": 0.25}})
    (other,) = fedpoison.run(plain, out=users / "plain").folders
    torch.testing.assert_close(weight, load_file(other.path / "model.safetensors")["params"])
    assert (folder.path.name == other.path.name) == (engine == "batched")


# Users' rules


def test_a_users_rule_is_found_beside_the_toml_and_swept(users: Path) -> None:
    experiment = toml(
        users,
        defence={"aggregator": "rules.py:momentum"},
        sweep={"defence.aggregator.beta": [0.0, 0.5, 0.9]},
    )
    frame = fedpoison.run(experiment, out=users / "out").frame()
    assert frame["rule"].unique().to_list() == ["rules.py:momentum"]
    assert frame["defence.aggregator.beta"].unique(maintain_order=True).to_list() == [0.0, 0.5, 0.9]
    mean = fedpoison.run(table(), out=users / "out").frame()
    without = frame.filter(pl.col("defence.aggregator.beta") == 0.0)
    assert without["accuracy"].to_list() == mean["accuracy"].to_list()
    last = frame.filter(pl.col("round") == 3)["accuracy"].to_list()
    assert len(set(last)) == 3


def test_a_users_rule_runs_again_when_its_file_changes(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = toml(users, defence={"aggregator": "rules.py:momentum"})
    (before,) = fedpoison.run(experiment, out=users / "out").folders
    kept = outcome(before.path)
    (users / "rules.py").write_text(RULES.replace("(1 - beta) * average", "(1 - beta) * 2 * average"))
    made = counted(monkeypatch)
    (after,) = fedpoison.run(experiment, out=users / "out").folders
    assert made() == 3
    assert after.path != before.path
    assert outcome(after.path) != kept
    (users / "rules.py").write_text(RULES)
    (back,) = fedpoison.run(experiment, out=users / "out").folders
    assert (back.path, made()) == (before.path, 3)


def test_a_users_option_that_is_not_there_is_refused_with_those_that_are(users: Path) -> None:
    experiment = toml(users, defence={"aggregator": {"name": "rules.py:momentum", "bta": 0.1}})
    with pytest.raises(ConfigError) as caught:
        fedpoison.run(experiment, out=users / "out")
    assert caught.value.problems == [
        "defence.aggregator: momentum has no option 'bta'; did you mean 'beta'? the options are beta"
    ]


# Failures


def test_a_failing_rule_fails_its_run_only(users: Path) -> None:
    experiment = toml(
        users,
        seeds=[0, 1],
        sweep={"defence.aggregator": ["rules.py:failing", "mean"]},
    )
    with pytest.raises(RunError, match="no idea what to do in round 2") as caught:
        fedpoison.run(experiment, out=users / "out")
    job = Job(load(experiment), users / "out")
    states = {(c.defence.rule, c.seed): job.folder(c) for c in job.configs}
    assert {key: folder.finished for key, folder in states.items()} == {
        ("rules.py:failing", 0): False,
        ("rules.py:failing", 1): False,
        ("mean", 0): True,
        ("mean", 1): True,
    }
    assert set(caught.value.failures) == {states["rules.py:failing", 0].path, states["rules.py:failing", 1].path}
    error = (states["rules.py:failing", 0].path / "error.txt").read_text()
    assert "Traceback" in error
    assert "ArithmeticError: no idea what to do in round 2" in error
    assert 'rules.py", line ' in error
    assert len(states["rules.py:failing", 0].records()) == 1
    assert not (states["mean", 0].path / "error.txt").exists()


def test_a_failed_run_is_taken_up_when_the_cause_is_gone(users: Path) -> None:
    experiment = toml(users, defence={"aggregator": "rules.py:failing"})
    with pytest.raises(RunError):
        fedpoison.run(experiment, out=users / "out")
    (users / "mended").touch()
    (folder,) = fedpoison.run(experiment, out=users / "out").folders
    (whole,) = fedpoison.run(experiment, out=users / "whole").folders
    assert outcome(folder.path) == outcome(whole.path)
    assert not (folder.path / "error.txt").exists()


def test_an_interrupt_stops_everything_and_can_be_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play = simulation.play

    def interrupted(state: Any, world: Any) -> Any:
        if state.round == 1:
            raise KeyboardInterrupt
        return play(state, world)

    with monkeypatch.context() as patch:
        patch.setattr(simulation, "play", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fedpoison.run(table(seeds=[0, 1]), out=tmp_path / "cut")
    assert len([path for path in (tmp_path / "cut" / "t").iterdir() if path.is_dir()]) == 1
    assert not list((tmp_path / "cut").rglob("error.txt"))
    cut = fedpoison.run(table(seeds=[0, 1]), out=tmp_path / "cut")
    assert_frame_equal(measured(cut), measured(fedpoison.run(table(seeds=[0, 1]), out=tmp_path / "whole")))


def test_an_interrupt_stops_runs_in_other_processes_too(users: Path) -> None:
    (users / "slow").touch()
    job = Job(load(toml(users, seeds=list(range(8)), defence={"aggregator": "rules.py:momentum"})), users / "out")

    def watch(number: int, record: Record) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job.start(watch, jobs=2)
    assert sum(job.folder(config).finished for config in job.configs) < 8


def test_runs_in_other_processes_hold_the_lifeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pool(jobs: int, **options: Any) -> Any:
        assert options["initializer"] is lifeline.hold
        raise CutError

    monkeypatch.setattr("fedpoison.runs.running.ProcessPoolExecutor", pool)
    with pytest.raises(CutError):
        Job(load(table()), tmp_path).start(jobs=2)


def test_a_run_that_another_process_is_making_is_left_alone(tmp_path: Path) -> None:
    job = Job(load(table(seeds=[0, 1])), tmp_path)
    busy, free = (job.folder(config) for config in job.configs)
    with busy.locked():
        before = sorted(busy.path.iterdir())
        failures = job.start()
        assert failures == {busy.path: LEFT}
        assert sorted(busy.path.iterdir()) == before
    assert free.finished


def test_where_nothing_can_be_written_the_run_fails_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises((RunError, ConfigError), match="file"):
        fedpoison.run(table(), out=tmp_path / "file")


def test_a_model_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="-1"):
        fedpoison.run(table(model={"name": "mlp", "hidden": [-1]}), out=tmp_path)


# Malicious clients never stop a run


OTHERS = sorted({*entries("aggregator")} - {"mean"})
SENT_TO = [
    ("mean", SENT),
    *[(rule, ["nan", "largest"]) for rule in OTHERS],  # one that is set aside, and one that the rule gets
    *[pytest.param(rule, ["1e30", "too long"], marks=pytest.mark.exhaustive) for rule in OTHERS],
]


@pytest.mark.parametrize(("rule", "sent"), SENT_TO)
def test_no_update_stops_a_run(rule: str, sent: list[str], users: Path) -> None:
    experiment = toml(
        users,
        evaluate_every=2,
        data={"name": "digits", "root": {"samples": 20}},  # FLTrust needs some
        clients={"count": 11, "local": {"steps": 2, "batch_size": 16}},  # as many as Bulyan needs
        threat={"malicious": 2, "update": "attacks.py:send", "schedule": {"start": 2}},
        defence={
            "aggregator": {"name": "gas", "groups": 20} if rule == "gas" else rule,  # a thousand by default
            **({"base": "median"} if "base" in entries("aggregator")[rule].asks else {}),
        },
        sweep={"threat.update.what": sent},
    )
    runs = fedpoison.run(experiment, out=users / "out")
    assert len(runs.folders) == len(sent)
    for folder in runs.folders:
        records = strict_lines(folder.path)
        assert [record["round"] for record in records] == [1, 2, 3]
        assert math.isfinite(records[-1]["accuracy"])
        what = folder.described()[0]["threat"]["update"]["what"]
        aside = [event for event in records[1]["events"] if event["what"] == "set_aside"]
        if what in ("1e30", "largest", "one row"):  # a vector of finite numbers from each of them
            assert not aside
        else:
            assert [event["clients"] for event in aside] == [records[1]["malicious"]]
            assert not records[1]["skipped"]


def test_a_round_of_nothing_but_nan_is_skipped(users: Path) -> None:
    experiment = toml(users, threat={"malicious": 8, "update": "attacks.py:send"}, defence={"f": 0})
    (folder,) = fedpoison.run(experiment, out=users / "out").folders
    records = strict_lines(folder.path)
    assert all(record["skipped"] for record in records)
    assert len({record["loss"] for record in records}) == 1


def test_a_cut_run_with_skipped_rounds_ends_as_an_uncut_one(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threat = {"malicious": 8, "update": "attacks.py:send", "schedule": {"start": 2, "every": 2}}
    config = parse(table(threat=threat, defence={"f": 0, "aggregator": "centered_clipping"}), users)
    whole = outcome(simulate(config, users / "whole").path)
    cut_after_report(config, users / "cut", 2, monkeypatch)
    assert outcome(simulate(config, users / "cut").path) == whole
    shutil.rmtree(users / "cut")


def test_a_process_that_dies_costs_its_own_run_only(tmp_path: Path) -> None:
    (tmp_path / "dies.py").write_text(
        "import os\nfrom fedpoison import aggregator\nfrom fedpoison.types import Weights\n\n\n"
        "@aggregator()\ndef dies(norms) -> Weights:\n    'Ends the process.'\n    os._exit(3)\n"
    )
    rules = [f"{tmp_path / 'dies.py'}:dies", "mean", "median"]
    table = {"name": "t", "rounds": 2, "data": {"name": "digits"}, "model": "logistic", "clients": {"count": 4}}
    job = Job(load({**table, "sweep": {"defence.aggregator": rules}}), tmp_path)
    failures = job.start(jobs=2)
    (died,) = failures
    assert failures[died] == "its process died"
    assert [job.folder(config).finished for config in job.configs] == [False, True, True]
