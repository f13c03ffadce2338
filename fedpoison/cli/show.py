"""`fedpoison show`."""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from fedpoison.cli import app, output, say

if TYPE_CHECKING:
    from fedpoison.runfiles import RunFiles


@app.command
def show(
    run: Path,
    *,
    only: Annotated[list[str] | None, Parameter(negative=())] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> None:
    """Show a run: how it was set up, how it ended, what happened; or a table of the runs below a folder.

    Examples: fedpoison show results/quickstart

    fedpoison show results/quickstart/3f2a91c07d11

    fedpoison show results/quickstart --json

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
    import tomli_w

    from fedpoison.metrics import QUALITY
    from fedpoison.report.frame import Runs
    from fedpoison.report.remarks import remarks
    from fedpoison.report.table import tables

    console = output()
    runs = Runs.read([run], only or ())
    if as_json:
        print(json.dumps([_plain(folder) for folder in runs.folders], indent=1))
        return
    if len(runs.folders) > 1:
        for table in tables(runs):
            console.print(table)
        say(remarks(runs), console)
        return
    (folder,) = runs.folders
    config, labels = folder.described()
    console.print(tomli_w.dumps(config), markup=False)
    records = folder.records()
    state = "finished" if folder.finished else f"cut after round {len(records)}"
    console.print(f"{labels['rule']} against {labels['attack']}: {state} ({len(records)} of {config['rounds']} rounds)")
    measured = [r for r in records if r["accuracy"] is not None]
    if measured:
        last: dict[str, Any] = measured[-1]
        names = ("accuracy", "loss", "asr", "asr_untriggered", "target_success", "kappa")
        values = {name: last.get(name) for name in (*names, *QUALITY)}
        figures = (f"{name} {value:.4f}" for name, value in values.items() if value is not None)
        console.print(f"round {last['round']}: " + ", ".join(figures))
    events = Counter(f"{e['what']}: {e['detail']}" for r in records for e in r["events"])
    for event, count in events.most_common():
        console.print(f"{count} × {event}", markup=False)
    error = folder.path / "error.txt"
    if error.is_file():
        console.print(error.read_text(encoding="utf-8", errors="replace"), markup=False)
    say(remarks(runs), console)


def _plain(folder: "RunFiles") -> dict[str, Any]:
    from fedpoison.report.happened import happened

    config, labels = folder.described()
    records = folder.records()
    said = {"last": records[-1] if records else None, "remarks": happened([folder])}
    return {"run": str(folder.path), "finished": folder.finished, "labels": labels, "config": config, **said}
