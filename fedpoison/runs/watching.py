"""A sweep seen from its files, in another shell than the one that runs it. Needs neither torch nor the run's code."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fedpoison.common.errors import WatchError


@dataclass(frozen=True)
class Seen:
    """One run: where it is, and what its last line says."""

    name: str
    state: Literal["finished", "running", "waiting", "failed"]
    done: int
    rounds: int
    record: dict[str, Any] | None


@dataclass(frozen=True)
class Sweep:
    """An experiment's folder at a moment; `began` is when it was started last, in seconds since the epoch."""

    name: str
    began: float
    runs: tuple[Seen, ...]
    played: int
    """Rounds written since `began`."""

    @property
    def over(self) -> bool:
        """Whether nothing is left to be done."""
        return all(run.state in ("finished", "failed") for run in self.runs)

    @property
    def seconds_left(self) -> float | None:
        """By the rounds played since the start; None before the first."""
        left = sum(run.rounds - run.done for run in self.runs if run.state != "failed")
        return left * (time.time() - self.began) / self.played if self.played else None

    def count(self, state: str) -> int:
        """Runs in this state."""
        return sum(run.state == state for run in self.runs)

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        states = ("finished", "running", "waiting", "failed")
        return {
            "name": self.name,
            **{state: self.count(state) for state in states},
            "rounds": sum(run.rounds for run in self.runs),
            "rounds_done": sum(run.done for run in self.runs),
            "seconds_left": self.seconds_left,
            "runs": [{**vars(run), "record": None} for run in self.runs if run.state == "running"],
        }


def look(folder: Path) -> Sweep:
    """Read an experiment's folder; WatchError where no experiment was started."""
    try:
        plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise WatchError(f"{folder} has no readable plan.json: no experiment was started there ({reason})") from error
    runs, played = [], 0
    for run in plan["runs"]:
        seen, since = _look_at(folder / run["hash"], run, plan["started"])
        runs.append(seen)
        played += since
    return Sweep(folder.name, plan["started"], tuple(runs), played)


def _look_at(path: Path, run: dict[str, Any], began: float) -> tuple[Seen, int]:
    """The run, and how many of its rounds were written since `began` as far as the files tell."""
    rounds = path / "rounds.jsonl"
    lines = rounds.read_bytes().splitlines(keepends=True) if rounds.is_file() else []
    whole = [line for line in lines if line.endswith(b"\n")]
    fresh = rounds.is_file() and rounds.stat().st_mtime >= began
    state: Literal["finished", "running", "waiting", "failed"] = "running" if fresh else "waiting"
    if (path / "model.safetensors").is_file():
        state = "finished"
    elif (path / "error.txt").is_file() and (path / "error.txt").stat().st_mtime >= began:
        state = "failed"
    record = json.loads(whole[-1]) if whole else None
    return Seen(run["name"], state, len(whole), run["rounds"], record), len(whole) if fresh else 0
