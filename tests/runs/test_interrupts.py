"""A run that is interrupted between any two statements of its own is readable, and goes on to the same bits."""

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

from fedpoison.config.config import parse
from fedpoison.contract.vocabulary import PHASES, Record
from fedpoison.round import State
from fedpoison.runs import checkpoints, files, records, sealing, simulation
from fedpoison.runs.records import RunFolder
from fedpoison.runs.simulation import simulate

OURS = {module.__file__ for module in (checkpoints, files, records, sealing, simulation)}
PLAIN = {"name": "t", "rounds": 3, "data": "digits", "model": "logistic", "clients": {"count": 4}}
WARM = {**PLAIN, "warm_start": {"rounds": 1}, "threat": {"malicious": 1, "update": "ipm"}}


def state(number: int) -> State:
    return State(round=number, params=torch.full((4,), 1.5**number), previous=torch.full((4,), 0.1 * number))


def build(config: Any) -> tuple[None, State]:
    return None, state(0)


def play(before: State, world: None) -> tuple[State, Record]:
    """A round of next to no work, whose end is by its beginning."""
    after = State(round=before.round + 1, params=1.5 * before.params, previous=before.previous + before.params)
    plain = {"malicious": [], "events": [], "detection": {}, "skipped": False, "seconds": dict.fromkeys(PHASES, 0.0)}
    return after, {"round": after.round, "accuracy": float(after.previous[0]), **plain}


@pytest.fixture(autouse=True)
def short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "build", build)
    monkeypatch.setattr(simulation, "play", play)


@contextmanager
def interrupted(number: int) -> Iterator[Callable[[], bool]]:
    """Ctrl-C before the statement of that number in the files that write runs; gives whether it came."""
    left = number

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in OURS:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield lambda: left <= 0
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)


def outcome(run: RunFolder) -> tuple[list[Record], bytes]:
    return run.records(), run.model.read_bytes()


def ends_the_same(table: dict[str, Any], out: Path, step: int, again: int = 0) -> int:
    """Interrupt a run at each `step`th statement, and `again` so many statements later; how many were there."""
    config = parse(table)
    whole = outcome(simulate(config, out / "whole"))
    for number in range(1, 100_000, step):
        place = out / str(number)
        run = RunFolder(place / config.name / config.hash)
        with interrupted(number) as came:
            simulate(config, place)
        if not came():
            return number
        gc.collect()  # whoever is interrupted while letting go of the lock holds it until then, or the process ends
        if again:
            with interrupted(again):
                simulate(config, place)
            gc.collect()
        if (run.path / "run.json").is_file():
            assert run.damage() is None, f"at statement {number}"
        assert outcome(simulate(config, place)) == whole, f"at statement {number}"
    raise AssertionError("it never ends")


def test_a_run_that_is_interrupted_anywhere_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_PATIENCE", 0)
    assert ends_the_same(PLAIN, tmp_path, step=37) > 300


@pytest.mark.exhaustive
@pytest.mark.parametrize("again", [0, 170])
@pytest.mark.parametrize("patience", [0, 1e9], ids=["a checkpoint a round", "one checkpoint"])
@pytest.mark.parametrize("table", [PLAIN, WARM], ids=["plain", "warm"])
def test_a_run_that_is_interrupted_at_each_statement_ends_the_same(
    table: dict[str, Any], patience: float, again: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "_PATIENCE", patience)
    assert ends_the_same(table, tmp_path, step=8 if again else 3, again=again) > 300


def test_where_only_the_log_cannot_be_written_the_run_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a full disk: the checkpoint must not be of a round that has no line."""
    config = parse(PLAIN)
    whole = outcome(simulate(config, tmp_path / "whole"))
    opened, times = Path.open, 0

    def full(self: Path, mode: str = "r", *given: Any, **named: Any) -> Any:
        nonlocal times
        times += mode == "ab"
        if mode == "ab" and times == 2:
            raise OSError(28, "No space left on device")
        return opened(self, mode, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(OSError, match="No space"):
            simulate(config, tmp_path / "cut")
    run = RunFolder(tmp_path / "cut" / config.name / config.hash)
    taken = run.resume()
    assert taken is not None
    assert (taken.round, len(run.records())) == (1, 1)
    assert outcome(simulate(config, tmp_path / "cut")) == whole
