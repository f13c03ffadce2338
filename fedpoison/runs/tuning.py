"""Tuning every rule alike: an equal budget of settings, on validation data and on seeds of their own.

    [tune]
    budget = 6                # settings tried a rule
    seeds = [100, 101]        # none of the experiment's own
    metric = "accuracy"       # by which the best is chosen; loss, balanced_accuracy, auc, …
    [tune.options]            # a dotted key, or a rule's name and option, each with the values to try
    "clients.local.lr" = [0.02, 0.05, 0.1]
    "centered_clipping.tau" = [0.1, 1.0, 10.0]

For each rule as many settings are drawn from the grid of the options that concern it; each is run in all of the rule's
cells (under all attacks, say) with the tuning seeds, and the one with the best mean metric of validation in the last
round is taken. Then the experiment is run with its own seeds. The test set is looked at only there.
"""

import copy
import json
import math
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from fedpoison.common.errors import ConfigError, RunError
from fedpoison.common.seeding import Stream
from fedpoison.config.config import Config, parse
from fedpoison.config.sweep import Experiment, load, put_all
from fedpoison.config.toml import read_toml
from fedpoison.measures.metrics import QUALITY, TWO_CLASSES, spelled, worth
from fedpoison.runs.files import replace_file
from fedpoison.runs.frame import Runs
from fedpoison.runs.records import RunFolder
from fedpoison.runs.running import Job
from fedpoison.runs.world import build
from fedpoison.types import Repeats, RunSeed

Setting = Mapping[str, Any]
"""Dotted keys of the configuration and the values that are tried."""


class Tune(BaseModel):
    """The [tune] table."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    budget: Repeats
    seeds: list[RunSeed] = Field(min_length=1)
    options: dict[str, list[Any]] = Field(min_length=1)
    metric: str = "accuracy"

    @field_validator("metric")
    @classmethod
    def _known(cls, metric: str) -> str:
        (metric,) = spelled([metric], QUALITY)
        return metric

    @property
    def validated(self) -> str:
        """What a record calls the metric on the validation set."""
        return f"validation_{self.metric}"


@dataclass(frozen=True)
class Tried:
    """A rule's settings, each with its mean metric of validation (None where a run has none), and the best of them."""

    rule: str
    scores: list[tuple[Setting, float | None]]
    metric: str

    @property
    def best(self) -> tuple[Setting, float | None]:
        """The setting of the best score; the first of equal ones."""
        return max(self.scores, key=lambda pair: -math.inf if pair[1] is None else worth(self.metric, pair[1]))


@dataclass(frozen=True)
class Tuning:
    """An experiment to be tuned: its cells by rule, and the settings to try for each."""

    experiment: Experiment
    tune: Tune
    cells: Mapping[str, list[dict[str, Any]]]
    settings: Mapping[str, list[Setting]]

    def trials(self) -> Experiment:
        """The runs on the tuning seeds."""
        runs = [
            run
            for rule, cells in self.cells.items()
            for setting in self.settings[rule]
            for cell in cells
            for run in self._runs(cell, setting, self.tune.seeds)
        ]
        return self._experiment(runs)

    def choose(self, job: Job) -> list[Tried]:
        """What the finished trials say: each rule's settings by their mean metric of validation in the last round."""
        chosen = []
        for rule, cells in self.cells.items():
            scores: list[tuple[Setting, float | None]] = []
            for setting in self.settings[rule]:
                runs = [run for cell in cells for run in self._runs(cell, setting, self.tune.seeds)]
                last = [self._score(job.folder(run)) for run in runs]
                measured = [value for value in last if value is not None]
                scores.append((setting, statistics.fmean(measured) if len(measured) == len(runs) else None))
            chosen.append(Tried(rule, scores, self.tune.metric))
        return chosen

    def _score(self, folder: RunFolder) -> float | None:
        records, validated = folder.records(), self.tune.validated
        if records and validated not in records[-1]:
            raise ConfigError([f"{folder.path} is of a version that did not measure {validated}: delete it"])
        score: float | None = records[-1][validated] if records else None
        return score

    def check(self) -> None:
        """ConfigError if the metric is for two classes and some of the data have another number."""
        if self.tune.metric not in TWO_CLASSES:
            return
        for run in {json.dumps(run.table()["data"], sort_keys=True): run for run in self.experiment.runs}.values():
            classes = build(run)[0].federation.dataset.n_classes
            if classes != 2:
                name = run.data.dataset.name
                raise ConfigError([f"tune.metric: {self.tune.metric} is for two classes, and {name} has {classes}"])

    def play(self, out: Path, start: Callable[[Job], Mapping[Path, str]]) -> "Tuned":
        """Try the settings, write down the best of each rule, run the experiment with them; RunError if a run fails.

        `start` starts the runs of a job and says which failed, and why.
        """
        trials = Job(self.trials(), out)
        if failures := start(trials):
            raise RunError(failures)
        tried, file = self.choose(trials), out / self.experiment.name / "tuned.toml"
        self.write(tried, file)
        final = Job(self.final(tried), out)
        if failures := start(final):
            raise RunError(failures)
        return Tuned(tried, Runs.read([final.folder(config).path for config in final.configs]), file)

    def final(self, tried: Sequence[Tried]) -> Experiment:
        """The experiment on its own seeds, each rule with its best setting."""
        seeds = sorted({run.seed for run in self.experiment.runs})
        return self._experiment(
            [run for one in tried for cell in self.cells[one.rule] for run in self._runs(cell, one.best[0], seeds)]
        )

    def write(self, tried: Sequence[Tried], file: Path) -> None:
        """The tuned experiment as a TOML that `fedpoison run` takes: a [[sweep]] a cell."""
        cells = []
        for one in tried:
            for cell in self.cells[one.rule]:
                table = copy.deepcopy(cell)
                put_all(table, one.best[0])
                cells.append((one.rule, table))
        first = cells[0][1]
        common = {key: value for key, value in first.items() if all(table.get(key) == value for _, table in cells)}
        sweep = [
            {"subset": rule, **{key: [value] for key, value in table.items() if key not in common}}
            for rule, table in cells
        ]
        whole = {**common, "seeds": sorted({run.seed for run in self.experiment.runs}), "sweep": sweep}
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, tomli_w.dumps(whole).encode())

    def _runs(self, cell: Mapping[str, Any], setting: Setting, seeds: Sequence[int]) -> list[Config]:
        table = copy.deepcopy(dict(cell))
        put_all(table, setting)
        return [parse({**table, "seed": seed}, self.experiment.folder) for seed in seeds]

    def _experiment(self, runs: Sequence[Config]) -> Experiment:
        unique = {run.hash: run for run in runs}
        return Experiment(self.experiment.name, self.experiment.folder, tuple(unique.values()), ())


