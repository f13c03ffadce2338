"""`fedpoison show`."""

import json
import textwrap
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from fedpoison.cli import app, error_output, output, say
from fedpoison.common.dotted import flatten, shown

if TYPE_CHECKING:
    from rich.console import Console

    from fedpoison.runs.versions import Told


@app.command
def show(
    run: Path,
    *,
    only: Annotated[list[str] | None, Parameter(negative=())] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> None:
    """Show a run: how it ended, what happened, how it was set up; or list the runs below a folder.

    Examples: fedpoison show results/quickstart

    fedpoison show results/quickstart/3f2a91c07d11

    fedpoison show results/quickstart --only rule=krum --json

    Parameters
    ----------
    run
        A run's folder, or one above it.
    only
        key=value, or rule=…, attack=…: show only these runs; may be repeated. rule=mine.py:mine@1 is an earlier version
        of a rule, @all every one.
    as_json
        Each run's configuration, state, last record and remarks, for machines.
    """
    from fedpoison.report.listing import listing
    from fedpoison.report.remarks import remarks
    from fedpoison.runs.frame import Runs

    console = output()
    runs = Runs.read([run], only or ())
    if as_json:
        print(json.dumps([_plain(told) for told in runs.runs], indent=1))
        say(runs.left_out, error_output())
        return
    if len(runs) == 1:
        _show(runs.runs[0], console)
    else:
        console.print(*listing(runs, console.width), sep="\n")
    say(remarks(runs), console)


def _show(run: "Told", console: "Console") -> None:
    """How the run ended, its last figures, its events, then what it was set up with, a line a table of the TOML."""
    from fedpoison.measures.metrics import QUALITY

    records, labels = run.folder.records(), run.labels
    state = "finished" if run.folder.ended else f"cut after round {len(records)}"
    rounds = f"{len(records)} of {run.config['rounds']} rounds"
    told = f"{labels['rule']} against {labels['attack']}, seed {run.config['seed']}: {state} ({rounds})"
    console.print(told, soft_wrap=True)
    measured = [r for r in records if r["accuracy"] is not None]
    if measured:
        last: dict[str, Any] = measured[-1]
        names = ("accuracy", "loss", "asr", "asr_untriggered", "target_success", "kappa")
        values = {name: last.get(name) for name in (*names, *QUALITY)}
        figures = (f"{name} {value:.4f}" for name, value in values.items() if value is not None)
        console.print(f"round {last['round']}: " + ", ".join(figures))
    events = Counter(f"{e['what']}: {e['detail']}" for r in records for e in r["events"])
    for event, count in events.most_common():
        console.print(f"{count} × {event}")
    error = run.folder.path / "error.txt"
    if error.is_file():
        console.print(error.read_text(encoding="utf-8", errors="replace"))
    for line in _settings(run.config):
        console.print(textwrap.fill(line, console.width, subsequent_indent="    "))
    console.print(f"all of it: {run.folder.path / 'config.toml'}", soft_wrap=True)


def _settings(config: dict[str, Any]) -> list[str]:
    """What a run was set up with, a line a table."""
    plain = {key: value for key, value in config.items() if not isinstance(value, dict)}
    tables = {"settings": plain, **{key: value for key, value in config.items() if isinstance(value, dict)}}
    return [
        f"  {name}: " + ", ".join(f"{key} = {shown(value)}" for key, value in flatten(table).items())
        for name, table in tables.items()
    ]


def _plain(run: "Told") -> dict[str, Any]:
    from fedpoison.runs.happened import happened

    records, folder = run.folder.records(), run.folder
    described = {"labels": run.labels, "config": run.config}
    said = {"last": records[-1] if records else None, "remarks": happened([folder])}
    return {"run": str(folder.path), "finished": folder.ended, **described, **said}
