"""Runs that begin with a trained model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedpoison.common.errors import ConfigError
from fedpoison.config.config import parse
from fedpoison.runs import records
from fedpoison.runs.records import RunFolder
from fedpoison.runs.simulation import simulate

ATTACKS: list[dict[str, Any]] = [{"malicious": 1, "update": "ipm"}, {"malicious": 1, "data": {"name": "label_flip"}}]


def table(**changes: Any) -> dict[str, Any]:
    return {
        "name": "t",
        "rounds": 5,
        "data": "digits",
        "model": "logistic",
        "clients": {"count": 5, "local": {"steps": 2}},
        "warm_start": {"rounds": 3},
        "threat": ATTACKS[0],
        "defence": {"aggregator": "median"},
        **changes,
    }


def model(folder: RunFolder) -> torch.Tensor:
    return load_file(folder.model)["params"]


def timeless(folder: RunFolder) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in folder.records()]


def test_cells_share_their_first_rounds(tmp_path: Path) -> None:
    cells = [table(threat=threat, defence={"aggregator": rule}) for threat in ATTACKS for rule in ("median", "mean")]
    made = [simulate(parse(cell), tmp_path) for cell in cells]
    assert len(list((tmp_path / "t").iterdir())) == 5  # four cells and what they share
    first = [timeless(folder)[:3] for folder in made]
    assert all(records == first[0] for records in first)
    assert not any(record["malicious"] for record in first[0])
    assert all(record["malicious"] for folder in made for record in timeless(folder)[3:])
    assert [record["round"] for record in made[0].records()] == [1, 2, 3, 4, 5]
    plain = parse({**table(), "rounds": 3, "threat": {}, "defence": {}, "warm_start": {"rounds": 1}})
    assert len({tuple(model(folder).tolist()) for folder in made}) == 4
    assert made[0].path.name != plain.hash


def test_the_shared_rounds_are_the_plain_run(tmp_path: Path) -> None:
    warm = simulate(parse(table()), tmp_path / "warm")
    cold = {k: v for k, v in table(rounds=3, threat={}, defence={}).items() if k != "warm_start"}
    plain = simulate(parse(cold), tmp_path / "plain")
    assert timeless(warm)[:3] == timeless(plain)
    assert parse(table()).prefix().hash == plain.path.name


def test_a_run_cut_after_its_warm_rounds_ends_the_same(tmp_path: Path) -> None:
    config = parse(table())
    whole = simulate(config, tmp_path / "whole")

    class CutError(Exception):
        pass

    def cut(record: dict[str, Any]) -> None:
        if record["round"] == 4:
            raise CutError

    with pytest.raises(CutError):
        simulate(config, tmp_path / "cut", cut)
    again = simulate(config, tmp_path / "cut")
    assert timeless(again) == timeless(whole)
    assert torch.equal(model(again), model(whole))
    (again.path / "model.safetensors").unlink()  # cut before the first round of its own: only shared ones are there
    (again.path / "rounds.jsonl").write_text("".join(json.dumps(r) + "\n" for r in again.records()[:3]))
    assert torch.equal(model(simulate(config, tmp_path / "cut")), model(whole))


def test_a_file_starts_a_run(tmp_path: Path) -> None:
    source = simulate(parse(table()), tmp_path / "a")
    file = tmp_path / "start.safetensors"
    file.write_bytes(source.model.read_bytes())
    given = table(warm_start={"file": "start.safetensors"}, rounds=1, threat={})
    started = simulate(parse(given, tmp_path), tmp_path / "b")
    cold = simulate(parse({k: v for k, v in given.items() if k != "warm_start"}), tmp_path / "b")
    assert started.records()[0]["accuracy"] > cold.records()[0]["accuracy"] + 0.05
    config = parse(given, tmp_path)
    before = config.hash
    assert before == parse(config.table()).hash
    save_file({"params": model(source) + 1}, file)
    assert parse(given, tmp_path).hash != before


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"params": torch.zeros(7)}, r"holds 7 numbers of torch.float32, the net has 650 numbers"),
        ({"other": torch.zeros(650)}, "is not a model of a run"),
        (None, "is not a model of a run"),
    ],
)
def test_a_file_that_is_no_model_of_this_net_is_refused(tmp_path: Path, content: Any, sentence: str) -> None:
    file = tmp_path / "m.safetensors"
    if content is None:
        file.write_text("no")
    else:
        save_file(content, file)
    with pytest.raises(ValueError, match=sentence):
        simulate(parse(table(warm_start={"file": "m.safetensors"}), tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"warm_start": {}}, "give rounds or file"),
        ({"warm_start": {"rounds": 2, "file": "x"}}, "there is no file x"),
        ({"warm_start": {"rounds": 5}}, r"warm_start\.rounds = 5 leave nothing of rounds = 5"),
        (
            {"threat": {**ATTACKS[0], "schedule": {"end": 3}}},
            "the attack ends in round 3, within the 3 warm ones",
        ),
        ({"threat": {**ATTACKS[0], "schedule": {"at": [1, 3]}}}, "the attack ends in round 3, within the 3 warm ones"),
        (
            {"threat": {**ATTACKS[0], "schedule": {"start": 1, "every": 9, "end": 4}}},
            "the attack ends in round 1, within the 3 warm ones",
        ),
        (
            {"threat": {**ATTACKS[0], "schedule": {"start": 1, "every": 9}}},
            "the attack starts in round 10, after the last, 5",
        ),
        ({"server": {"rates": {"cosine": True}}}, "a cosine that ends in the last round"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        parse(table(**changes))


def test_the_attack_is_said_to_be_on_after_the_warm_rounds_only() -> None:
    schedule = {"start": 2, "every": 2}
    labels = parse(table(rounds=9, threat={**ATTACKS[0], "schedule": schedule})).labels()
    assert labels["schedule"] == {"start": 4, "end": None, "every": 2, "at": None}
    at = parse(table(rounds=9, threat={**ATTACKS[0], "schedule": {"at": [2, 5, 8]}})).labels()
    assert at["schedule"]["at"] == [5, 8]


def test_an_interrupted_run_saves_its_last_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_PATIENCE", 1e9)

    def interrupt(record: dict[str, Any]) -> None:
        if record["round"] == 4:
            raise KeyboardInterrupt

    config = parse({key: value for key, value in table().items() if key != "warm_start"})
    with pytest.raises(KeyboardInterrupt):
        simulate(config, tmp_path, interrupt)
    state = RunFolder(tmp_path / "t" / config.hash).resume()
    assert state is not None
    assert state.round == 4
