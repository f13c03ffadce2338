"""Functions that are given themselves: what tells them apart, what is refused, and where they run."""

import importlib
import threading
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fedpoison
from fedpoison import aggregator, data_attack, dataset, partition, preaggregator, update_attack
from fedpoison.common.errors import ConfigError
from fedpoison.config.config import Config, parse
from fedpoison.contract.lookup import entries
from fedpoison.data import Dataset
from fedpoison.runs.world import build
from fedpoison.types import Mixing, Update, Updates

TABLE: dict[str, Any] = {
    "name": "t",
    "rounds": 1,
    "data": "digits",
    "model": {"name": "mlp", "hidden": [2]},
    "clients": {"count": 4, "local": {"steps": 1}},
}


def given(rule: Any) -> Config:
    return parse({**TABLE, "defence": {"aggregator": rule}})


def scaled(scale: Any) -> Callable[..., Any]:
    """A rule as a cell of a notebook would define it, with a value that it uses."""

    @aggregator()
    def mine(updates: Updates, *, power: float = 1.0) -> Update:
        """The mean, scaled."""
        return updates.mean(dim=0) * float(np.sum(scale)) ** power

    return mine


class Small(nn.Sequential):
    """Logistic regression."""

    def __init__(self, input_shape: tuple[int, ...], n_classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, n_classes))


def test_an_experiment_of_functions_runs(tmp_path: Path) -> None:
    @dataset(licence="mine")
    def two() -> Dataset:
        """Two classes."""
        images, labels = torch.rand(40, 64), torch.arange(40) % 2
        return Dataset(images, labels, images, labels, n_classes=2)

    @partition()
    def turns(labels, n_clients):  # type: ignore[no-untyped-def]
        """In turn."""
        return [np.arange(i, len(labels), n_clients) for i in range(n_clients)]

    @data_attack(aim=lambda images, labels, n_classes: (images, -torch.ones_like(labels)), goal="availability")
    def zeros(images, labels):  # type: ignore[no-untyped-def]
        """Nothing is left."""
        return 0 * images, labels

    @update_attack()
    def turned(own):  # type: ignore[no-untyped-def]
        """The other way."""
        return -own

    @preaggregator()
    def same(n: int) -> Mixing:
        """As they are."""
        return torch.eye(n)

    table = {
        **TABLE,
        "data": {"name": two, "partition": turns},
        "model": Small,
        "threat": {"malicious": 1, "data": zeros, "update": turned},
        "defence": {"pre": [same], "aggregator": {"name": scaled(2.0), "power": 2.0}},
        "sweep": {"defence.aggregator.name": [scaled(2.0), "median"]},
    }
    runs = fedpoison.run(table, {"clients.count": 5}, out=tmp_path)
    frame = runs.frame()
    assert frame["accuracy"].null_count() == 0
    pre = f"{__name__}:test_an_experiment_of_functions_runs.<locals>.same"
    assert set(frame["rule"]) == {f"{pre}+median", f"{pre}+{__name__}:scaled.<locals>.mine"}
    described = [folder.described() for folder in runs.folders]
    assert all(
        {"data", "model", "threat.update", "defence.pre.0"} <= labels["digests"].keys() for _, labels in described
    )


ARRAYS = [np.ones(2), np.ones(3), torch.ones(2)]
VALUES = [2, 3, 2.0, "2", [2], (2,), None, {"a": 1}, {1, 2}, np.sum, torch.float32, *ARRAYS]


def test_the_hash_takes_the_source_and_what_it_uses() -> None:
    assert given(scaled(2)).hash == given(scaled(2)).hash
    assert len({given(scaled(value)).hash for value in VALUES}) == len(VALUES)

    def first(updates: Updates) -> Update:
        return updates[0] + 0

    def last(updates: Updates) -> Update:
        return updates[-1] + 0

    def helped(helper: Callable[[Updates], Update]) -> Callable[..., Any]:
        @aggregator()
        def mine(updates: Updates) -> Update:
            """What the helper says."""
            return helper(updates)

        return mine

    assert given(helped(first)).hash == given(helped(first)).hash != given(helped(last)).hash


