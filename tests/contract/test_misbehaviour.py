"""A user's file that misbehaves in 25 ways: each ends in the right results or in a sentence with its file and line."""

import re
from pathlib import Path

import pytest

import fedpoison
from fedpoison import cli
from fedpoison.common.errors import AlgorithmError
from fedpoison.contract.blame import staying

HEAD = """import os
import sys
import torch
from torch import nn
from fedpoison import *
from fedpoison.contract.registry import engine
from fedpoison.types import *
"""
NET = """class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.last, self.calls = nn.Linear(64, 10), 0
        {building}
    def forward(self, x):
        self.calls += 1
        {body}
        return self.last(x.flatten(1))
def mine(input_shape, n_classes):
    return Net()
"""
LOSS = """class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sum(1)
    @staticmethod
    def backward(ctx, g):
        {body}
@loss()
def mine(logits: Logits, labels: Labels) -> Losses:
    "A loss."
    return Twice.apply(logits)
"""
ENGINE = """class Mine:
    def train(self, params, plan):
        {body}
@engine()
def mine(model, federation, local):
    "An engine."
    return Mine()
"""


def made(decorator: str, body: str, signature: str = "updates: Updates") -> str:
    result = {"aggregator": " -> Update", "preaggregator": " -> Mixing"}.get(decorator.partition("(")[0], "")
    return f'@{decorator}\ndef mine({signature}){result}:\n    "Mine."\n    {body}\n'


def net(body: str, building: str = "pass") -> str:
    return NET.format(body=body, building=building)


MEAN = "return updates.mean(dim=0)"
AIM = "data_attack(goal='availability', aim=lambda i, l, n: (i, l))"
EXIT = "sys.exit(0)"
LATE = "if self.calls > 4: sys.exit(0)"  # after it was looked at
RULE, ATTACK, DATA, LOSSES = "defence.aggregator", "threat.update", "threat.data", "clients.local.loss"
WAYS: dict[str, tuple[str, str, int, str]] = {
    "rule: exit": (RULE, made("aggregator()", EXIT), 1, r"mine\.py:11: mine fails with SystemExit: 0"),
    "rule: exit at import": (RULE, EXIT, 2, r"mine\.py cannot be imported: SystemExit: 0 \(line 8\)"),
    "rule: base exception": (RULE, made("aggregator()", "raise GeneratorExit"), 1, r"mine\.py:11: .* GeneratorExit"),
    "rule: without words": (
        RULE,
        made("aggregator()", "raise type('Dumb', (Exception,), {'__str__': lambda self: 1 / 0})()"),
        1,
        r"mine\.py:11: mine fails with Dumb \(",
    ),
    "rule: for ever": (RULE, made("aggregator()", "return mine(updates)"), 1, r"mine\.py:11: mine fails with Recurs"),
    "rule: elsewhere": (RULE, made("aggregator()", f"os.chdir('/'); {MEAN}"), 0, ""),
    "rule: elsewhere at import": (RULE, "os.chdir('/')\n" + made("aggregator()", MEAN), 0, ""),
    "rule: params": (
        RULE,
        made("aggregator()", f"params.numpy()[:] = 7; {MEAN}", "updates: Updates, params: Params"),
        0,
        "",
    ),
    "rule: updates": (RULE, made("aggregator()", f"kept = {MEAN[7:]}; updates.numpy()[:] = 7; return kept"), 0, ""),
    "rule: float64": (RULE, made("aggregator()", "return updates.mean(dim=0).double()"), 0, ""),
    "rule: with a gradient": (RULE, made("aggregator()", "return updates.mean(dim=0).requires_grad_()"), 0, ""),
    "rule: None": (RULE, made("aggregator()", "pass"), 1, r"mine\.py:8: mine must return a tensor \[d\], not NoneType"),
    "rule: list": (
        RULE,
        made("aggregator()", "return [0.0]"),
        1,
        r"mine\.py:8: mine must return a tensor \[d\], not li",
    ),
    "step: exit": ("defence.pre", made("preaggregator()", EXIT), 1, r"mine\.py:11: mine fails with SystemExit: 0"),
    "attack: exit": (ATTACK, made("update_attack()", EXIT, "n: int"), 1, r"mine\.py:11: mine fails with SystemExit"),
    "data: exit": (DATA, made(AIM, EXIT, "images, labels"), 2, r"mine\.py:11: mine fails with SystemExit: 0"),
    "net: exit": ("model", net(EXIT), 2, r"mine\.py:15: SystemExit: 0"),
    "net: exit when it is built": ("model", net("pass", EXIT), 2, r"mine\.py:12: mine fails with SystemExit: 0"),
    "net: exit in a round": ("model", net(LATE), 1, r"mine\.py:15: SystemExit: 0 \(the traceback"),
    "net: samples": ("model", net("x.numpy()[:] = 0 if self.training else x.numpy()"), 0, ""),
    "loss: exit": (LOSSES, made("loss()", EXIT, "logits, labels"), 1, r"mine\.py:11: mine fails with SystemExit: 0"),
    "loss: exit backwards": (LOSSES, LOSS.format(body=EXIT), 1, r"mine\.py:14: SystemExit: 0 \(the traceback"),
    "monitor: exit": (
        "defence.monitors",
        made("monitor()", EXIT, "update"),
        0,
        r"mine\.py:11: mine fails with SystemE",
    ),
    "data set: exit": ("data", made("dataset(licence='')", EXIT, ""), 2, r"mine\.py:11: mine fails with SystemExit: 0"),
    "engine: exit": ("engine", ENGINE.format(body=EXIT), 1, r"mine\.py:10: SystemExit: 0 \(the traceback"),
}
"""What it is, the key that names it, the exit code, and what is said."""


