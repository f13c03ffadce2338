"""A run's folder: what a kill at any moment leaves behind, and how it is taken up."""

import ast
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fedpoison
from fedpoison.common.errors import BusyError
from fedpoison.round import State
from fedpoison.runs import records
from fedpoison.runs.checkpoints import load_state, save_state
from fedpoison.runs.files import DESCRIPTION, RESULTS
from fedpoison.runs.records import RunFolder, environment
from fedpoison.runs.sealing import seal, sound_lines

PACKAGE = Path(fedpoison.__file__).parent


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A checkpoint after every round, unless a test sets another patience."""

    def set_to(times: float) -> None:
        monkeypatch.setattr(records, "_PATIENCE", times)

    set_to(0)
    return set_to


def state(number: int = 1, **memories: Mapping[str, Tensor]) -> State:
    params = torch.arange(6, dtype=torch.float32) + number
    return State(round=number, params=params, previous=torch.full((6,), 0.5), memories=memories)


def written(folder: Path, rounds: int) -> RunFolder:
    """A run that was cut after some rounds."""
    run = RunFolder(folder)
    folder.mkdir(exist_ok=True)
    run.describe({"name": "t", "seed": 0, "rounds": rounds}, {"rule": "mean", "attack": "none"})
    for number in range(1, rounds + 1):
        run.append({"round": number, "accuracy": number / 10}, state(number))
    return run


def sealed(run: RunFolder) -> str:
    """The checksum of the last line."""
    return [*sound_lines(run.log())][-1].check


def numbers(run: RunFolder) -> list[int]:
    return [record["round"] for record in run.records()]


def same(a: State, b: State) -> bool:
    def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
        return sorted(one) == sorted(other) and all(
            one[k].dtype == other[k].dtype and torch.equal(one[k], other[k]) for k in one
        )

    vectors = torch.equal(a.params, b.params) and torch.equal(a.previous, b.previous)
    owners = {*a.memories, *b.memories}
    return a.round == b.round and vectors and all(equal(a.memory_of(o), b.memory_of(o)) for o in owners)


# Taking up a cut run


def test_checkpoints_take_a_tenth_of_the_time(
    tmp_path: Path, patience: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that a round moves by 1 and a checkpoint by 2: the first round is saved, then every eighteenth."""
    now, saved = [0.0], []

    def save(path: Path, given: State, check: str) -> None:
        now[0] += 2.0
        saved.append(given.round)

    patience(9)
    monkeypatch.setattr(records.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(records, "save_state", save)
    run = RunFolder(tmp_path)
    for number in range(1, 41):
        now[0] += 1.0
        run.append({"round": number}, state(number))
    assert saved == [1, 19, 37]
    assert numbers(run) == list(range(1, 41))


def test_rounds_after_the_last_checkpoint_are_played_again(tmp_path: Path, patience: Callable[[float], None]) -> None:
    patience(1e9)
    run = written(tmp_path, 5)
    taken_up = run.resume()
    assert taken_up is not None
    assert taken_up.round == 1
    assert numbers(run) == [1]


def test_a_folder_without_anything_has_no_rounds(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "nowhere")
    assert (run.records(), run.finished, run.resume()) == ([], False, None)


def test_a_round_is_a_line_and_the_state_after_it(tmp_path: Path) -> None:
    run = written(tmp_path, 3)
    assert run.records() == [{"round": n, "accuracy": n / 10} for n in (1, 2, 3)]
    taken_up = run.resume()
    assert taken_up is not None
    assert same(taken_up, state(3))
    assert numbers(run) == [1, 2, 3]


@pytest.mark.parametrize("rest", [b"{", b'{"round": 4, "accur', b'{"round": 4, "accuracy": 0.4}'])
def test_a_partial_last_line_is_dropped(rest: bytes, tmp_path: Path) -> None:
    run = written(tmp_path, 3)
    before = (tmp_path / "rounds.jsonl").read_bytes()
    (tmp_path / "rounds.jsonl").write_bytes(before + rest)
    assert numbers(run) == [1, 2, 3]
    taken_up = run.resume()
    assert taken_up is not None
    assert taken_up.round == 3
    assert (tmp_path / "rounds.jsonl").read_bytes() == before
    run.append({"round": 4}, state(4))
    assert numbers(run) == [1, 2, 3, 4]


def test_a_line_beyond_the_checkpoint_is_cut(tmp_path: Path) -> None:
    run = written(tmp_path, 2)
    with (tmp_path / "rounds.jsonl").open("a") as file:
        file.write('{"round": 3}\n{"round": 4}\n{"rou')
    taken_up = run.resume()
    assert taken_up is not None
    assert (taken_up.round, numbers(run)) == (2, [1, 2])


def test_lines_before_the_first_checkpoint_are_cut(tmp_path: Path) -> None:
    (tmp_path / "rounds.jsonl").write_text('{"round": 1}\n')
    assert RunFolder(tmp_path).resume() is None
    assert (tmp_path / "rounds.jsonl").read_bytes() == b""


@pytest.mark.parametrize("left", [b"", b'{"round": 1}\n', b'{"round": 1}\n{"round": 2}\n{"roun'])
def test_missing_lines_are_refused_with_a_sentence(left: bytes, tmp_path: Path) -> None:
    run = written(tmp_path, 3)
    (tmp_path / "rounds.jsonl").write_bytes(left)
    with pytest.raises(ValueError, match=r"rounds\.jsonl has \d sound rounds and the checkpoint is of round 3"):
        run.resume()


def test_a_missing_file_of_rounds_is_refused_with_a_sentence(tmp_path: Path) -> None:
    run = written(tmp_path, 3)
    (tmp_path / "rounds.jsonl").unlink()
    with pytest.raises(ValueError, match=r"has 0 sound rounds and the checkpoint is of round 3"):
        run.resume()


def test_what_json_has_no_number_for_is_never_written(tmp_path: Path) -> None:
    run = written(tmp_path, 1)
    for value in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            run.append({"round": 2, "loss": value}, state(2))
    assert run.records() == [{"round": 1, "accuracy": 0.1}]
    assert run.log().count(b"\n") == 1
    assert load_state(tmp_path / "checkpoint.safetensors").round == 1


def test_a_finished_run_has_a_model_and_no_checkpoint(tmp_path: Path) -> None:
    run = written(tmp_path, 2)
    assert not run.finished
    run.finish(torch.ones(6))
    assert run.finished
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*DESCRIPTION, *RESULTS, "environment.json", "sums.json"}
    assert json.loads((tmp_path / "sums.json").read_text()) == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir() if path.stem != "sums"
    }


