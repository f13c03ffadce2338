"""Numbers that cannot be meant are refused with their bound, before anything is taken or begun."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fedpoison import cli
from fedpoison.common import memory
from fedpoison.common.errors import ConfigError
from fedpoison.config.config import Config, parse
from fedpoison.config.sweep import load, put_all
from fedpoison.contract.lookup import entries
from fedpoison.contract.registry import ENTRIES
from fedpoison.defences.defence import Defence
from fedpoison.round import play
from fedpoison.runs import reckoning
from fedpoison.runs.tuning import Tune
from fedpoison.runs.world import build
from fedpoison.types import LARGEST

BASE: dict[str, Any] = {"name": "x", "rounds": 1, "data": "digits", "model": "logistic", "clients": {"count": 4}}


def numbers(table: Any, prefix: str = "") -> dict[str, FieldInfo]:
    """Every field of a table, and of those in it, that takes a number."""
    found: dict[str, FieldInfo] = {}
    for name, field in table.model_fields.items():
        inner = [part for part in (field.annotation, *getattr(field.annotation, "__args__", ())) if nested(part)]
        for part in inner:
            found |= numbers(part, f"{prefix}{name}.")
        if not inner and any(word in str(field.annotation) for word in ("int", "float")):
            found[prefix + name] = field
    return found


def nested(part: Any) -> bool:
    return isinstance(part, type) and issubclass(part, BaseModel) and "options" not in part.model_fields


FIELDS = sorted({*numbers(Config), *(f"tune.{name}" for name in numbers(Tune))})


def test_there_are_numbers() -> None:
    assert {"seed", "clients.local.lr", "clients.local.rates.milestones", "data.augment.crop", "tune.seeds"} <= {
        *FIELDS
    }
    assert len(FIELDS) > 40


@pytest.mark.parametrize("key", [key for key in FIELDS if not key.startswith("tune.")])
def test_every_number_of_a_configuration_has_a_bound(key: str) -> None:
    for value in (10**31, -(10**31), 1e300, float("inf"), float("nan")):
        many = {"betas": [value] * 2, "milestones": [value], "at": [value], "mean": [value], "std": [value]}
        many |= {"clients": [value]} if key.startswith("threat.") else {}
        given = many.get(key.split(".")[-1], value)
        changes: dict[str, Any] = {key: given}
        if key.startswith("threat.groups."):  # a list of tables, of which one alone is the threat itself
            group: dict[str, Any] = {}
            put_all(group, {key.removeprefix("threat.groups."): given})
            key, changes = key.replace("groups.", "groups.0."), {"threat.groups": [group, group]}
        if key.startswith("defence.monitors."):
            key = key.replace("monitors.", "monitors.0.")
            monitor = {"name": "norm_jump", "action": "quarantine", key.split(".")[-1]: given}
            changes = {"defence.monitors": [monitor]}
        with pytest.raises(ConfigError) as caught:
            load(BASE, changes)
        assert any(problem.startswith(key) for problem in caught.value.problems)
        key = key.replace(".0.", ".")


@pytest.mark.parametrize("kind", [kind for kind in ENTRIES if kind != "dataset"])
def test_every_number_of_an_algorithm_has_a_bound(kind: str) -> None:
    for name, entry in entries(kind).items():
        for option, parameter in entry.options.items():
            if any(word in str(parameter.annotation) for word in ("int", "float")):
                for value in (10**31, 1e300, [10**31], [[1e300]], float("inf")):
                    with pytest.raises(ValueError, match=rf"{name}\.{option} = "):
                        entry.validate({option: value})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seed": 10**40}, "seed: Input should be less than 9223372036854775808, not 1000"),
        ({"clients.count": 10**30}, "clients.count: Input should be less than or equal to 1000000, not 1000"),
        ({"sweep": {"name": ["a", "b"]}}, "sweep.name: runs are not told apart by their name"),
        ({"seeds": [0, 2**63]}, "seed: Input should be less than 9223372036854775808"),
        ({"seed": 2**20_000}, "a number has more than a thousand digits"),
        ({"name": "a" * 101}, "name: String should have at most 100 characters"),
    ],
)
def test_a_bound_is_told(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(BASE, changes)
    assert caught.value.problems[0].startswith(sentence)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data.augment": {"crop": 20}}, r"data.augment.crop = 20 leaves nothing of pictures with a side of 8"),
        ({"clients.count": 10**6}, r"1437 samples are too few for 1000000 clients"),
        (
            {"model": {"name": "mlp", "hidden": [10**7] * 3}},
            r"4 updates of 200,000,770,000,010 parameters and .* take 5",
        ),
        ({"defence.f": 5}, r"f = 5 is more than the n = 4 clients"),
    ],
)
def test_what_does_not_fit_is_told_before_it_is_made(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build(load(BASE, changes).runs[0])


def test_memory_is_reckoned_by_what_a_round_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = {"input_shape": (1, 8, 8), "n_classes": 10, "vocabulary": None}
    config = load(BASE, {"clients.momentum": 0.9, "defence.aggregator": "krum"}).runs[0]
    whole = 4 * 650 * (3 + 4 + 4)
    for has, fits in ((whole, True), (whole - 1, False)):
        monkeypatch.setattr(reckoning, "of_this_machine", lambda has=has: float(has))
        if fits:
            reckoning.check_memory(config, shown)
        else:
            with pytest.raises(ValueError, match=r"4 updates of 650 parameters .* 0\.0 GB"):
                reckoning.check_memory(config, shown)
    many = config.model_copy(update={"clients": config.clients.model_copy(update={"count": 10**6, "momentum": None})})
    monkeypatch.setattr(reckoning, "of_this_machine", lambda: 1e12)
    with pytest.raises(ValueError, match=r"the inner products of 1000000 updates take 8,000\.0 GB"):
        reckoning.check_memory(many, shown)
    assert memory.of_this_machine() > 1e8


def test_bounds_are_met_by_what_they_allow() -> None:
    """A run with the largest rates ends: in events, not in torch's words."""
    rates = {"factor": 1000.0, "milestones": [0] * 100}
    local = {"steps": 2, "lr": LARGEST, "rates": rates}
    table = {**BASE, "clients": {"count": 4, "local": local}, "server": {"lr": LARGEST, "rates": rates}}
    world, state = build(parse(table))
    state, record = play(state, world)
    assert record["skipped"]
    assert torch.isfinite(state.params).all()


