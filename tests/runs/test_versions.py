"""Versions of a user's files: never averaged, the last is shown, the others are counted and can be asked for."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fedpoison
from fedpoison import cli
from fedpoison.common.errors import ConfigError
from fedpoison.report.figures import plot
from fedpoison.report.grouping import grouped
from fedpoison.report.pivot import pivot
from fedpoison.runs.frame import Runs

RULE = '''
from fedpoison import aggregator
from fedpoison.types import Update, Updates


@aggregator()
def mine(updates: Updates) -> Update:
    """The update of one client."""
    return updates[CLIENT].clone()
'''


@pytest.fixture
def rule(tmp_path: Path) -> Callable[[int], Path]:
    """Write mine.py so that it takes the update of a client."""

    def write(client: int) -> Path:
        (tmp_path / "mine.py").write_text(RULE.replace("CLIENT", str(client)))
        return tmp_path / "out"

    return write


def ran(out: Path, **changes: Any) -> Runs:
    base = {"name": "v", "rounds": 1, "data": "digits", "model": "logistic", "clients": {"count": 3}}
    aggregator = f"{out.parent}/mine.py:mine"
    return fedpoison.run({**base, "defence": {"aggregator": aggregator}, **changes}, out=out)


def aged(runs: Runs, seconds: float) -> None:
    """Give the files of runs an age."""
    for folder in runs.folders:
        for file in ("environment.json", "run.json"):
            os.utime(folder.path / file, (1e9 - seconds, 1e9 - seconds))


@pytest.fixture
def versions(rule: Callable[[int], Path]) -> Path:
    """Three versions of a rule, two seeds of each, beside the mean."""
    out = rule(0)
    aged(ran(out, defence={"aggregator": "mean"}, seeds=[0, 1]), 60)
    for client in range(3):
        rule(client)
        aged(ran(out, seeds=[0, 1]), 50 - 10 * client)
    return out


def accuracies(runs: Runs) -> dict[str, list[float]]:
    frame = runs.frame().sort("rule", "seed")
    return {name: frame.filter(frame["rule"] == name)["accuracy"].to_list() for name in frame["rule"].unique()}


def test_the_last_version_is_shown_and_the_others_are_counted(versions: Path) -> None:
    runs = Runs.read([versions])
    assert {run.labels["digests"].get("defence.aggregator") for run in runs.runs} == {
        None,
        ran(versions).runs[0].labels["digests"]["defence.aggregator"],  # mine.py is as it was written last
    }
    assert set(accuracies(runs)) == {"mean", "mine.py:mine"}
    (said,) = runs.left_out
    assert said.startswith("4 runs are left out, of 2 earlier versions of mine.py:mine (@1, ")
    assert said.endswith("): --only defence.aggregator=mine.py:mine@all shows all")


def test_versions_are_put_side_by_side_on_purpose(versions: Path) -> None:
    every = accuracies(Runs.read([versions], ["rule=mine.py:mine@all"]))
    assert sorted(every) == ["mine.py:mine@1", "mine.py:mine@2", "mine.py:mine@3"]
    assert len({tuple(values) for values in every.values()}) == 3
    two = Runs.read([versions], ["rule=mine.py:mine@1", "rule=mine.py:mine", "rule=mean"])
    assert sorted(accuracies(two)) == ["mean", "mine.py:mine@1", "mine.py:mine@3"]
    assert accuracies(two)["mine.py:mine@1"] == every["mine.py:mine@1"]
    made = pivot(two, ["rule"], ["attack"])
    assert made.rows == [("mean",), ("mine.py:mine@1",), ("mine.py:mine@3",)]
    assert set(grouped(two)["line"]) == {"mean", "mine.py:mine@1", "mine.py:mine@3"}
    digest = next(run.labels["digests"]["defence.aggregator"] for run in two.runs if "@1" in run.labels["rule"])
    (alone,) = accuracies(Runs.read([versions], [f"defence.aggregator=mine.py:mine@{digest[:8]}"])).items()
    assert alone == ("mine.py:mine@1", every["mine.py:mine@1"])


def test_a_version_that_is_run_again_is_the_last(versions: Path, rule: Callable[[int], Path]) -> None:
    rule(0)
    ran(versions, seeds=[0, 1])  # finished long ago: nothing is made
    runs = Runs.read([versions])
    assert accuracies(runs)["mine.py:mine"] == accuracies(Runs.read([versions], ["rule=mine.py:mine@1"])).popitem()[1]
    assert "2 earlier versions of mine.py:mine (@2, " in runs.left_out[0]


def test_what_no_run_has_is_said(versions: Path) -> None:
    for only, sentence in {
        "rule=mine.py:mine@4": "mine.py:mine has the versions @1, @2, @3",
        "rule=meen": "no run has rule=meen; did you mean 'mean'? the values are mean, mine.py:mine",
        "rul=mean": "no run has a key 'rul'; did you mean 'rule'?",
        "mean": "runs are chosen by key=value, such as rule=median, not by 'mean'",
    }.items():
        with pytest.raises(ConfigError) as caught:
            Runs.read([versions], [only])
        assert caught.value.problems[-1] == sentence


def test_runs_without_digests_are_one_unknown_version(versions: Path) -> None:
    for folder in Runs.read([versions], ["rule=mine.py:mine@1"]).folders:
        labels = json.loads((folder.path / "run.json").read_text())
        del labels["digests"]
        (folder.path / "run.json").write_text(json.dumps(labels))
        (folder.path / "sums.json").unlink()
        os.utime(folder.path / "run.json", (1e9 - 50, 1e9 - 50))
    runs = Runs.read([versions])
    assert "4 runs are left out, of 2 earlier versions of mine.py:mine (@1, …)" in runs.left_out[0]
    assert len(accuracies(Runs.read([versions], ["rule=mine.py:mine@1"]))["mine.py:mine@1"]) == 2


def test_of_runs_of_the_same_settings_and_seed_the_last_counts(tmp_path: Path) -> None:
    runs = ran(tmp_path / "out", defence={"aggregator": "mean"})
    first = runs.folders[0].path
    shutil.copytree(first, first.with_name("later"))
    aged(runs, 10)
    found = Runs.read([tmp_path / "out"])
    assert [folder.path.name for folder in found.folders] == ["later"]
    assert found.left_out == ("1 run is left out of which there is a later one of the same settings and seed",)


def test_a_corrected_table_of_data_is_another_version(tmp_path: Path) -> None:
    table, lines = tmp_path / "own.csv", [f"{i % 7},{i % 5},{'ab'[i % 2]}" for i in range(60)]
    data = {"name": "csv", "file": str(table), "label": "label"}
    for number, header in enumerate(("x,y,label", "x,z,label")):
        table.write_text("\n".join([header, *lines]) + "\n")
        aged(ran(tmp_path / "out", data=data, defence={"aggregator": "mean"}), 20 - 10 * number)
    runs = Runs.read([tmp_path / "out"])
    assert len(runs) == 1
    assert "of an earlier own.csv (@1, " in runs.left_out[0]
    assert runs.left_out[0].endswith("--only data.file=own.csv@1 shows it, @all both")
    both = Runs.read([tmp_path / "out"], ["data.file=own.csv@all"])
    assert sorted(both.frame()["data.file"]) == [f"{table}@1", f"{table}@2"]
    assert grouped(both)["panel"].n_unique() == 2


def test_every_command_that_reads_runs_says_what_is_left_out(
    versions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"note: {Runs.read([versions]).left_out[0]}\n"
    for command in (["show"], ["table"], ["table", "--format", "csv"], ["plot", "--out", str(tmp_path / "a.png")]):
        assert cli.main([command[0], str(versions), *command[1:]]) == 0
        out, err = capsys.readouterr()
        assert line in (err if command[-1] == "csv" or command[0] == "plot" else out)
    assert cli.main(["table", str(versions), "--format", "markdown"]) == 0
    assert line.removeprefix("note: ") in capsys.readouterr().out
    assert cli.main(["table", str(versions), "--only", "rule=mine.py:mine@1", "--only", "rule=mean"]) == 0
    out, _ = capsys.readouterr()
    assert "note: " not in out
    assert "mine.py:mine@1" in out


def test_load_warns_of_what_is_left_out(versions: Path) -> None:
    with pytest.warns(UserWarning, match="4 runs are left out"):
        runs = fedpoison.load(versions)
    assert len(runs) == 4
    assert repr(runs) == "<4 runs of mean, mine.py:mine against none: frame() has their rounds>" or "mine.py" in repr(
        runs
    )
    fedpoison.load(versions, only=["rule=mean"])


def test_the_figure_has_no_line_of_an_earlier_version(versions: Path, tmp_path: Path) -> None:
    plot(Runs.read([versions]), tmp_path / "a.svg")
    assert ">mine.py:mine<" in (tmp_path / "a.svg").read_text()
    plot(Runs.read([versions], ["rule=mine.py:mine@all"]), tmp_path / "b.svg")
    drawn = (tmp_path / "b.svg").read_text()
    assert all(f">mine.py:mine@{number}<" in drawn for number in (1, 2, 3))
