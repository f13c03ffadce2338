"""The command line: what it prints, what it returns, and how it answers mistakes."""

import gc
import inspect
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from fedpoison import __version__, cli
from fedpoison.cli.list import KINDS
from fedpoison.config.choice import parse_assignment
from fedpoison.config.sweep import load
from fedpoison.contract.lookup import entries, left_out
from fedpoison.contract.words import WORDS
from fedpoison.runs.records import RunFolder

ROOT = Path(__file__).parents[2]
COMMANDS = ("run", "list", "show", "plot", "check")
Call = Callable[..., tuple[int, str, str]]

RULE = '''
from fedpoison import aggregator
from fedpoison.types import Update, Updates


@aggregator()
def broken(updates: Updates) -> Update:
    """Fail at once."""
    raise ArithmeticError("no idea")
'''


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run a command line: its exit code, standard output and standard error."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "\x1b" not in out + err
        return code, out, err

    return run


def toml(folder: Path, **changes: Any) -> Path:
    base = {
        "name": "small",
        "rounds": 2,
        "data": {"name": "digits"},
        "model": "logistic",
        "clients": {"count": 8, "local": {"steps": 2, "batch_size": 16, "lr": 0.5}},
        "workers": 1,
    }
    path = folder / "experiment.toml"
    path.write_text(tomli_w.dumps({**base, **changes}))
    return path