@pytest.mark.parametrize(
    "text",
    [
        "[" + ".".join("a" * 400) + "]",
        "a = " + "[" * 400 + "]" * 400,
        "a = " + "[" * 20_000 + "]" * 20_000,
        "a = " + "{ b = " * 3_000 + "1" + " }" * 3_000,
        "rounds = " + "9" * 5_000,
        "rounds = 0x" + "f" * 5_000,
    ],
)
def test_a_file_that_nobody_could_follow_is_a_sentence(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.toml").write_text(text)
    assert cli.main(["run", str(tmp_path / "x.toml"), "--out", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("fedpoison: ")
    assert len(err) < 5_000
    deep: dict[str, Any] = {}
    for _ in range(2_000):
        deep = {"a": deep}
    with pytest.raises(ConfigError, match="at most 20 deep"):
        load(deep)
    with pytest.raises(ConfigError, match="at most 20 deep"):
        load(BASE, {"data": deep})


def test_smea_keeps_its_bound() -> None:
    """Five seconds at the most: as many subsets as are allowed, of few or of many."""
    rule = entries("aggregator")["smea"]
    chain = Defence((), (rule, {}))
    assert not chain.problems(22, 6)
    for n, f in ((60, 3), (150, 2), (600, 1), (10**6, 5 * 10**5 - 1)):
        assert "smea needs comb(n, f) * (n - f)**2 <= 60_000_000" in chain.problems(n, f)[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"warm_start": {"file": "a" * 300}},
        {"model": f"{'a' * 300}.py:net"},
        {"data": {"name": "csv", "file": "a" * 300, "label": "x"}},
        {"data": {"name": "parquet", "folder": "a" * 300, "label": "x"}},
        {"data": {"name": "fashion_mnist", "folder": "a" * 300}},
        {"model": "\x00.py:net"},
        {"warm_start": {"file": "\x00"}},
    ],
)
def test_a_file_that_cannot_have_such_a_name_is_not_there(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"there is no f|no folder|null|parquet: a+") as caught:
        build(load(BASE, changes).runs[0])
    assert str(caught.value).replace("\n", "").isprintable()
