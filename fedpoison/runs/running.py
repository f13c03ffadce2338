"""All runs of an experiment: one after the other or in several processes, with somebody watching."""

import json
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any, Literal

from fedpoison.common import lifeline
from fedpoison.common.dotted import flatten, titles
from fedpoison.common.errors import LEFT, BusyError, ConfigError, DamagedError, RunError
from fedpoison.common.parallel import available_cores
from fedpoison.common.plain import plain
from fedpoison.config.config import Config, parse
from fedpoison.config.sweep import Experiment, load
from fedpoison.contract.blame import told
from fedpoison.contract.vocabulary import Record
from fedpoison.engines.cluster import ClusterPool
from fedpoison.runs.files import Tail, replace_file
from fedpoison.runs.foreseen import foreseen, unchanged
from fedpoison.runs.frame import Runs
from fedpoison.runs.records import RunFolder
from fedpoison.runs.simulation import EDITED, simulate
from fedpoison.runs.world import build

Watcher = Callable[[int, Record], None]
"""Is told a run's number and each of its records."""


@dataclass(frozen=True)
class Job:
    """An experiment's runs in the order in which they are made, and where they go."""

    experiment: Experiment
    out: Path

    @property
    def configs(self) -> tuple[Config, ...]:
        """The attacked runs and the clean ones."""
        return (*self.experiment.runs, *self.experiment.clean)

    @property
    def names(self) -> list[str]:
        """What to call each run beside the others."""
        tables = [flatten(config.table()) for config in self.configs]
        return titles(tables, [(config.defence.rule, config.attack) for config in self.configs])

    def folder(self, config: Config) -> RunFolder:
        """Where a run's files are."""
        return RunFolder(self.out / config.name / config.hash)

    def check(self) -> list[str]:
        """Load the data, make every net, partition and trigger once; ConfigError for what does not fit.

        What one should know before the start: see `warnings`, and attacks on data that change nothing.
        """
        problems, notes, seen = [], self.warnings(), set()
        for config in self.configs:
            table = config.table()
            parts = [table["seed"], table["data"], table["model"], table.get("warm_start"), table["clients"]]
            done = [group.data and group.data.model_dump() for group in config.threat.each]
            parts.append([done, config.counts, config.threat.draw] if any(done) else None)
            parts.append(table["defence"]["aggregator"] if config.defence.chain.rule[0].check else None)
            parts += [[step.name for step in config.defence.client.sanitize], table["defence"]["monitors"]]
            key = json.dumps(parts, sort_keys=True)
            if key in seen or self.folder(config).finished:
                continue
            seen.add(key)
            try:
                world, _ = build(config)
                notes += unchanged(config, world)
            except ValueError as error:
                problems.append(str(error))
            except (Exception, SystemExit) as error:  # a user's net or data set may raise anything
                problems.append(told(error))
        if problems:
            raise ConfigError(problems)
        return list(dict.fromkeys(notes))

    def warnings(self) -> list[str]:
        """What the configurations say of it before the start."""
        return foreseen(self.experiment.runs)

    def _announce(self, jobs: int) -> None:
        """Write plan.json beside the runs: what will be made, for who watches from elsewhere."""
        runs = [
            {"hash": config.hash, "rounds": config.rounds, "name": name}
            for config, name in zip(self.configs, self.names, strict=True)
        ]
        plan = {"started": time.time(), "jobs": jobs, "runs": runs}
        folder = self.out / self.experiment.name
        if all(self.folder(config).finished for config in self.configs):
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            replace_file(folder / "plan.json", json.dumps(plan, indent=1).encode())
        except OSError as error:  # where this cannot be written no run can
            place = folder if self.out.is_dir() else self.out
            no_folder = isinstance(error, FileExistsError | NotADirectoryError)
            why = "it is no folder" if no_folder else error.strerror or str(error)
            raise ConfigError([f"results cannot be written to {str(place)!r}: {why}"]) from error

    def start(
        self,
        watch: Watcher = lambda number, record: None,
        jobs: int | Literal["ray"] = 1,
        ray_address: str | None = None,
    ) -> dict[Path, str]:
        """Make every run that is not finished; what failed, and why. ConfigError where nothing can be written.

        With jobs = "ray" each run is a task of the cluster at `ray_address`, or of one started here.
        """
        names = {c.name for config in self.configs for c in config.components.values() if c.given}
        if jobs != 1 and names:
            why = "was given as a function, which other processes have not got: take jobs = 1, or put it in a file"
            raise ConfigError([f"{name} {why}" for name in sorted(names)])
        if jobs == "ray":
            cluster = ClusterPool(ray_address)
            self._announce(cluster.size)
            return _on_cluster(self, watch, cluster)
        self._announce(jobs)
        failures = _in_turn(self, watch) if jobs == 1 else _in_processes(self, watch, jobs)
        for number, config in enumerate(self.configs):  # what another process was at may be done by now
            path = self.folder(config).path
            if failures.get(path) == LEFT:
                del failures[path]
                failures |= _in_turn(self, watch, [number])
        return failures


