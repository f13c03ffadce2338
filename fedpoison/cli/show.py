"""`fedpoison show`."""

from collections import Counter
from pathlib import Path
from typing import Any

from fedpoison.cli import app, output


@app.command
def show(run: Path) -> None:
    """Show a run: how it was set up, how it ended, what happened; or a table of the runs below a folder.

    Examples: fedpoison show results/quickstart

    fedpoison show results/quickstart/3f2a91c07d11

    Parameters
    ----------
    run
        A run's folder, or one above it.
    """
    import tomli_w

    from fedpoison.report.frame import Runs
    from fedpoison.report.table import tables

    console = output()
    runs = Runs.read([run])
    if len(runs.folders) > 1:
        for table in tables(runs):
            console.print(table)
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
        figures = (f"{name} {last[name]:.4f}" for name in names if last[name] is not None)
        console.print(f"round {last['round']}: " + ", ".join(figures))
    events = Counter(f"{e['what']}: {e['detail']}" for r in records for e in r["events"])
    for event, count in events.most_common():
        console.print(f"{count} × {event}", markup=False)
    error = folder.path / "error.txt"
    if error.is_file():
        console.print(error.read_text(), markup=False)
