"""What an experiment will cost: its runs and rounds, and time and disk as a short probe has them."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fedpoison.common import parallel
from fedpoison.config.config import Config
from fedpoison.round import play
from fedpoison.runs.running import Job
from fedpoison.runs.world import build

_SECONDS = 4.0
"""What a probe may take, after its first run."""
_WORTH = 10
"""A probe goes on only while it has taken less than one such part of what is to be done."""


@dataclass(frozen=True)
class Plan:
    """An experiment before it is run; `seconds` and `bytes` are of what is left, None where nothing could be probed."""

    name: str
    swept: Mapping[str, list[Any]]
    seeds: list[int]
    runs: int
    clean: int
    finished: int
    rounds: int
    rounds_left: int
    seconds: float | None
    bytes: int | None

    def lines(self) -> list[str]:
        """The plan in words, a line a fact."""
        paired = f" and {self.clean} paired clean runs" if self.clean else ""
        done = f", {self.finished} of them finished" if self.finished else ""
        said = [f"{self.name}: {self.runs} runs{paired}{done}; {self.rounds_left} of {self.rounds} rounds to play"]
        said += [f"  {key}: {_listed(values)}" for key, values in self.swept.items()]
        if len(self.seeds) > 1:
            said.append(f"  seeds: {_listed(self.seeds)}")
        if self.seconds is not None and self.bytes is not None:
            said.append(f"  about {_duration(self.seconds)} and {_size(self.bytes)}, by a short probe")
        return said

    def as_dict(self) -> dict[str, Any]:
        """The same for machines."""
        return asdict(self)


def plan(job: Job, *, thorough: bool = True) -> Plan:
    """Count, and probe; unless `thorough`, only where the two rounds of a probe are few beside what is to be done."""
    left = [config for config in job.configs if not job.folder(config).finished]
    per_run = {config.hash: config.rounds - len(job.folder(config).records()) for config in left}
    probed = _probe(left) if thorough or sum(per_run.values()) >= _WORTH * 2 else {}
    seconds = sum(_of(probed, c)[0] + per_run[c.hash] * _of(probed, c)[1] for c in left) if probed else None
    size = sum(_of(probed, c)[2] + per_run[c.hash] * _of(probed, c)[3] for c in left) if probed else None
    return Plan(
        name=job.experiment.name,
        swept=job.experiment.swept,
        seeds=sorted({config.seed for config in job.experiment.runs}),
        runs=len(job.experiment.runs),
        clean=len(job.experiment.clean),
        finished=len(job.configs) - len(left),
        rounds=sum(config.rounds for config in job.configs),
        rounds_left=sum(per_run.values()),
        seconds=seconds,
        bytes=size,
    )


Cost = tuple[float, float, int, int]
"""Seconds to begin and a round, bytes of the model and a round."""


def _probe(left: list[Config]) -> dict[str, Cost]:
    """What a few unlike runs cost, by kind. A run that fails is left to fail when it is made."""
    kinds = {_kind(config): config for config in reversed(left)}
    found: dict[str, Cost] = {}
    began = time.perf_counter()
    for kind, config in reversed(kinds.items()):
        try:
            with parallel.using(config.workers):
                found[kind] = _cost(config)
        except (Exception, SystemExit):  # whatever a user's rule or net raises
            continue
        spent = time.perf_counter() - began
        whole = sum(_of(found, c)[0] + c.rounds * _of(found, c)[1] for c in left)
        if spent > _SECONDS or _WORTH * spent > whole:
            break
    return found


def _cost(config: Config) -> Cost:
    start = time.perf_counter()
    world, state = build(config)
    begun = time.perf_counter()
    state, _ = play(state, world)  # the first round is slower
    before = time.perf_counter()
    state, record = play(state, world)
    took = time.perf_counter() - before - record["seconds"]["evaluate"]
    before = time.perf_counter()
    world.evaluator(state.params)
    a_round = took + (time.perf_counter() - before) / config.evaluate_every
    return begun - start, a_round, state.params.numel() * state.params.element_size(), len(json.dumps(record))


def _kind(config: Config) -> str:
    return f"{config.model.label} {config.defence.rule} {config.attack} {config.clients.cohort}"


def _of(found: Mapping[str, Cost], config: Config) -> Cost:
    """What a run costs: what its kind does, or else the dearest of those that were tried."""
    return found.get(_kind(config)) or max(found.values(), key=lambda cost: cost[1])


def _listed(values: list[Any]) -> str:
    words = [_short(value) for value in values]
    shown = words if len(words) <= 8 else [*words[:7], f"… ({len(words)} in all)"]
    return ", ".join(shown)


def _short(value: Any) -> str:
    """A value in few words: a component as name(option=…), another table as its keys and values."""
    if not isinstance(value, Mapping):
        return value if isinstance(value, str) else json.dumps(value)
    inner = " ".join(f"{key}={_short(part)}" for key, part in value.items() if key != "name")
    if "name" not in value:
        return f"{{{inner}}}"
    return f"{value['name']}({inner})" if inner else str(value["name"])


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"