ATTACKED = {
    "paired_clean": True,
    "seeds": [0, 1],
    "threat": {"malicious": 2, "data": {"name": "label_flip", "source": 5, "target": 7}},
    "sweep": {"defence.aggregator": ["mean", "krum"]},
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of two rules over two seeds and their clean runs."""
    folder = tmp_path_factory.mktemp("cli")
    assert cli.main(["run", str(toml(folder, **ATTACKED)), "--out", str(folder / "out")]) == 0
    return folder / "out"


# run


def test_run_says_what_it_makes_what_came_out_and_where_it_is(call: Call, tmp_path: Path) -> None:
    code, out, err = call("run", toml(tmp_path, **ATTACKED), "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "small: 4 runs and 4 paired clean runs; 16 of 16 rounds to play"
    made = [line for line in lines if re.match(r"\d/8  ", line)]
    for number, line in enumerate(made, start=1):
        assert re.match(rf"{number}/8  (mean|krum) · (label_flip|none) · seed [01]: accuracy 0\.\d+, ", line)
    assert len(made) == 8
    assert out.count("┡") == 1  # one table
    assert "in the last round, mean ± half of the 95 % t-interval over 2 seeds" in lines
    assert re.search(r"│ krum +│ +0\.\d{3}±\d\.\d{3} │", out)
    assert re.fullmatch(rf"8 runs in \d+\.\d s, kept in {tmp_path}/out/small", lines[-2])
    assert lines[-1] == f"next: fedpoison plot {tmp_path}/out/small"
    assert len([path for path in (tmp_path / "out" / "small").iterdir() if path.is_dir()]) == 8


def test_run_again_prints_the_same_tables(call: Call, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedpoison.runs.simulation.play", None)  # nothing is made again
    code, out, _ = call("run", results.parent / "experiment.toml", "--out", results)
    assert code == 0
    assert "8/8  " in out
    assert "in the last round, mean" in out
    assert "ms a round" not in out
    code, out, _ = call("run", results.parent / "experiment.toml", "--out", results, "--profile")
    assert code == 0
    assert "ms a round, and share of the time in rounds" in out


def test_run_takes_assignments(call: Call, tmp_path: Path) -> None:
    code, out, _ = call(
        "run",
        toml(tmp_path),
        "--set",
        "rounds=1",
        "-s",
        "defence.aggregator.name=median",
        "--set",
        "seeds=[1, 2]",
        "--set",
        'threat={ malicious = 1, update = "ipm" }',
        "--out",
        tmp_path / "out",
    )
    assert code == 0
    assert "small: 2 runs; 2 of 2 rounds to play" in out
    assert "2/2  median · ipm · seed 2" in out


def test_run_tells_the_chance_that_attackers_exceed_f(call: Call, tmp_path: Path) -> None:
    threat = {"malicious": 2, "update": "ipm"}
    path = toml(tmp_path, clients={"count": 10, "per_round": 5, "local": {"steps": 1}}, threat=threat)
    code, out, _ = call("run", path, "--out", tmp_path / "out")
    assert code == 0
    assert "note: with 2 of 10 clients malicious, a cohort of 5 has more than f = 1 of them in 22.2% of rounds" in out


@pytest.mark.parametrize(("place", "why"), [("a-file", "it is no folder"), ("dangling", "it is no folder")])
def test_results_that_cannot_be_written_are_refused_before_anything_runs(
    call: Call, tmp_path: Path, place: str, why: str
) -> None:
    (tmp_path / "a-file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    code, out, err = call("run", toml(tmp_path), "--out", tmp_path / place)
    assert (code, err) == (2, f"fedpoison: results cannot be written to '{tmp_path / place}': {why}\n")
    assert "accuracy" not in out
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "small").write_text("")
    code, _, err = call("run", toml(tmp_path), "--out", tmp_path / "out")
    assert (code, err) == (2, f"fedpoison: results cannot be written to '{tmp_path / 'out' / 'small'}': {why}\n")


def test_a_hint_can_be_pasted_where_a_path_has_a_space(call: Call, tmp_path: Path) -> None:
    code, out, _ = call("run", toml(tmp_path), "--out", tmp_path / "with space")
    assert code == 0
    assert out.endswith(f"next: fedpoison plot '{tmp_path}/with space/small'\n")


def test_a_failed_run_is_exit_code_1_and_the_others_are_finished(call: Call, tmp_path: Path) -> None:
    (tmp_path / "rule.py").write_text(RULE)
    path = toml(tmp_path, sweep={"defence.aggregator": ["rule.py:broken", "mean"]})
    code, out, err = call("run", path, "--out", tmp_path / "out")
    assert code == 1
    (error,) = (tmp_path / "out").rglob("error.txt")
    why = "rule.py:9: broken fails with ArithmeticError: no idea (the traceback is in its error.txt)"
    assert err == f"fedpoison: {error.parent} failed: {tmp_path}/{why}\n"
    assert "1/2  mean · none · seed 0" in out
    assert f"1 run in {out.split('1 run in ')[1].split(' s')[0]} s, kept in {tmp_path}/out/small" in out
    for command, options in (("show", ()), ("plot", ("--out", tmp_path / "a.png"))):
        code, out, err = call(command, tmp_path / "out", *options)
        assert code == 0
        assert "note: 1 of 2 runs is not finished (round 0 of 2)\n" in out + err


@pytest.mark.parametrize("seeds", [[0], [0, 1]])
def test_runs_that_failed_at_once_can_be_looked_at(seeds: list[int], call: Call, tmp_path: Path) -> None:
    (tmp_path / "rule.py").write_text(RULE)
    path = toml(tmp_path, seeds=seeds, defence={"aggregator": "rule.py:broken"})
    code, out, _ = call("run", path, "--out", tmp_path / "out")
    assert code == 1
    assert "0 runs in " in out
    code, out, err = call("show", tmp_path / "out")
    assert code in (0, 2)
    assert "no idea" in out or out.count("0 of 2, failed") == 2
    code, _, err = call("plot", tmp_path / "out", "--out", tmp_path / "a.png")
    assert code == 2
    assert "round" in err


def test_a_busy_run_is_exit_code_1(call: Call, tmp_path: Path) -> None:
    path = toml(tmp_path)
    (config,) = load(path).runs
    with RunFolder(tmp_path / "out" / "small" / config.hash).locked():
        code, _, err = call("run", path, "--out", tmp_path / "out")
    assert code == 1
    assert err == f"fedpoison: {tmp_path}/out/small/{config.hash}: it is left to another process, which is at it\n"


def test_an_interrupted_run_is_exit_code_130_and_goes_on(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = toml(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("fedpoison.runs.simulation.play", interrupt)
        code, _, err = call("run", path, "--out", tmp_path / "out")
    assert code == 130
    assert err == "interrupted; the same command goes on from here\n"
    assert call("run", path, "--out", tmp_path / "out")[0] == 0


def interrupt(*given: Any) -> Any:
    raise KeyboardInterrupt


# show


def test_show_one_run(call: Call, results: Path) -> None:
    (config, *_) = load(results.parent / "experiment.toml").runs
    code, out, err = call("show", results / "small" / config.hash)
    assert (code, err) == (0, "")
    assert out.startswith("mean against label_flip, seed 0: finished (2 of 2 rounds)\nround 2: accuracy")
    assert "  threat: actor = client, malicious = 2, " in out
    assert "data.name = label_flip, data.source = 5" in " ".join(out.split())
    assert out.endswith(f"all of it: {results / 'small' / config.hash / 'config.toml'}\n")
    assert len(out.splitlines()) < 30
    assert re.search(r"round 2: accuracy 0\.\d{4}, loss \d\.\d{4}, target_success 0\.\d{4}, kappa ", out)


def test_show_for_machines(call: Call, results: Path) -> None:
    code, out, _ = call("show", results / "small", "--json")
    shown = json.loads(out)
    assert code == 0
    assert len(shown) == 8
    assert all(run["finished"] and run["last"]["round"] == run["config"]["rounds"] for run in shown)


def test_show_a_run_that_was_cut_and_its_events(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = toml(tmp_path, rounds=4, threat={"malicious": 2, "update": "nan"})
    call("run", path, "--out", tmp_path / "out")
    (folder,) = (path for path in (tmp_path / "out" / "small").iterdir() if path.is_dir())
    (folder / "model.safetensors").unlink()
    rounds = (folder / "rounds.jsonl").read_text().splitlines(keepends=True)
    (folder / "rounds.jsonl").write_text("".join(rounds[:3]))
    _, out, _ = call("show", folder)
    assert "mean against nan, seed 0: cut after round 3 (3 of 4 rounds)" in out
    assert "3 × set_aside: not finite" in out


def test_show_a_folder_lists_its_runs(call: Call, results: Path) -> None:
    for folder in (results, results / "small"):
        code, out, _ = call("show", folder)
        assert code == 0
        rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines() if "·" in line]
        assert {row[0] for row in rows} == {path.name for path in (results / "small").iterdir() if path.is_dir()}
        assert [row[1] for row in rows] == [
            f"{rule} · {attack} · seed {seed}"
            for attack in ("label_flip", "none")
            for rule in ("mean", "krum")
            for seed in (0, 1)
        ]
        for row in rows:
            records = (results / "small" / row[0] / "rounds.jsonl").read_text().splitlines()
            assert row[2:4] == ["2", f"{json.loads(records[-1])['accuracy']:.3f}"]
    code, out, _ = call("show", results, "--only", "rule=krum", "--only", "attack=none")
    assert out.count("krum · none · seed") == 2
    assert "label_flip" not in out


def test_lines_of_progress_name_what_differs(call: Call, tmp_path: Path) -> None:
    sweep = {"clients.local.lr": [0.1, 0.2], "data.partition": ["iid", {"name": "dirichlet", "alpha": 1.0}]}
    _, out, _ = call("run", toml(tmp_path, seeds=[0], sweep=sweep), "--out", tmp_path / "out")
    made = re.findall(r"^\d/4  (.*): accuracy", out, flags=re.MULTILINE)
    assert made == [
        "mean · none · partition=iid lr=0.1 · seed 0",
        "mean · none · partition=dirichlet lr=0.1 · seed 0",
        "mean · none · partition=iid lr=0.2 · seed 0",
        "mean · none · partition=dirichlet lr=0.2 · seed 0",
    ]
    code, out, _ = call("watch", tmp_path / "out" / "small", "--once", "--json")
    assert code == 0
    plan = json.loads((tmp_path / "out" / "small" / "plan.json").read_text())
    assert [run["name"] for run in plan["runs"]] == made


# plot


def test_plot_prints_where_the_figure_is(call: Call, results: Path, tmp_path: Path) -> None:
    figures = tmp_path / "folder" / "a.png", tmp_path / "a.pdf"
    code, out, err = call("plot", results, "--out", figures[0], "--out", figures[1])
    assert (code, out, err) == (0, f"{figures[0]}\n{figures[1]}\n", "")
    assert all(figure.stat().st_size > 1000 for figure in figures)


def test_plot_takes_metrics_and_several_folders(call: Call, results: Path, tmp_path: Path) -> None:
    folders = sorted((results / "small").iterdir())[:2]
    figure = tmp_path / "a.svg"
    code, _, _ = call("plot", *folders, "--metric", "loss", "--metric", "kappa", "--out", figure)
    assert code == 0
    assert ">loss<" in figure.read_text()
    assert ">accuracy<" not in figure.read_text()


# list


@pytest.mark.parametrize("kind", KINDS)
def test_list_as_json_tells_all_that_is_known(kind: str, call: Call) -> None:
    code, out, err = call("list", kind, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found
    for entry in found:
        assert entry["kind"] in KINDS[kind]
        assert entry["name"].isidentifier()
        if "left_out" in entry:
            continue
        assert len(entry["summary"]) > 10
        assert isinstance(entry["options"], dict)
        if kind in ("aggregators", "preaggregators"):
            assert {"needs", "source", "evidence", "paper", "references"} <= set(entry)
        if kind in ("aggregators", "preaggregators", "attacks"):
            assert entry["source"]
            assert "::test_" in entry["evidence"]
        if entry["kind"] in ("update_attack", "training_attack"):
            assert len(entry["must_win"]) > 20
            assert set(entry["knows"]) <= {"colluders", "all", "defence"}
    names = [(entry["kind"], entry["name"]) for entry in found]
    assert len(set(names)) == len(names)


def test_list_says_what_an_attack_must_know_and_remember(call: Call) -> None:
    known = {entry["name"]: entry for entry in json.loads(call("list", "attacks", "--json")[1]) if "knows" in entry}
    assert (known["mimic"]["knows"], known["mimic"]["memory"]) == (["all"], True)
    assert (known["tailored"]["knows"], known["tailored"]["memory"]) == (["colluders", "defence"], False)
    assert known["poisonedfl"]["knows"] == known["neurotoxin"]["knows"] == []
    assert known["inf"]["must_win"].startswith("one such row makes an unscreened average infinite")
    assert "badnets" not in known


def test_list_without_a_kind_says_what_it_wants(call: Call) -> None:
    code, _, err = call("list")
    assert code == 2
    assert err == f"fedpoison: say what to list: {', '.join(KINDS)}, words\n"


def test_list_words_is_the_table_that_supplies_them(call: Call) -> None:
    known = json.loads(call("list", "words", "--json")[1])
    assert {(word["kind"], word["name"]) for word in known} == {(kind, name) for kind in WORDS for name in WORDS[kind]}
    for flags in ([], ["--markdown"]):
        code, out, err = call("list", "words", *flags)
        assert (code, err) == (0, "")
        told = re.sub(r"[│|\s]+", " ", out)
        for word in known:
            assert f" {word['name']} " in told
        assert "[r, r] float64" in told
    assert "aggregator, preaggregator" in out


def test_the_package_runs_as_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "main", lambda: 7)
    with pytest.raises(SystemExit) as left:
        runpy.run_module("fedpoison", run_name="__main__")
    assert left.value.code == 7


def test_list_as_json_has_the_defaults_and_the_bounds(call: Call) -> None:
    rules = {entry["name"]: entry for entry in json.loads(call("list", "aggregators", "--json")[1])}
    assert rules["monna"] == {"kind": "aggregator", "name": "monna", "left_out": left_out("aggregator")["monna"]}
    assert rules["krum"]["needs"] == "n > 2*f + 2"
    assert rules["mean"]["needs"] is None
    assert rules["trimmed_mean"]["kappa"] == "f/(n - 2*f)"
    assert rules["mean"]["kappa"] is None
    assert rules["centered_clipping"]["options"] == {"tau": "median", "iterations": 1}
    assert rules["multi_krum"]["options"] == {"m": None, "weighting": None}


def test_nothing_is_both_there_and_left_out() -> None:
    for kind in chain(*KINDS.values()):
        assert not entries(kind).keys() & left_out(kind).keys()


def test_the_readme_has_the_generated_tables(call: Call) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    for kind in ("aggregators", "preaggregators", "attacks", "sanitizers", "losses", "monitors"):
        assert call("list", kind, "--markdown")[1] in readme, f"fedpoison list {kind} --markdown"


@pytest.mark.parametrize("kind", KINDS)
def test_list_is_a_readable_table(kind: str, call: Call) -> None:
    found = json.loads(call("list", kind, "--json")[1])
    code, out, err = call("list", kind)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 120
    assert all(heading in lines[1] for heading in ("name", "what it does"))
    assert "options" in out
    words = re.sub(r"[│\s]+", " ", out)
    for entry in found:
        if "left_out" in entry:
            assert f"left out: {entry['name']}: {entry['left_out']}" in words
            continue
        assert any(line.startswith(f"│ {entry['name']} ") for line in lines), entry["name"]
        assert entry["summary"].split()[0] in words
        for option in entry["options"]:
            assert re.search(rf"\b{option}\b", words)
    assert "…" not in out
    assert "null" not in out  # TOML has none


# Mistakes

MISTAKES = [
    (["run"], "requires an argument"),
    (["run", "nowhere.toml"], "nowhere.toml: No such file or directory"),
    (["run", "."], ".: Is a directory"),
    (["run", "text.txt"], "text.txt is not TOML"),
    (["run", "binary.toml"], "binary.toml is not TOML"),
    (["run", "experiment.toml", "--colour", "red"], "--colour"),
    (["run", "experiment.toml", "more.toml"], "more.toml"),
    (["run", "experiment.toml", "--set", "rounds"], "--set takes key=value, not 'rounds'"),
    (["run", "experiment.toml", "--set", "=3"], "--set takes key=value, not '=3'"),
    (["run", "experiment.toml", "--set", "rounds=many"], "rounds: "),
    (["run", "experiment.toml", "--set", "ruonds=3"], "ruonds: there is no such key"),
    (["run", "experiment.toml", "--set", "rounds.x=3"], "rounds.x: rounds is 2, which has no keys"),
    (["run", "experiment.toml", "--set", "defence.aggregator=crum"], "did you mean 'krum'?"),
    (["run", "experiment.toml", "--set", "defence.aggregator=nowhere.py:rule"], "there is no file"),
    (["run", "experiment.toml", "--set", "model={name='mlp', hidden=[-1]}"], "-1"),
    (["run", "experiment.toml", "--set", "defence.pre=[{name='bucketing', s=0}]"], "bucketing.s = 0"),
    (["run", "experiment.toml", "--set", "data={name='fashion_mnist', folder='nowhere'}"], "no folder nowhere"),
    (["run", "experiment.toml", "--set", "clients.count=2000"], "1437 samples"),
    (["run", "experiment.toml", "--jobs", "0"], "--jobs must be from 1 to 1000, it is 0"),
    (["run", "experiment.toml", "--jobs", "-1"], "--jobs must be from 1 to 1000, it is -1"),
    (["run", "experiment.toml", "--jobs", "two"], "--jobs"),
    (["list"], "say what to list: aggregators, "),
    (["list", "rules"], '"aggregators"'),
    (["show"], "requires an argument"),
    (["show", "nowhere"], "there is no run in nowhere"),
    (["show", "empty"], "there is no run in empty"),
    (["show", "experiment.toml"], "there is no run in experiment.toml"),
    (["plot"], "requires an argument"),
    (["plot", "empty"], "there is no run in empty"),
    (["plot", "{results}", "empty"], "there is no run in empty"),
    (["plot", "{results}", "--metric", "acuracy"], "there is no metric 'acuracy'; did you mean 'accuracy'? there are "),
    (["plot", "{results}", "--metric", "asr"], "these runs have no asr"),
    (["plot", "{results}", "--out", "a.gif"], "figures are saved as .png, .pdf, .svg, not 'a.gif'"),
    (["plot", "{results}", "--out", "text.txt/a.png"], "text.txt"),
    (["play"], '"play"'),
    (["--colour"], "--colour"),
]


@pytest.mark.parametrize(("arguments", "sentence"), MISTAKES, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_a_mistake_is_a_sentence(
    arguments: list[str], sentence: str, call: Call, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    toml(tmp_path)
    (tmp_path / "text.txt").write_text("just words")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty").mkdir()
    code, out, err = call(
        *(argument.format(results=results) if "results" in argument else argument for argument in arguments)
    )
    assert code == 2
    assert sentence in err
    assert out == ""
    for line in err.splitlines():
        assert line.startswith("fedpoison: ")
    assert "Traceback" not in err


def test_all_mistakes_of_a_toml_are_said_a_line_each(call: Call, tmp_path: Path) -> None:
    path = toml(tmp_path, rounds=0, model="mpl", server={"lr": -1.0, "nesterov": 0.9}, seeds=[0, 1])
    code, _, err = call("run", path, "--out", tmp_path / "out")
    assert code == 2
    assert len(err.splitlines()) == 4
    assert not (tmp_path / "out").exists()


def test_where_nothing_can_be_written_is_a_sentence(call: Call, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, _, err = call("run", toml(tmp_path), "--out", tmp_path / "file")
    assert code in (1, 2)
    assert str(tmp_path / "file") in err


# Help


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_has_examples_and_its_parameters(command: str, call: Call) -> None:
    code, out, err = call(command, "--help")
    assert (code, err) == (0, "")
    text = re.sub(r"[│\s]+", " ", out)
    assert f"Usage: fedpoison {command}" in text
    assert "Examples:" in text
    assert text.count(f"fedpoison {command} ") >= 3
    codes = "0 done, 1 a run failed or a contract is broken, 2 the input is wrong, 130 interrupted, 143 terminated."
    assert f"Exit codes: {codes}" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_explains_every_parameter(command: str, call: Call) -> None:
    documented = inspect.getdoc(cli.app[command].default_command) or ""
    explained = re.findall(r"^    (\S.*)$", documented.split("----------\n")[1], flags=re.MULTILINE)
    text = re.sub(r"[│\s]+", " ", call(command, "--help")[1])
    assert explained
    for sentence in explained:
        assert sentence in text


@pytest.mark.parametrize("arguments", [[], ["--help"]], ids=["nothing", "--help"])
def test_the_help_lists_the_commands(arguments: list[str], call: Call) -> None:
    code, out, _ = call(*arguments)
    assert code == 0
    for command in COMMANDS:
        assert f"│ {command} " in out


def test_the_version_is_the_packages(call: Call) -> None:
    assert call("--version") == (0, f"{__version__}\n", "")


def examples() -> list[list[str]]:
    documented = " ".join(str(cli.app[command].default_command.__doc__) for command in COMMANDS)
    return [shlex.split(line) for line in re.findall(r"fedpoison (.+)", documented)]


def test_the_examples_are_of_every_command() -> None:
    assert {example[0] for example in examples()} == set(COMMANDS)


@pytest.mark.parametrize("example", [e for e in examples() if e[0] == "run"], ids=" ".join)
def test_an_example_does_what_it_says(example: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    _, path, *rest = example
    given = dict(parse_assignment(value) for flag, value in pairwise(rest) if flag == "--set")
    made = load(path, given)
    for run in made.runs:
        assert run.rounds == given.get("rounds", run.rounds)
        assert run.defence.rule == given.get("defence.aggregator.name", run.defence.rule)


# Quick to start


def python(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "80"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)


def test_the_package_is_imported_without_torch() -> None:
    done = python("import fedpoison, sys; assert 'torch' not in sys.modules; assert fedpoison.__version__")
    assert (done.returncode, done.stderr) == (0, "")


def test_help_is_shown_without_torch() -> None:
    done = python(
        "import sys; from fedpoison.cli import main; "
        "codes = [main(['--help']), main(['run', '--help']), main(['no'])]; assert codes == [0, 0, 2]; "
        "assert not {'torch', 'matplotlib', 'polars', 'pydantic'} & set(sys.modules)"
    )
    assert done.returncode == 0, done.stderr
    assert "Usage: fedpoison run" in done.stdout
    assert "Traceback" not in done.stderr


def test_results_are_looked_at_without_torch(results: Path) -> None:
    done = python(
        f"import sys; from fedpoison.cli import main; place = {str(next(results.iterdir()))!r}; "
        "codes = [main(['show', place]), main(['table', place]), main(['watch', place, '--once'])]; "
        "print(codes); assert not {'torch', 'matplotlib', 'pydantic'} & set(sys.modules)"
    )
    assert done.returncode == 0, done.stderr
    assert "[0, 0, 0]" in done.stdout, done.stdout


def test_a_file_that_hangs_in_a_cycle_is_written_when_a_command_ends(tmp_path: Path) -> None:
    class Log:
        def __init__(self) -> None:
            self.me, self.file = self, (tmp_path / "log.txt").open("w")
            self.detached = (tmp_path / "other.txt").open("w")
            self.raw = self.detached.detach()  # asking whether it is closed would raise an error

    log = Log()
    log.file.write("the last line")
    try:
        cli._leave()
        assert gc.get_freeze_count() > 1000
        assert (tmp_path / "log.txt").read_text() == "the last line"
    finally:
        gc.unfreeze()


# What is piped, and what a shell completes


@pytest.mark.parametrize("arguments", [["list", "aggregators"], ["list", "aggregators", "--json"]])
def test_who_reads_no_further_ends_a_listing_quietly(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", buffering=1, encoding="utf-8") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert cli.main(arguments) == 0


def test_a_pipe_that_breaks_elsewhere_is_a_failure(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(kind: str) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("fedpoison.contract.lookup.entries", lost)
    assert call("list", "aggregators") == (1, "", "fedpoison: [Errno 32] Broken pipe\n")


def test_who_reads_no_further_does_not_end_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = toml(tmp_path, seeds=[0, 1])
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", buffering=1, encoding="utf-8") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert cli.main(["run", str(path), "--out", str(tmp_path / "out")]) == 0
    assert len([*(tmp_path / "out" / "small").glob("*/model.safetensors")]) == 2


COMPLETED = [
    ("fedpoison ta", ["table"]),
    ("fedpoison table results --metric acc", ["accuracy"]),
    ("fedpoison table results --rows clients.c", ["clients.count"]),
    ("fedpoison run x.toml --set defence.aggregator=kr", ["defence.aggregator=krum"]),
    ("fedpoison run x.toml --set rounds=3 --set evaluate_", ["evaluate_every="]),
    ("fedpoison plot results --only rule=kr", ["rule=krum"]),
    ("fedpoison check geom", ["geometric_median"]),
]


def test_bash_completes_commands_and_names(call: Call, tmp_path: Path) -> None:
    code, script, err = call("completion", "bash")
    assert (code, err) == (0, "")
    asked = script + 'compopt() { :; }\nask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()\n'
    asked += '_fedpoison_joined; IFS=,; echo "${COMPREPLY[*]}"; unset IFS; }\n'
    for line, _ in COMPLETED:
        words = re.findall(r"=|[^\s=]+", line)  # as bash cuts them
        asked += f"ask {' '.join(map(shlex.quote, words))}\n"
    (tmp_path / "ask.sh").write_text(asked)
    said = subprocess.run(["bash", str(tmp_path / "ask.sh")], capture_output=True, text=True, check=True)
    assert said.stderr == ""
    expected = [found[0] if found[0].endswith("=") else found[0].rpartition("=")[2] for _, found in COMPLETED]
    assert said.stdout.splitlines() == expected


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_know_the_names_too(shell: str, call: Call) -> None:
    code, script, err = call("completion", shell)
    assert (code, err) == (0, "")
    for word in ("rule=krum", "geometric_median", "clients.local.epochs=", "balanced_accuracy"):
        assert word in script
    assert call("table", "nowhere", "--metric", "anything")[0] == 2  # and the command takes any word still
