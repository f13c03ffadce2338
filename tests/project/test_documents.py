"""The documents' examples are run as they stand."""

import re
import tomllib
from pathlib import Path

import pytest
import torch

import fedpoison
from fedpoison.clients.training import Local
from fedpoison.common.dotted import flatten
from fedpoison.config.config import Config
from fedpoison.config.sections import Clients, Data, DefenceConfig
from fedpoison.config.sweep import load
from fedpoison.config.threat import ScheduleConfig, ThreatConfig
from fedpoison.contract.lookup import load_file
from fedpoison.server import Server

ROOT = Path(__file__).parents[2]


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), flags=re.DOTALL)


def named(document: str, tmp_path: Path) -> dict[str, Path]:
    """The document's Python files, written below a folder, by name."""
    files = {}
    for block in blocks(document, "python"):
        first = block.splitlines()[0]
        if first.startswith("# ") and first.endswith(".py"):
            path = tmp_path / Path(first[2:]).name
            path.write_text(block)
            files[path.stem] = path
    return files


def test_contributed_rule_works_as_written(tmp_path):
    rule = load_file(named("CONTRIBUTING.md", tmp_path)["medoid"]).medoid
    updates = torch.tensor([[0.0], [1.0], [2.0], [50.0]], dtype=torch.float64)
    assert fedpoison.aggregate(rule, updates).update.item() == 1.0
    assert fedpoison.aggregate(rule, updates, pre=["nnm"], f=1, power=2.0).update.shape == (1,)


def test_contributed_rule_passes_its_check(tmp_path):
    rule = load_file(named("CONTRIBUTING.md", tmp_path)["medoid"]).medoid
    report = fedpoison.check(rule, effort=2)
    assert report.ok, report


def test_contributed_attack_works_as_written(tmp_path):
    attack = load_file(named("CONTRIBUTING.md", tmp_path)["opposite"]).opposite
    benign = torch.tensor([[1.0, -2.0], [3.0, -4.0]])
    crafted = fedpoison.craft(attack, benign=benign, n_malicious=2, length=0.5)
    assert torch.equal(crafted, torch.tensor([[-0.5, 0.5]] * 2))


def test_contributed_data_set_trains(tmp_path):
    path = named("CONTRIBUTING.md", tmp_path)["iris"]
    table = {"name": "iris", "rounds": 15, "data": {"name": f"{path}:iris"}, "clients": {"count": 5}}
    table["clients"]["local"] = {"lr": 0.5, "batch_size": 8, "epochs": 3}
    frame = fedpoison.run(table, out=tmp_path / "results").frame()
    assert frame["accuracy"][-1] > 0.85


def test_readme_rule_runs_and_is_swept(tmp_path, monkeypatch):
    rule = named("README.md", tmp_path)["halves"]
    experiment = next(block for block in blocks("README.md", "toml") if rule.name in block)
    table = tomllib.loads(experiment)
    monkeypatch.chdir(tmp_path)
    frame = fedpoison.run({**table, "rounds": 2}, out=tmp_path / "results").frame()
    assert frame["run"].n_unique() == len(table["sweep"]["defence.aggregator.keep"])
    assert frame["rule"].unique().to_list() == [f"{rule.name}:{rule.stem}"]


def test_readme_data_set_runs_by_nature(tmp_path, monkeypatch):
    named("README.md", tmp_path)
    experiment = next(block for block in blocks("README.md", "toml") if "mine.py" in block)
    monkeypatch.chdir(tmp_path)
    frame = fedpoison.run(tomllib.loads(experiment), out=tmp_path / "results").frame()
    assert frame["accuracy"].null_count() == 0


def test_readme_toml_in_full_runs_and_leaves_nothing_out(tmp_path):
    """Every key of the configuration is in it, but for a few that exclude others."""
    table = tomllib.loads(next(block for block in blocks("README.md", "toml") if 'name = "everything"' in block))
    runs = load(table).runs
    assert len(runs) == 3 * 4
    short = {"rounds": 12, "seeds": [0], "evaluate_every": 6, "sweep": {}, "paired_clean": False}
    threat = {**table["threat"], "schedule": {"start": 11}}
    frame = fedpoison.run({**table, **short, "threat": threat}, out=tmp_path / "results").frame()
    assert frame["events"].sum() > 0
    given = set(flatten(table))
    said = {key.split(".", 1)[1] if key.startswith("sweep.") else key for key in given}
    words = {word for key in said for word in key.split(".")}
    sections = {*Config.model_fields, *Data.model_fields, *Clients.model_fields, *ThreatConfig.model_fields}
    sections |= {*Local.model_fields, *Server.model_fields, *ScheduleConfig.model_fields, *DefenceConfig.model_fields}
    alternatives = {
        "seed",
        "engine",
        "workers",
        "steps",
        "malicious",
        "optimizer",
        "betas",
        "eps",
        "tau",
        "loss",
        "at",
        "dataset",
    }
    assert sections - words - alternatives == set()


def test_readme_lines_from_python_run(tmp_path, monkeypatch, capsys):
    code = next(block for block in blocks("README.md", "python") if block.startswith("import torch, fedpoison"))
    short = '{"rounds": 6, "seeds": [0], "paired_clean": False}'
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code.replace('{"rounds": 8}', short).replace("experiments/", f"{ROOT}/experiments/"), names)
    assert names["crafted"].shape == (4, 10_000)
    assert names["frame"]["rule"].n_unique() == 7
    assert "not finite" in capsys.readouterr().out


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_files_that_documents_name_exist(document):
    text = (ROOT / document).read_text()
    folders = "fedpoison|experiments|tests|plots|scripts"
    paths = set(re.findall(rf"`((?:{folders})/[\w./-]+)`", text))
    paths |= set(re.findall(r"\]\(([\w./-]+)\)", text))
    assert [path for path in paths if not (ROOT / path).exists()] == []