def test_what_was_run_is_written_and_read(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.describe({"name": "t", "defence": {"pre": [{"name": "nnm"}], "f": 2}}, {"rule": "nnm+mean", "clean": None})
    config, labels = run.described()
    assert config == {"name": "t", "defence": {"pre": [{"name": "nnm"}], "f": 2}}
    assert labels == {"rule": "nnm+mean", "clean": None}
    assert json.loads((tmp_path / "environment.json").read_text()) == environment()
    assert {"fedpoison", "python", "torch", "numpy", "machine", "system", "cpu"} <= set(environment())
    assert environment()["torch"] == torch.__version__


# The checkpoint

MEMORIES: dict[str, dict[str, Tensor]] = {
    "none": {},
    "one": {"momentum": torch.linspace(-1, 1, 6)},
    "of every kind": {
        "double": torch.ones(2, 3, dtype=torch.float64),
        "count": torch.tensor(3),
        "mask": torch.tensor([True, False]),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "empty": torch.zeros(0, 4),
    },
    "names that others have": {"params": torch.zeros(1), "previous": torch.ones(1), "defence.a.b": torch.ones(2)},
    "transposed": {"matrix": torch.arange(6.0).view(2, 3).T},
    "a piece of something": {"row": torch.arange(60.0).view(10, 6)[3]},
}


@pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)
def test_a_checkpoint_gives_the_state_again(memory: dict[str, Tensor], tmp_path: Path) -> None:
    own = {name: tensor.clone() for name, tensor in memory.items()}
    owned = {"clients/momentum": own, "a new owner": memory}
    for given in (state(7, defence=memory), state(7, attack=memory), state(7, defence=memory, **owned)):
        save_state(tmp_path / "checkpoint.safetensors", given)
        assert same(load_state(tmp_path / "checkpoint.safetensors"), given)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]


def test_a_checkpoint_keeps_every_bit(tmp_path: Path) -> None:
    odd = torch.tensor([0.1, -0.0, 1e-45, 3e38, torch.nan, torch.inf])
    save_state(tmp_path / "c.safetensors", State(round=1, params=odd, previous=odd.flip(0)))
    again = load_state(tmp_path / "c.safetensors")
    assert torch.equal(again.params.view(torch.int32), odd.view(torch.int32))
    assert torch.equal(again.previous.view(torch.int32), odd.flip(0).view(torch.int32))