def test_a_class_is_told_by_its_members() -> None:
    def net(width: int, bias: bool) -> type:
        class Net(nn.Module):
            wide = width

            def __init__(self, input_shape, n_classes):  # type: ignore[no-untyped-def]
                super().__init__()
                self.inner = nn.Linear(64, n_classes, bias=bias)

            @property
            def doubled(self) -> int:
                return 2 * self.wide

            def forward(self, x):  # type: ignore[no-untyped-def]
                return self.inner(x.flatten(1))

        return Net

    hashes = [parse({**TABLE, "model": net(*args)}).hash for args in ((1, True), (1, True), (2, True), (1, False))]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3
    build(parse({**TABLE, "model": {"name": net(1, True)}}))


def test_ours_and_what_a_module_holds_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    krum = entries("aggregator")["krum"].function
    assert given(krum).hash == given("krum").hash
    (tmp_path / "held_rules.py").write_text(
        "from fedpoison import aggregator\nfrom fedpoison.types import Update, Updates\n\n"
        '@aggregator()\ndef mine(updates: Updates) -> Update:\n    """The first."""\n    return updates[0].clone()\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    rule = importlib.import_module("held_rules").mine
    assert given(rule).hash == given("held_rules:mine").hash
    assert given(rule).defence.aggregator.name == "held_rules:mine"
    loaded = given("held_rules:mine").defence.aggregator.entry.function
    assert given(loaded).hash == given("held_rules:mine").hash
    loaded = given(f"{tmp_path}/held_rules.py:mine").defence.aggregator.entry.function
    assert given(loaded).defence.aggregator.name == f"{tmp_path}/held_rules.py:mine"


def test_what_cannot_be_told_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (threading.Lock(), nn.Linear(2, 2)):
        with pytest.raises(ConfigError, match=r"mine uses scale, a \w+, of which no digest can"):
            given(scaled(value))
    (tmp_path / "own_helper.py").write_text("def row():\n    return 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    helper = importlib.import_module("own_helper")
    for value in (helper, helper.row):
        with pytest.raises(ConfigError, match="mine uses scale of own_helper, a module of your own"):
            given(scaled(value))
    space: dict[str, Any] = {"__name__": "__main__"}
    exec("def net(input_shape, n_classes):\n    pass", space)
    with pytest.raises(ConfigError, match="net has no source here: put it in a file"):
        parse({**TABLE, "model": space["net"]})
    with pytest.raises(ConfigError, match="is not a function with the aggregator decorator"):
        given(print)
    with pytest.raises(ConfigError, match="is no model"):
        parse({**TABLE, "model": print})


def test_other_processes_have_not_got_it(tmp_path: Path) -> None:
    table = {**TABLE, "defence": {"aggregator": scaled(2.0)}}
    for jobs in (2, "ray"):
        with pytest.raises(ConfigError, match=r"mine was given as a function, .*: take jobs = 1, or put it in a file"):
            fedpoison.run(table, out=tmp_path, jobs=jobs)
    with pytest.raises(ConfigError, match="needs an experiment that other processes can build again"):
        fedpoison.run(
            {**TABLE, "model": Local(), "engine": {"name": "flower", "transport": "simulation"}}, out=tmp_path
        )
    with pytest.raises(ConfigError, match="was given as a function in another process: put it in a file"):
        given("__main__:mine")


def Local() -> type:
    class Net(Small):
        pass

    return Net


def test_a_run_is_kept_under_the_name_that_was_given(tmp_path: Path) -> None:
    runs = fedpoison.run({**TABLE, "defence": {"aggregator": scaled(3.0)}}, out=tmp_path)
    config = tomllib.loads((runs.folders[0].path / "config.toml").read_text())
    assert config["defence"]["aggregator"]["name"] == f"{__name__}:scaled.<locals>.mine"
    assert parse(config).hash == runs.folders[0].path.name  # in this process
