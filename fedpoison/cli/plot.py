"""`fedpoison plot`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from fedpoison.cli import app


@app.command
def plot(
    runs: list[Path],
    /,
    *,
    metric: Annotated[list[str] | None, Parameter(negative=())] = None,
    out: Path = Path("figures/rounds.png"),
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
    out
        Where to: .png, .pdf or .svg.
    """
    from fedpoison.report.figures import plot as draw
    from fedpoison.report.frame import Runs

    print(draw(Runs.read(runs), out, metric or ()))
