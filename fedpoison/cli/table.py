"""`fedpoison table`."""

import io
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from fedpoison.cli import Output, app, error_output, output, say


@app.command
def table(
    runs: list[Path],
    /,
    *,
    rows: Annotated[list[str] | None, Parameter(negative=())] = None,
    cols: Annotated[list[str] | None, Parameter(negative=())] = None,
    metric: Annotated[list[str] | None, Parameter(negative=())] = None,
    only: Annotated[list[str] | None, Parameter(negative=())] = None,
    at: str = "last",
    seeds: Annotated[bool, Parameter(negative=())] = False,
    format: Literal["text", "markdown", "latex", "csv", "json"] = "text",
    out: Path | None = None,
) -> None:
    """Arrange runs in a table: means with 95 % t-intervals over seeds.

    Examples:

    fedpoison table results/quickstart

    fedpoison table results/quickstart --rows rule --cols attack --metric accuracy --format markdown

    fedpoison table results/quickstart --metric durability

    fedpoison table results/quickstart --metric balanced_accuracy --metric damage_balanced_accuracy --at last5

    fedpoison table results/quickstart --rows defence.aggregator.name --cols threat.data.name --seeds

    Parameters
    ----------
    runs
        Folders of runs, or above them.
    rows
        rule, attack, or a dotted key in which the runs differ; may be repeated. Unless rows or cols are given: the rule
        and what else tells runs apart. A share of 0 is the origin of each attack.
    cols
        The same for columns. Unless rows or cols are given: the attack and those of its options that differ.
    metric
        What is shown; accuracy and attack success unless given, of a single attack more. damage is of accuracy,
        damage_auc and the like of another metric. Besides the metrics of a round there is durability, of a run: for how
        many rounds the attack lasted after it ended (≥: it outlasted the run).
    only
        key=value, or rule=…, attack=…: take only these runs; may be repeated. rule=mine.py:mine@1 is an earlier version
        of a rule, @all every one.
    at
        Which round of a run: last, best (by validation accuracy; best_auc and the like), a number, or last5 and the
        like for the mean of the last five evaluations.
    seeds
        Show every seed's value too.
    format
        text, markdown, latex (booktabs), csv or json.
    out
        A file to write it to.
    """
    from fedpoison.common.errors import ConfigError
    from fedpoison.report.pivot import pivot
    from fedpoison.runs.files import replace_file
    from fedpoison.runs.frame import Runs

    found = Runs.read(runs, only or ())
    results = pivot(found, rows or [], cols or [], metric or (), at)
    console = output() if out is None else Output(width=200, file=io.StringIO(), record=True)
    made = results.render(format, seeds, console.width)
    if not isinstance(made, str):
        console.print(results.note, soft_wrap=True)
        console.print(*made, sep="\n")
        say(results.remarks, console)
        if out is None:
            return
        made = console.export_text()
    elif format in ("csv", "json"):
        say(results.remarks, error_output())
    if out is None:
        print(made)
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        replace_file(out, made.rstrip().encode() + b"\n")
    except OSError as error:
        raise ConfigError([f"{out} cannot be written: {error.strerror}"]) from error
    print(out)
