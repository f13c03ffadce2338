"""`fedpoison run`."""

import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from fedpoison.cli import app, output


@app.command
def run(
    experiment: Path,
    *,
    set: Annotated[list[str] | None, Parameter(name=["--set", "-s"], negative=())] = None,
    out: Path = Path("results"),
    jobs: int = 1,
) -> None:
    """Run an experiment; finished runs are skipped, cut ones taken up.

    Examples:

    fedpoison run experiments/quickstart.toml

    fedpoison run experiments/quickstart.toml --set rounds=8 --set defence.aggregator.name=krum

    fedpoison run experiments/quickstart.toml --jobs 2 --out /tmp/results

    Parameters
    ----------
    experiment
        The TOML file.
    set
        key=value: set a dotted key in every cell of the sweep; may be repeated. The value is TOML, or else a string.
    out
        The folder for results; each run gets one of its own in it.
    jobs
        How many runs at once, each in a process of its own.
    """
    from fedpoison.config import ConfigError
    from fedpoison.report.frame import Runs
    from fedpoison.report.progress import Progress
    from fedpoison.report.table import tables
    from fedpoison.running import Job, RunError
    from fedpoison.sweep import load, parse_assignment

    if jobs < 1:
        raise ConfigError([f"--jobs must be at least 1, it is {jobs}"])
    console = output()
    job = Job(load(experiment, dict(map(parse_assignment, set or []))), out)
    job.check()
    runs, clean = job.experiment.runs, job.experiment.clean
    paired = f" and {len(clean)} paired clean runs" if clean else ""
    console.print(
        f"{job.experiment.name}: {len(runs)} runs{paired}, {sum(c.rounds for c in job.configs)} rounds", markup=False
    )
    for warning in job.warnings():
        console.print(f"note: {warning}", markup=False)
    started = time.perf_counter()
    with Progress(console, job.configs) as progress:
        failures = job.start(progress.watch, jobs)
    done = [p for p in (job.folder(config).path for config in job.configs) if p not in failures]
    if done:
        for table in tables(Runs.read(done)):
            console.print(table)
    folder = out / job.experiment.name
    console.print(f"{len(done)} runs in {time.perf_counter() - started:.1f} s, kept in {folder}", markup=False)
    if failures:
        raise RunError(failures)
    console.print(f"next: fedpoison plot {folder}", markup=False)