def test_a_memory_may_hold_one_tensor_twice(tmp_path: Path) -> None:
    """As `state | {"last": update, "best": update}` does, or an attack that remembers the params it saw."""
    here = state(1)
    tensor = torch.arange(6.0)
    given = state(1, defence={"last": tensor, "best": tensor}, attack={"seen": here.params})
    save_state(tmp_path / "checkpoint.safetensors", given)
    assert same(load_state(tmp_path / "checkpoint.safetensors"), given)


def test_equal_states_have_equal_bytes(tmp_path: Path) -> None:
    one, two = {"a": torch.ones(3), "b": torch.zeros(2, 2)}, {"x": torch.tensor(1)}
    backwards = dict(reversed({name: tensor.clone() for name, tensor in one.items()}.items()))
    save_state(tmp_path / "a.safetensors", state(2, defence=one, attack=two))
    save_state(tmp_path / "b.safetensors", state(2, defence=backwards, attack=two))
    strided = {"a": torch.ones(3, 2)[:, 0], "b": torch.zeros(2, 2).T}
    save_state(tmp_path / "c.safetensors", state(2, defence=strided, attack=two))
    save_state(tmp_path / "d.safetensors", state(3, defence=one, attack=two))
    a, b, c, d = (path.read_bytes() for path in sorted(tmp_path.iterdir()))
    assert a == b == c != d


# Atomicity


class PowerCutError(Exception):
    pass


def no_replace(source: Any, target: Any) -> None:
    raise PowerCutError


def test_a_crash_before_the_rename_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = written(tmp_path, 2)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", no_replace)
        with pytest.raises(PowerCutError):
            run.append({"round": 3}, state(3))
    assert numbers(run) == [1, 2, 3]  # the line is there, the checkpoint is the old one
    taken_up = run.resume()
    assert taken_up is not None
    assert same(taken_up, state(2))
    assert numbers(run) == [1, 2]
    run.append({"round": 3}, state(3))
    assert (numbers(run), load_state(tmp_path / "checkpoint.safetensors").round) == ([1, 2, 3], 3)


def test_a_crash_while_rounds_are_cut_back_leaves_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = written(tmp_path, 2)
    with (tmp_path / "rounds.jsonl").open("ab") as file:
        file.write(seal({"round": 3}, sealed(run))[0])
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", no_replace)
        with pytest.raises(PowerCutError):
            run.resume()
    assert numbers(run) == [1, 2, 3]
    run.resume()
    assert numbers(run) == [1, 2]


def test_a_crash_before_the_rename_leaves_the_old_description(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path)
    run.describe({"name": "old"}, {"rule": "mean"})
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", no_replace)
        with pytest.raises(PowerCutError):
            run.describe({"name": "new"}, {"rule": "krum"})
    assert run.described() == ({"name": "old"}, {"rule": "mean"})


def test_a_crash_before_the_rename_leaves_the_run_unfinished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = written(tmp_path, 2)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", no_replace)
        with pytest.raises(PowerCutError):
            run.finish(torch.ones(6))
    assert not run.finished
    taken_up = run.resume()
    assert taken_up is not None
    assert taken_up.round == 2
    run.finish(taken_up.params)
    assert run.finished


def test_a_crash_after_the_model_leaves_a_finished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = written(tmp_path, 2)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", no_unlink)
        with pytest.raises(PowerCutError):
            run.finish(torch.ones(6))
    assert run.finished
    assert numbers(run) == [1, 2]


def no_unlink(self: Path, missing_ok: bool = False) -> None:
    raise PowerCutError


# The lock


def test_a_folder_is_one_workers_at_a_time(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run").locked():
        with pytest.raises(BusyError, match=r"another process is running .*run"), RunFolder(tmp_path / "run").locked():
            pass
        with RunFolder(tmp_path / "other").locked():
            pass
    with RunFolder(tmp_path / "run").locked():
        pass


def test_a_crash_lets_the_folder_go(tmp_path: Path) -> None:
    with pytest.raises(PowerCutError), RunFolder(tmp_path).locked():
        raise PowerCutError
    with RunFolder(tmp_path).locked():
        pass


def test_a_lock_file_that_a_killed_process_left_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    with RunFolder(tmp_path).locked():
        pass


# No pickle


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_is_pickled(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = {alias.name.split(".")[0] for alias in node.names}
        else:
            modules = {(node.module or "").split(".")[0]} if isinstance(node, ast.ImportFrom) else set()
        assert not modules & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in {("torch", "load"), ("torch", "save"), ("np", "save")}
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant)
            assert node.value.value is False
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load"):
            assert any(keyword.arg == "allow_pickle" for keyword in node.keywords)
