"""`fedpoison plot`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from fedpoison.cli import app, error_output, say


@app.command
def plot(
    runs: list[Path],
    /,
    *,
    metric: Annotated[list[str] | None, Parameter(negative=())] = None,
    only: Annotated[list[str] | None, Parameter(negative=())] = None,
    out: Annotated[list[Path] | None, Parameter(negative=())] = None,
) -> None:
    """Plot metrics over rounds: a line a rule, the spread over seeds, the attack's span shaded.

    Examples:

    fedpoison plot results/quickstart

    fedpoison plot results/quickstart --metric accuracy --metric asr --out figure.pdf

    Parameters
    ----------
    runs
        Folders of runs, or above them.
    metric
        A row of panels each; accuracy and attack success unless given.
    only
        key=value, or rule=…, attack=…: draw only these runs; may be repeated. rule=mine.py:mine@1 is an earlier version
        of a rule, @all every one.
    out
        Where to: .png, .pdf or .svg; figures/rounds.png unless given, and may be repeated.
    """
    from fedpoison.report.figures import plot as draw
    from fedpoison.report.remarks import remarks
    from fedpoison.runs.frame import Runs

    found = Runs.read(runs, only or ())
    for path in out or [Path("figures/rounds.png")]:
        print(draw(found, path, metric or ()))
    say(remarks(found), error_output())
