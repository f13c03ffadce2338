"""Choosing cells, planning them, watching them, and pairing them by seed."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from fedpoison import cli
from fedpoison.clients.training import Plan, Task
from fedpoison.common.errors import ConfigError
from fedpoison.config.choice import parse_assignment
from fedpoison.config.sweep import load
from fedpoison.runs.planning import plan
from fedpoison.runs.running import Job
from fedpoison.runs.watching import look
from fedpoison.runs.world import build

ROOT = Path(__file__).parents[2]


def table(**changes: Any) -> dict[str, Any]:
    return {
        "name": "p",
        "seeds": [0, 1],
        "rounds": 3,
        "data": "digits",
        "model": "logistic",
        "clients": {"count": 6, "local": {"steps": 1}},
        "threat": {"malicious": 1, "update": "ipm"},
        "sweep": {"defence.aggregator.name": ["mean", "median", "krum"], "clients.local.lr": [0.1, 0.2]},
        **changes,
    }


UNION = [
    {"subset": "rules", "defence.aggregator.name": ["mean", "median"]},
    {"subset": "rates", "clients.local.lr": [0.05, 0.2, 0.3]},
    {"defence.aggregator.name": ["mean", "krum"]},
]


def rules(only: list[str], **changes: Any) -> list[tuple[str, float, int]]:
    return [(r.defence.rule, r.clients.local.lr, r.seed) for r in load(table(**changes), only=only).runs]


def test_an_array_of_sweeps_is_their_union() -> None:
    made = rules([], sweep=UNION, seeds=[0])
    expected = [("mean", 0.05), ("median", 0.05), ("mean", 0.2), ("mean", 0.3), ("krum", 0.05)]
    assert [(rule, lr) for rule, lr, _ in made] == expected  # mean at .05 is in all three and made once


def test_a_subset_is_made_alone() -> None:
    assert {rule for rule, _, _ in rules(["rules"], sweep=UNION)} == {"mean", "median"}
    assert len(rules(["rules", "rates"], sweep=UNION)) == 2 * 4
    with pytest.raises(ConfigError, match="the sweep has no subset 'rule': the subsets are rules, rates; cells"):
        rules(["rule"], sweep=UNION)
    with pytest.raises(ConfigError, match=r"it has none; .* such as rule=krum or attack=krum$"):
        rules(["krum"])


def test_cells_are_chosen_by_their_values() -> None:
    assert {rule for rule, _, _ in rules(["rule=krum"])} == {"krum"}
    assert rules(
        ["defence.aggregator.name=krum", "defence.aggregator.name=mean", "clients.local.lr=0.2", "seed=1"]
    ) == [
        ("mean", 0.2, 1),
        ("krum", 0.2, 1),
    ]
    assert {rule for rule, _, _ in rules(["defence.aggregator=median"])} == {"median"}
    assert len(rules(["attack=ipm"])) == 12
    with pytest.raises(ConfigError, match="no cell has rule=kurm"):
        rules(["rule=kurm"])


@pytest.mark.parametrize("key", ['sweep."clients.local.lr"', "sweep.clients.local.lr"])
def test_a_sweep_can_be_set_from_the_command_line(key: str) -> None:
    experiment = load(table(sweep={}), {key: [0.5, 0.6]})
    assert sorted({run.clients.local.lr for run in experiment.runs}) == [0.5, 0.6]
    assert parse_assignment(f"{key}=[0.5]") == (key, [0.5])


def test_all_cells_of_a_seed_have_the_same_split_cohort_attackers_and_batches() -> None:
    sweep = {"defence.aggregator.name": ["mean", "krum"], "threat.update": ["ipm", "alie"], "threat.malicious": [1]}
    worlds: dict[int, list[Any]] = {0: [], 1: []}
    clients = {"count": 8, "per_round": 5, "local": {"steps": 2}}
    for run in load(table(sweep=sweep, clients=clients)).runs:
        world, state = build(run)
        cohorts = [world.federation.cohort(r, 5).tolist() for r in (1, 2, 3)]
        shards = [world.federation.shard(i).index.tolist() for i in range(8)]
        updates = world.engine.train(state.params, Plan(run.seed, 1, (Task(0), Task(3)))).updates
        worlds[run.seed].append((cohorts, shards, sorted(world.threats[0].fixed_ids), updates.tolist()))
    for cells in worlds.values():
        assert len(cells) == 4
        assert all(cell == cells[0] for cell in cells)
    assert worlds[0][0][:2] != worlds[1][0][:2]


def test_a_plan_counts_what_is_left_and_probes_it(tmp_path: Path) -> None:
    job = Job(load(table(paired_clean=True)), tmp_path)
    planned = plan(job)
    assert (planned.runs, planned.clean, planned.finished) == (12, 12, 0)
    assert (planned.rounds, planned.rounds_left) == (72, 72)
    assert planned.swept == {"defence.aggregator.name": ["mean", "median", "krum"], "clients.local.lr": [0.1, 0.2]}
    assert planned.seconds is not None
    assert planned.bytes is not None
    assert planned.seconds > 0
    assert planned.bytes > 24 * 650 * 4
    assert not list(tmp_path.iterdir())
    job.start()
    written = sum(f.stat().st_size for f in tmp_path.rglob("*") if f.name in ("rounds.jsonl", "model.safetensors"))
    assert planned.bytes == pytest.approx(written, rel=0.3)
    after = plan(job)
    assert (after.finished, after.rounds_left, after.seconds) == (24, 0, None)


def test_what_is_soon_done_is_not_probed_before_it_is_run(tmp_path: Path) -> None:
    few, many = (Job(load(table(sweep={}, rounds=rounds)), tmp_path) for rounds in (9, 10))  # with two seeds
    assert plan(few, thorough=False).seconds is None
    assert plan(many, thorough=False).seconds is not None
    assert plan(few).seconds is not None


def test_a_probe_lets_a_failing_run_fail_later(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        "from fedpoison import aggregator\nfrom fedpoison.types import Update, Updates\n\n\n"
        '@aggregator()\ndef bad(updates: Updates) -> Update:\n    """Fail."""\n    raise ArithmeticError\n'
    )
    file = tmp_path / "e.toml"
    file.write_text(tomli_w.dumps(table(sweep={}, defence={"aggregator": "bad.py:bad"})))
    planned = plan(Job(load(file), tmp_path / "out"))
    assert (planned.runs, planned.seconds) == (2, None)


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "e.toml", tmp_path / "out"
    file.write_text(tomli_w.dumps(table()))
    assert cli.main(["run", str(file), "--out", str(out), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "p: 12 runs; 36 of 36 rounds to play" in said
    assert "clients.local.lr: 0.1, 0.2" in said
    assert "by a short probe" in said
    assert not out.exists()
    assert cli.main(["run", str(file), "--out", str(out), "--dry-run", "--json", "--only", "rule=mean"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == 4


def test_one_failed_cell_is_recorded_and_the_rest_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rule = '''
from pathlib import Path
from fedpoison import aggregator
from fedpoison.types import Params, Update, Updates

@aggregator()
def moody(updates: Updates, previous: Params, *, good: bool = True) -> Update:
    """Fail after the first round, unless there is a file beside this one."""
    if not good and previous.any() and not Path(__file__).with_name("ok").exists():
        raise ArithmeticError("a bad mood")
    return updates.mean(dim=0)
'''
    (tmp_path / "moody.py").write_text(rule)
    file, out = tmp_path / "e.toml", tmp_path / "out"
    sweep = {"defence.aggregator.good": [True, False]}
    given = table(sweep=sweep, seeds=[0], defence={"aggregator": "moody.py:moody"}, threat={})
    file.write_text(tomli_w.dumps(given))
    assert cli.main(["run", str(file), "--out", str(out), "--json"]) == 1
    said = capsys.readouterr()
    outcome = json.loads(said.out)
    assert (len(outcome["runs"]), len(outcome["failed"])) == (1, 1)
    (folder,) = outcome["failed"]
    why = outcome["failed"][folder]
    assert re.search(r"moody\.py:\d+: moody fails with ArithmeticError: a bad mood$", why)
    assert f"{folder} failed: {why}" in said.err
    assert "a bad mood" in (Path(folder) / "error.txt").read_text()
    assert look(out / "p").count("failed") == 1
    (tmp_path / "ok").touch()
    assert cli.main(["run", str(file), "--out", str(out), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 2
    assert not (Path(folder) / "error.txt").exists()


def test_watching_reads_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = Job(load(table(sweep={}, seeds=[0, 1, 2])), tmp_path)
    job.start()
    first, second, third = (job.folder(config).path for config in job.configs)
    (second / "model.safetensors").unlink()  # as if it were still running
    (second / "rounds.jsonl").write_text("".join((second / "rounds.jsonl").read_text().splitlines(keepends=True)[:2]))
    for file in third.iterdir():
        file.unlink()
    sweep = look(tmp_path / "p")
    assert [run.state for run in sweep.runs] == ["finished", "running", "waiting"]
    assert [run.done for run in sweep.runs] == [3, 2, 0]
    assert sweep.seconds_left is not None
    assert not sweep.over
    assert cli.main(["watch", str(tmp_path / "p"), "--once"]) == 0
    assert "p: 1 finished, 1 running, 1 waiting, 0 failed; 5 of 9 rounds" in capsys.readouterr().out
    assert cli.main(["watch", str(tmp_path / "p"), "--once", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rounds_done"] == 5
    long_ago = time.time() - 1000
    os.utime(second / "rounds.jsonl", (long_ago, long_ago))
    assert [run.state for run in look(tmp_path / "p").runs] == ["finished", "waiting", "waiting"]
    job.start()
    assert look(tmp_path / "p").over
    assert cli.main(["watch", str(tmp_path / "p")]) == 0  # ends, for all is done
    assert first.is_dir()


def test_where_nothing_was_started_there_is_nothing_to_watch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["watch", str(tmp_path)]) == 2
    assert "no experiment was started there" in capsys.readouterr().err


def test_watching_needs_no_torch(tmp_path: Path) -> None:
    Job(load(table(sweep={}, seeds=[0])), tmp_path).start()
    code = (
        f"import sys; from fedpoison.cli import main; assert main(['watch', {str(tmp_path / 'p')!r}, '--once']) == 0; "
        "assert not {'torch', 'pydantic', 'polars', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 finished" in done.stdout


def test_watching_says_what_tables_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = Job(load(table(sweep={}, seeds=[0], threat={"malicious": 1, "update": "alie"})), tmp_path)
    job.start()
    assert cli.main(["watch", str(tmp_path / "p"), "--once"]) == 0
    assert "all send the honest mean" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_the_commands(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert {"preview", "watch", "table", "--dry-run"} <= {
        word for word in ("preview", "watch", "table", "--dry-run") if word in script or word.lstrip("-") in script
    }
    if shell == "bash":
        assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_a_single_torch_thread_is_left_alone_by_a_plan(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    plan(Job(load(table(sweep={})), tmp_path))
    assert torch.get_num_threads() == before
