"""`fedpoison run`."""

import json
import time
from pathlib import Path
from shlex import quote
from typing import Annotated, Literal

from cyclopts import Parameter

from fedpoison.cli import Output, app, output, say


@app.command
def run(
    experiment: Path,
    *,
    set: Annotated[list[str] | None, Parameter(name=["--set", "-s"], negative=())] = None,
    only: Annotated[list[str] | None, Parameter(negative=())] = None,
    out: Path = Path("results"),
    jobs: int | Literal["ray"] = 1,
    engine: str | None = None,
    ray_address: str | None = None,
    dry_run: Annotated[bool, Parameter(negative=())] = False,
    profile: Annotated[bool, Parameter(negative=())] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> None:
    """Run an experiment; finished runs are skipped, cut ones taken up.

    Examples:

    fedpoison run experiments/quickstart.toml

    fedpoison run experiments/quickstart.toml --set rounds=8 --set defence.aggregator.name=krum

    fedpoison run experiments/quickstart.toml --jobs 2 --out /tmp/results

    fedpoison run experiments/quickstart.toml --engine ray --ray-address 10.0.0.1:6379

    fedpoison run experiments/quickstart.toml --only defence.aggregator.name=krum --dry-run

    Parameters
    ----------
    experiment
        The TOML file.
    set
        key=value: set a dotted key in every cell of the sweep; may be repeated. The value is TOML, or else a string.
    only
        A subset's name, or key=value (or rule=…, attack=…): make only those cells; may be repeated.
    out
        The folder for results; each run gets one of its own in it.
    jobs
        How many runs at once, each in a process of its own; "ray" makes every run a task of a Ray cluster.
    engine
        The engine in place of the file's, as "ray".
    ray_address
        The Ray cluster for --engine ray or --jobs ray, as "10.0.0.1:6379"; one is started here unless given.
    dry_run
        Print the plan, with time and disk by a short probe, and stop: nothing is written.
    profile
        Say at the end where the time of these runs' rounds went.
    as_json
        The plan (with --dry-run) or the outcome as JSON on standard output; everything else goes to standard error.
    """
    from fedpoison.common import lifeline
    from fedpoison.common.errors import ConfigError, RunError
    from fedpoison.config.choice import parse_assignment
    from fedpoison.config.sweep import load
    from fedpoison.report.pivot import pivot
    from fedpoison.report.progress import Progress
    from fedpoison.report.remarks import remarks
    from fedpoison.report.timing import timing
    from fedpoison.runs.frame import Runs
    from fedpoison.runs.planning import plan
    from fedpoison.runs.running import Job

    if jobs != "ray" and not 1 <= jobs <= 1000:
        raise ConfigError([f"--jobs must be from 1 to 1000, it is {jobs}"])
    if ray_address and engine != "ray" and jobs != "ray":
        raise ConfigError(["--ray-address goes with --engine ray or --jobs ray"])
    if jobs != 1:
        with lifeline.deaf_children():  # which starts Python's tracker of resources, before a library does
            pass
    console = Output(stderr=True) if as_json else output()
    if engine == jobs == "ray":
        raise ConfigError(["--engine ray and --jobs ray would wait for each other's cores; give one"])
    changed = dict(map(parse_assignment, set or []))
    if engine:
        changed["engine.name"] = engine
    if ray_address and engine == "ray":
        changed["engine.address"] = ray_address
    job = Job(load(experiment, changed, only or ()), out)
    notes = job.check()
    planned = plan(job, thorough=dry_run)
    for line in planned.lines():
        console.print(line, soft_wrap=True)
    say(notes, console)
    if dry_run:
        if as_json:
            print(json.dumps(planned.as_dict(), indent=1))
        return
    started = time.perf_counter()
    with Progress(console, job.configs, job.names) as progress:
        failures = job.start(progress.watch, jobs, ray_address)
    paths = [job.folder(config).path for config in job.configs]
    done = [path for path in paths if path not in failures]
    runs = Runs.read(done) if done else Runs(())
    if as_json:
        failed = {str(path): why for path, why in failures.items()}
        outcome = {"runs": [str(path) for path in done], "failed": failed, "remarks": remarks(runs)}
        print(json.dumps(outcome, indent=1))
    elif done:
        results = pivot(runs)
        console.print(results.note, soft_wrap=True)
        console.print(*results.render("text", width=console.width), sep="\n")
    if profile and done:
        console.print(timing(runs))
    say(remarks(runs), console)
    folder = out / job.experiment.name
    made = "1 run" if len(done) == 1 else f"{len(done)} runs"
    console.print(f"{made} in {time.perf_counter() - started:.1f} s, kept in {folder}")
    if failures:
        raise RunError(failures)
    console.print(f"next: fedpoison plot {quote(str(folder))}")
