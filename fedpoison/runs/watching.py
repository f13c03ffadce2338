"""A sweep seen from its files, in another shell than the one that runs it. Needs neither torch nor the run's code."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from fedpoison.common.errors import WatchError
from fedpoison.runs.files import RunFiles
from fedpoison.runs.happened import happened

State = Literal["finished", "running", "waiting", "failed", "damaged"]
STATES = get_args(State)


@dataclass(frozen=True)
class Seen:
    """One run: where it is, and what its last line says."""

    path: Path
    name: str
    state: State
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

    def remarks(self) -> list[str]:
        """What must be known of what was played so far to read it."""
        folders = [RunFiles(run.path) for run in self.runs if run.done]
        return happened([folder for folder in folders if not folder.damage()])

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        return {
            "name": self.name,
            **{state: self.count(state) for state in STATES},
            "rounds": sum(run.rounds for run in self.runs),
            "rounds_done": sum(run.done for run in self.runs),
            "seconds_left": self.seconds_left,
            "runs": [
                {**vars(run), "path": str(run.path), "record": None} for run in self.runs if run.state == "running"
            ],
        }


def look(folder: Path) -> Sweep:
    """Read an experiment's folder; WatchError where no experiment was started."""
    try:
        plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        seen = [
            _look_at(folder / str(run["hash"]), run["name"], run["rounds"], plan["started"]) for run in plan["runs"]
        ]
        runs, played = tuple(run for run, _ in seen), sum(since for _, since in seen)
        return Sweep(folder.name, plan["started"], runs, played)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise WatchError(f"{folder} has no readable plan.json: no experiment was started there ({reason})") from error


def _look_at(path: Path, name: str, planned: int, began: float) -> tuple[Seen, int]:
    """The run, and how many of its rounds were written since `began` as far as the files tell."""
    folder, error = RunFiles(path), path / "error.txt"
    rounds = path / "rounds.jsonl"
    whole = [line for line in folder.log().splitlines(keepends=True) if line.endswith(b"\n")]
    fresh = rounds.is_file() and rounds.stat().st_mtime >= began
    state: State = "running" if fresh else "waiting"
    if folder.ended:
        state = "damaged" if folder.damage() else "finished"
    elif error.is_file() and error.stat().st_mtime >= began:
        state = "failed"
    try:  # the last line only, for this is asked every second
        record = dict(json.loads(whole[-1])) if whole else None
    except (ValueError, TypeError):
        state, record = "damaged", None
    done = 0 if state == "damaged" else len(whole)
    planned = done if state == "finished" else planned  # a monitor may have ended it
    return Seen(path, name, state, done, planned, record), done if fresh else 0