def told(folder: Path, key: str, source: str) -> list[str]:
    """The command that runs an experiment in the working directory with mine.py in place of one of its parts."""
    (folder / "mine.py").write_text(HEAD + source)
    threat = "threat.malicious = 1\n" if key.startswith("threat") else ""
    parts = {"data": '"digits"', "model": '"logistic"', key: '"mine.py:mine"'}
    parts[key] = f"[{parts[key]}]" if key in ("defence.pre", "defence.monitors") else parts[key]
    lines = [f"{name} = {value}" for name, value in parts.items()]
    whole = 'name = "x"\nrounds = 1\nclients = { count = 4 }\n' if key != LOSSES else 'name = "x"\nrounds = 1\n'
    (folder / "x.toml").write_text(whole + threat + "\n".join(lines))
    return ["run", "x.toml", "--set", "clients.local.steps=2", "--out", "results"]


@pytest.mark.parametrize("way", WAYS)
def test_a_users_file_that_misbehaves_is_named_or_does_no_harm(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key, source, code, sentence = WAYS[way]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(told(tmp_path, key, source)) == code
    out, err = capsys.readouterr()
    assert Path.cwd() == tmp_path
    assert "Traceback" not in err
    assert re.search(sentence, " ".join((out + err).split())), err
    if not code:
        (record,) = fedpoison.load(tmp_path / "results" / "x").frame().to_dicts()
        assert not record["skipped"]


def test_an_exit_in_a_round_does_not_end_a_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main([*told(tmp_path, "model", net(LATE)), "--dry-run"]) == 0


def test_an_exit_in_a_module_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "exits_at_import.py").write_text("raise SystemExit(0)")
    with pytest.raises(ValueError, match=r"cannot import exits_at_import: SystemExit: 0"):
        fedpoison.aggregate("exits_at_import:mine", [[1.0]])


def test_an_exit_does_not_end_a_worker() -> None:
    with pytest.raises(AlgorithmError, match="SystemExit: 3"), staying():
        raise SystemExit(3)


def test_a_net_that_writes_to_what_it_is_shown_spoils_no_test_sample(tmp_path: Path) -> None:
    """The test samples are what they were in the next evaluation."""
    (tmp_path / "mine.py").write_text(HEAD + net("x.sub_(0.5)"))
    (tmp_path / "plain.py").write_text(HEAD + net("x = x - 0.5"))
    table = {"name": "x", "rounds": 3, "data": "digits", "clients": {"count": 4, "local": {"steps": 2}}}
    frames = [
        fedpoison.run({**table, "model": f"{tmp_path}/{file}.py:mine"}, out=tmp_path).frame()
        for file in ("mine", "plain")
    ]
    assert frames[0]["loss"].to_list() == frames[1]["loss"].to_list()
