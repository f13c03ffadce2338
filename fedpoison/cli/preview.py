"""`fedpoison preview`."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from fedpoison.cli import app, output


@app.command
def preview(
    experiment: Path,
    /,
    *,
    set: Annotated[list[str] | None, Parameter(name=["--set", "-s"], negative=())] = None,
    out: Path = Path("figures/preview.png"),
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> None:
    """Show who would hold what: each partition of an experiment as a table and a picture, before anything runs.

    Examples:

    fedpoison preview experiments/quickstart.toml

    fedpoison preview experiments/quickstart.toml --set data.partition.alpha=0.1 --out split.pdf

    Parameters
    ----------
    experiment
        The TOML file; its first seed is shown.
    set
        key=value, as for `fedpoison run`.
    out
        Where the picture goes: .png, .pdf or .svg.
    as_json
        The counts for machines instead of tables; no picture.
    """
    from fedpoison.errors import ConfigError
    from fedpoison.report.preview import save, splits, summary, table
    from fedpoison.sweep import load, parse_assignment

    loaded = load(experiment, dict(map(parse_assignment, set or [])))
    try:
        found = splits(loaded)
        if as_json:
            print(json.dumps([split.describe() for split in found]))
            return
        for split in found:
            output().print(table(split))
            print(summary(split))
        print(save(found, out))
    except ValueError as error:
        raise ConfigError([str(error)]) from error
