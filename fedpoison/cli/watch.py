"""`fedpoison watch`."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from fedpoison.cli import app, error_output, output, say
from fedpoison.common.errors import WatchError

if TYPE_CHECKING:
    from rich.table import Table

    from fedpoison.runs.watching import Sweep

_PERIOD = 1.0
_SHOWN = {"accuracy": "accuracy", "asr": "asr", "target_success": "target success"}


@app.command
def watch(
    results: list[Path],
    /,
    *,
    once: Annotated[bool, Parameter(negative=())] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> None:
    """Watch running experiments from another shell, by their files, until they are over.

    Examples:

    fedpoison watch results/quickstart

    fedpoison watch results/quickstart --once --json

    Parameters
    ----------
    results
        Folders of experiments, such as results/quickstart.
    once
        Look once and stop.
    as_json
        For machines: an object a look.
    """
    from rich.console import Group
    from rich.live import Live

    console = output()
    for problem in _look(results)[1]:
        error_output().print(f"fedpoison: {problem}")
    if as_json or not console.is_terminal:
        while True:
            sweeps, _ = _look(results)
            for sweep in sweeps:
                print(json.dumps(sweep.as_dict()) if as_json else _line(sweep), flush=True)
            if once or all(sweep.over for sweep in sweeps):
                _say_of(sweeps)
                return
            time.sleep(_PERIOD)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            sweeps, _ = _look(results)
            live.update(Group(*map(_table, sweeps)), refresh=True)
            if once or all(sweep.over for sweep in sweeps):
                break
            time.sleep(_PERIOD)
    _say_of(sweeps)


def _say_of(sweeps: list["Sweep"]) -> None:
    for sweep in sweeps:
        say(sweep.remarks(), error_output())


def _look(folders: list[Path]) -> tuple[list["Sweep"], list[str]]:
    """The sweeps that can be seen, and why others cannot; WatchError if none can."""
    from fedpoison.runs.watching import look

    found, problems = [], []
    for folder in folders:
        try:
            found.append(look(folder))
        except WatchError as error:
            problems.append(str(error))
    if not found:
        raise WatchError("; ".join(problems))
    return found, problems


def _line(sweep: "Sweep") -> str:
    usual = ("finished", "running", "waiting", "failed")
    counts = [(sweep.count(state), state) for state in (*usual, "damaged")]
    states = ", ".join(f"{count} {state}" for count, state in counts if count or state in usual)
    done, rounds = (sum(getattr(run, name) for run in sweep.runs) for name in ("done", "rounds"))
    left = sweep.seconds_left
    when = "" if left is None or sweep.over else f", about {left:.0f} s left"
    return f"{sweep.name}: {states}; {done} of {rounds} rounds{when}"


def _table(sweep: "Sweep") -> "Table":
    """The running runs, a row each, under the whole sweep's line."""
    from rich.table import Table

    made = Table(title=_line(sweep), title_justify="left")
    for head in ("run", "round", "measured"):
        made.add_column(head)
    for run in sweep.runs:
        if run.state in ("running", "failed"):
            record = run.record or {}
            figures = [f"{name} {record[key]:.3f}" for key, name in _SHOWN.items() if record.get(key) is not None]
            said = "failed, see its error.txt" if run.state == "failed" else ", ".join(figures)
            made.add_row(run.name, f"{run.done} of {run.rounds}", said)
    return made