def run(
    source: str | Path | Mapping[str, Any] | Config,
    overrides: Mapping[str, Any] | None = None,
    out: str | Path = "results",
    jobs: int | Literal["ray"] = 1,
) -> Runs:
    """Run an experiment (a TOML file or its tables) and return what was measured.

    `overrides`: dotted keys, as {"defence.aggregator.name": "krum"}. Finished runs are not made again, cut ones
    are taken up. ConfigError for a bad configuration, before anything runs; RunError if a run failed.
    """
    job = Job(load(source, overrides), Path(out))
    for note in job.check():
        warnings.warn(note, stacklevel=2)
    failures = job.start(jobs=jobs)
    if failures:
        raise RunError(failures)
    return Runs.read([job.folder(config).path for config in job.configs])


def _in_turn(job: Job, watch: Watcher, numbers: Iterable[int] | None = None) -> dict[Path, str]:
    failures = {}
    for number in range(len(job.configs)) if numbers is None else numbers:
        config = job.configs[number]
        why = _attempt(job, config, lambda record, number=number: watch(number, record))
        if why:
            failures[job.folder(config).path] = why
    return failures


def _attempt(job: Job, config: Config, report: Callable[[Record], None]) -> str | None:
    try:
        simulate(config, job.out, report)
    except BusyError:
        return LEFT
    except DamagedError as error:
        with suppress(OSError):  # there may be one of another time
            (job.folder(config).path / "error.txt").unlink(missing_ok=True)
        return str(error)
    except (Exception, SystemExit) as error:
        with suppress(OSError):  # if the folder itself is the trouble, the message has to do
            whole = "\n".join(map(plain, traceback.format_exc().split("\n")))
            (job.folder(config).path / "error.txt").write_text(whole, encoding="utf-8")
        return told(error)
    (job.folder(config).path / "error.txt").unlink(missing_ok=True)
    return None


def _in_processes(job: Job, watch: Watcher, jobs: int) -> dict[Path, str]:
    tails = [Tail(job.folder(config)) for config in job.configs]
    failures, lost = _in_pool(job, watch, jobs, range(len(job.configs)), tails)
    for number in lost:  # a process died and took its pool along: one at a time shows whose run it was
        more, died = _in_pool(job, watch, 1, [number], tails)
        failures |= more | {job.folder(job.configs[n]).path: "its process died" for n in died}
    return failures


def _in_pool(
    job: Job, watch: Watcher, jobs: int, numbers: Iterable[int], tails: Sequence[Tail]
) -> tuple[dict[Path, str], list[int]]:
    """Make the runs of these numbers; what failed and why, and the runs whose pool broke."""
    share = max(1, available_cores() // jobs)
    others = set(active_children())
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=lifeline.hold) as pool:
        try:
            waiting = {}
            with lifeline.deaf_children():
                for number in numbers:
                    table = {"workers": share, **job.configs[number].table()}
                    made = pool.submit(_elsewhere, table, job.configs[number].hash, job.experiment.folder, job.out)
                    waiting[made] = number
            return _await(job, waiting, watch, tails)
        except BaseException:  # an interrupt: leaving the pool would wait for all runs
            pool.shutdown(wait=False, cancel_futures=True)
            for child in set(active_children()) - others:
                child.terminate()
            raise


def _on_cluster(job: Job, watch: Watcher, cluster: ClusterPool) -> dict[Path, str]:
    """Make the runs as tasks of a cluster, whose nodes share the folder of results."""
    folder, out = job.experiment.folder.resolve(), job.out.resolve()
    waiting = {}
    for number, config in enumerate(job.configs):
        waiting[cluster.submit(_elsewhere, {**config.table(), "workers": 1}, config.hash, folder, out)] = number
    failures, _ = _await(job, waiting, watch, [Tail(job.folder(config)) for config in job.configs])
    for config in job.configs:
        kept = job.folder(config)
        if not kept.finished and kept.path not in failures:
            failures[kept.path] = "made on another node, but its files are not here: all nodes must share the folder"
    return failures


def _await(
    job: Job, waiting: dict[Future[str | None], int], watch: Watcher, tails: Sequence[Tail]
) -> tuple[dict[Path, str], list[int]]:
    """Hand on what the other processes write, until they are done."""
    failures: dict[Path, str] = {}
    lost: list[int] = []
    while waiting:
        time.sleep(0.2)
        for future, number in list(waiting.items()):
            done, folder = future.done(), job.folder(job.configs[number])
            for record in tails[number].new():
                watch(number, record)
            if done:
                del waiting[future]
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    lost.append(number)
                elif error or future.result():
                    failures[folder.path] = f"{type(error).__name__}: {error}" if error else str(future.result())
    return failures, lost


def _elsewhere(table: dict[str, Any], hash: str, folder: Path, out: Path) -> str | None:
    config = parse(table, folder)
    if config.hash != hash:
        return EDITED
    return _attempt(Job(Experiment(config.name, folder, (config,), ()), out), config, lambda record: None)
