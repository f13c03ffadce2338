"""Configurations that nobody wrote, by a fixed seed; what becomes of them, and of a round of those that are valid."""

import contextlib
import copy
import math
import random
import resource
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from fedpoison.common import parallel
from fedpoison.common.errors import ConfigError
from fedpoison.config.config import Config
from fedpoison.config.keys import keys
from fedpoison.config.sweep import load, put_all
from fedpoison.contract.lookup import entries
from fedpoison.round import play
from fedpoison.runs.planning import plan
from fedpoison.runs.running import Job
from fedpoison.runs.world import build

Table = dict[str, Any]

BASE: Table = {
    "name": "fuzz",
    "rounds": 1,
    "data": {"name": "digits"},
    "model": {"name": "logistic"},
    "clients": {"count": 6, "local": {"steps": 1, "batch_size": 8}},
}
PLACES = {
    "data": "dataset",
    "data.partition": "partition",
    "model": "model",
    "clients.local.loss": "loss",
    "threat.data": "data_attack",
    "threat.update": "update_attack",
    "threat.training": "training_attack",
    "defence.aggregator": "aggregator",
    "defence.base": "aggregator",
    "defence.pre": "preaggregator",
    "defence.monitors": "monitor",
    "defence.client.sanitize": "sanitizer",
    "engine": "engine",
}
MANY = {"defence.pre", "defence.monitors", "defence.client.sanitize"}
HERE = {
    "dataset": ("digits", "wine", "breast_cancer"),
    "engine": ("batched", "sequential"),
    "model": ("logistic", "mlp", "cnn", "lstm"),
}
"""What needs no network, no cluster, no file and no minute."""
ODD: tuple[Any, ...] = (
    *(0, 1, 2, 3, 5, -1, 7, 10**6, 10**12, 10**30, -(10**30), 2**63, 2**64),
    *(0.0, -0.0, 0.1, 0.5, 0.9, 1.0, 2.5, 1e-300, 1e30, 1e300, -1e300, math.nan, math.inf, -math.inf),
    *(True, False, "", "all", "true", "median", "none", "a" * 300, "\x1b[31m[red]:tada:", "../x", "x.py:y", "\x00"),
    *([], [0], [1, 2], [0.5, 0.9], ["krum"], [[]], [[1.0]], {}, {"name": "mean"}, {"name": 1}, {"x": {"y": 1}}),
)
CHEAP: Table = {
    "clients.local.epochs": 1,
    "clients.local.steps": 3,
    "threat.surrogate": 1,
    "iterations": 3,
    "restarts": 2,
}
"""What a round is made short by, where it is longer: so many at the most."""
SECONDS = 20.0
"""A round, or the reading of a configuration, that takes longer hangs."""


@dataclass
class Outcome:
    """How many came to what, and what came to no good, with the case's number to make it again."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0
    megabytes: float = 0.0


def mutated(seed: int, case: int) -> Table:
    """A configuration: some keys set to what may be meant, some to what may not."""
    rng, table = random.Random(f"{seed} {case}"), copy.deepcopy(BASE)
    values: Table = {}
    for place, kind in PLACES.items():
        if rng.random() < (0.6 if place == "defence.aggregator" else 0.12):
            chosen = _component(rng, kind)
            values[place] = [chosen] if place in MANY else chosen
    if any(place.startswith("threat.") for place in values):
        values["threat.malicious"] = rng.choice((1, 2, 2, 3))
        values["threat.knows"] = ["all", "defence"]
    if rng.random() < 0.3:
        values["data.root"] = {"samples": rng.choice((1, 20, 100))}
    known = [key for key in keys(Config) if key not in PLACES]
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):
        values[rng.choice(known)] = rng.choice(ODD)
    if rng.random() < 0.05:
        values["sweep"] = {rng.choice(known): rng.choice(ODD)}
    with contextlib.suppress(ConfigError):  # one is below what another makes a number of
        put_all(table, values)
    return table


def _component(rng: random.Random, kind: str) -> Table:
    """An algorithm with some of its options, half of them as they are."""
    entry = entries(kind)[rng.choice(HERE.get(kind) or sorted(entries(kind)))]
    made: Table = {"name": entry.name}
    for name, parameter in entry.options.items():
        if rng.random() < 0.3:
            made[name] = rng.choice(ODD) if rng.random() < 0.15 or parameter.default is None else parameter.default
    return made


def as_text(table: Mapping[str, Any], rng: random.Random) -> str:
    """The tables as TOML, with a few signs changed."""
    text = list(tomli_w.dumps(_without_nothing(table)))
    for _ in range(rng.choice((0, 1, 2, 8))):
        place = rng.randrange(len(text))
        text[place] = rng.choice(("", text[place] * 2, rng.choice("[]{}=\"'.,#\n\x00é09-_"), text[place - 1]))
    return "".join(text)


def _without_nothing(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nothing(part) for key, part in value.items() if part is not None}
    if isinstance(value, list | tuple):
        return [_without_nothing(part) for part in value if part is not None]
    return value


def cheap(table: Any) -> Any:
    """The same with a short round: what only takes time is cut."""
    if isinstance(table, Mapping):
        made = {key: cheap(value) for key, value in table.items()}
        for key, most in CHEAP.items():
            last = key.rpartition(".")[2]
            if type(made.get(last)) is int and made[last] > most:
                made[last] = most
        return made
    return [cheap(part) for part in table] if isinstance(table, list) else table


class Hang(BaseException):
    """It takes too long."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Hang after so many seconds."""

    def end(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fuzz(seed: int, cases: range, rounds: int) -> Outcome:
    """Read the configurations of these numbers, as tables or as text, and play the first valid ones for a round."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), parallel.using(2):
        warnings.simplefilter("ignore")
        for case in cases:
            rng, table = random.Random(f"{seed} {case} text"), mutated(seed, case)
            source: Any = table
            if rng.random() < 0.3:
                source = Path(folder) / "x.toml"
                source.write_text(as_text(table, rng), encoding="utf-8")
            began = time.perf_counter()
            try:
                with limited(SECONDS):
                    runs = load(source).runs
                    outcome.counts["valid"] += 1
                    if outcome.counts["valid"] <= rounds:
                        _play(load(cheap(runs[0].table())).runs[0], Path(folder), outcome)
            except ConfigError as error:
                outcome.counts["refused"] += 1
                if not all(problem.isprintable() and problem for problem in error.problems):
                    outcome.failures.append(f"case {case}: {error}")
            except (Exception, Hang) as error:
                lines = traceback.format_exception(error)[-3:]
                outcome.failures.append(f"case {case}: {type(error).__name__}: {error}\n{''.join(lines)}\n{table}")
            outcome.slowest = max(outcome.slowest, time.perf_counter() - began)
        outcome.megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return outcome


def _play(config: Config, folder: Path, outcome: Outcome) -> None:
    """A round; what does not fit together is refused before it."""
    job = Job(load(config), folder / "results")
    job.check()
    plan(job, thorough=False)
    world, state = build(config)
    state, record = play(state, world)
    outcome.counts["played"] += 1
    outcome.counts["skipped"] += record["skipped"]
    wrong = [name for name, value in _numbers(record) if not math.isfinite(value)]
    if wrong or not bool(state.params.isfinite().all()):
        raise ArithmeticError(f"there is NaN in {wrong or 'the model'}, of {config.table()}")


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _numbers(part, f"{name}.{key}")
    elif isinstance(value, list):
        for part in value:
            yield from _numbers(part, name)
    elif isinstance(value, float):
        yield name, value