@dataclass(frozen=True)
class Tuned:
    """What tuning gave: what was tried of each rule, the experiment's runs with the best, and the TOML of these."""

    tried: list[Tried]
    runs: Runs
    file: Path


def tune(
    source: str | Path, overrides: Mapping[str, Any] | None = None, out: str | Path = "results", jobs: int = 1
) -> Tuned:
    """Tune an experiment (a TOML file with a [tune] table) on seeds of its own, then run it with what was chosen.

    `overrides`: dotted keys, as {"tune.budget": 3}. Finished runs are not made again. ConfigError for a bad
    configuration, before anything runs; RunError if a run failed.
    """
    tuning = load_tuning(Path(source), overrides)
    for note in Job(tuning.trials(), Path(out)).check():
        warnings.warn(note, stacklevel=2)
    tuning.check()
    return tuning.play(Path(out), lambda job: job.start(jobs=jobs))


def load_tuning(source: Path, overrides: Mapping[str, Any] | None = None, only: Sequence[str] = ()) -> Tuning:
    """Read and check an experiment with a [tune] table; ConfigError names what is wrong."""
    experiment, table = load(source, overrides, only), read_toml(source)
    put_all(table, {key: value for key, value in (overrides or {}).items() if key.startswith("tune.")})
    try:
        tune = Tune.model_validate(table.get("tune", {}))
    except ValidationError as error:
        said = [(".".join(map(str, e["loc"])), e["msg"].removeprefix("Value error, ")) for e in error.errors()]
        raise ConfigError([f"tune.{place}: {message}" for place, message in said]) from None
    problems = []
    both = sorted({run.seed for run in experiment.runs} & set(tune.seeds))
    if both:
        problems.append(
            f"tune.seeds: {both} are seeds of the experiment too; a rule would be tuned on what it is shown on"
        )
    if not all(run.data.validation for run in experiment.runs):
        problems.append(f"tuning goes by {tune.validated.replace('_', ' ')}: set data.validation, such as 0.1")
    empty = [key for key, values in tune.options.items() if not values]
    problems += [f"tune.options.{key}: at least one value is needed" for key in empty]
    if problems:
        raise ConfigError(problems)
    cells: dict[str, dict[str, dict[str, Any]]] = {}
    rules: dict[str, str] = {}
    for run in experiment.runs:
        cell = {key: value for key, value in run.table().items() if key != "seed"}
        cells.setdefault(run.defence.rule, {})[json.dumps(cell, sort_keys=True)] = cell
        rules[run.defence.rule] = run.defence.aggregator.name
    names = set(rules.values())
    settings = {rule: _settings(tune, name, names, index) for index, (rule, name) in enumerate(sorted(rules.items()))}
    tuning = Tuning(experiment, tune, {rule: list(found.values()) for rule, found in cells.items()}, settings)
    tuning.trials()  # so that a value that no rule takes is said now
    return tuning


def _settings(tune: Tune, rule: str, rules: set[str], index: int) -> list[Setting]:
    """As many settings of this rule as the budget has, drawn from the grid; the whole grid where it is smaller."""
    keys = {}
    for key, values in tune.options.items():
        owner, _, option = key.partition(".")
        if owner in rules and owner != rule:
            continue
        keys[f"defence.aggregator.{option}" if owner == rule else key] = values
    grid = [dict(zip(keys, values, strict=True)) for values in product(*keys.values())]
    drawn = Stream(min(tune.seeds), "tuning", index).numpy().permutation(len(grid))[: tune.budget]
    return [grid[i] for i in sorted(drawn)]
