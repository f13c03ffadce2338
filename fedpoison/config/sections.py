"""The tables of the TOML, each with what it can check by itself; `config.py` puts them together."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)

from fedpoison.clients.delivery import Late
from fedpoison.clients.training import ClientMomentum, Local
from fedpoison.common.fingerprint import fingerprint
from fedpoison.common.rounding import half_up
from fedpoison.config.section import Section, as_list
from fedpoison.contract.component import a, by_content, maybe_a
from fedpoison.data.augment import Augment
from fedpoison.defences.defence import Defence
from fedpoison.defences.monitoring import Action, Watch
from fedpoison.types import Count, Few, Population, Positive, Real, Rounds

_MOST = 10_000_000
"""Samples or clients that a number may mean."""


class Root(Section):
    """[data] root: clean samples that the server has for itself."""

    samples: Count


class Normalise(Section):
    """[data] normalise: subtract the mean and divide by the standard deviation of each channel (or feature)."""

    mean: list[Real] = Field(min_length=1)
    std: list[Positive] = Field(min_length=1)

    @model_validator(mode="after")
    def _alike(self) -> "Normalise":
        if len(self.mean) != len(self.std):
            raise ValueError(f"there are {len(self.mean)} means and {len(self.std)} standard deviations")
        return self


def _count_or_share(given: Any) -> Any:
    if type(given) is int and 0 <= given <= _MOST:
        return given
    if type(given) is float and 0 <= given < 1:
        return given
    raise ValueError(f"a number of samples up to {_MOST}, or a share of them below 1, is needed; it is {given!r}")


class Data(Section):
    """[data]: the data set with its options, how it is split, and how samples are shown to the model."""

    dataset: a("dataset")
    partition: a("partition") = Field("iid", validate_default=True)
    root: Root | None = None
    validation: Annotated[int | float, BeforeValidator(_count_or_share)] = 0
    normalise: Normalise | None = None
    augment: Augment | None = None

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, given: Any) -> Any:
        if isinstance(given, str) or callable(given):
            return {"dataset": given}
        if not isinstance(given, Mapping):
            return given
        if "name" not in given:
            raise ValueError("data.name is missing: which data set?")
        ours = {k: v for k, v in given.items() if k in cls.model_fields and k != "dataset"}
        return {"dataset": {k: v for k, v in given.items() if k not in ours}, **ours}

    @model_serializer(mode="wrap")
    def _as_table(self, whole: Any) -> dict[str, Any]:
        table = whole(self)
        return {**table.pop("dataset"), **table}

    def validation_samples(self, available: int) -> int:
        """How many of so many train samples are for validation."""
        return self.validation if isinstance(self.validation, int) else half_up(self.validation * available)


def _beta_alone(given: Any) -> Any:
    return {"beta": float(given)} if type(given) in (int, float) else given


class Clients(Section):
    """[clients]: how many there are, how many take part in a round, how they train, how they answer.

    `held_out`: the share of each client's samples on which it does not train but measures the global model.
    `momentum`: what each client keeps from round to round (its β alone, or a table). `dropout`: the chance that a
    client does not answer in a round; `late`: that it answers late.
    """

    count: Population = 20
    per_round: Population | None = None
    held_out: float = Field(0.0, ge=0, lt=1)
    momentum: Annotated[ClientMomentum | None, BeforeValidator(_beta_alone)] = None
    dropout: float = Field(0.0, ge=0, lt=1)
    late: Late = Late()
    local: Local = Field(default_factory=Local)

    @model_validator(mode="after")
    def _not_more_than_there_are(self) -> "Clients":
        if self.cohort > self.count:
            raise ValueError(f"per_round = {self.per_round} is more than the {self.count} clients there are")
        if self.dropout + self.late.chance > 1:
            raise ValueError(f"dropout = {self.dropout} and late.chance = {self.late.chance} are more than 1 together")
        return self

    @property
    def cohort(self) -> int:
        """Clients in a round."""
        return self.per_round or self.count


def _count_or_true(given: Any) -> Any:
    if given is True:  # --set defence.f=true
        return "true"
    if given in (None, "true") or (type(given) is int and 0 <= given <= _MOST):
        return given
    raise ValueError(f'a whole number from 0 to {_MOST} is needed, or "true"; it is {given!r}')


class MonitorConfig(Section):
    """One of [defence] monitors: a monitor's name or its table, and what is done on its alarms.

    `for_rounds`: how long a quarantine lasts.
    """

    monitor: a("monitor")
    action: Action = "warn"
    for_rounds: Rounds | None = None

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and "monitor" not in given:
            ours = {k: v for k, v in given.items() if k in ("action", "for_rounds")}
            return {"monitor": {k: v for k, v in given.items() if k not in ours}, **ours}
        return {"monitor": given} if isinstance(given, str) or callable(given) else given

    @model_serializer(mode="wrap")
    def _as_table(self, whole: Any) -> dict[str, Any]:
        table = whole(self)
        return {**table.pop("monitor"), **table}

    @property
    def watch(self) -> Watch:
        """The monitor as the server takes it."""
        return Watch(self.monitor.step, self.action, self.for_rounds)

    @model_validator(mode="after")
    def _lasts(self) -> "MonitorConfig":
        _ = self.watch  # ValueError if a quarantine has no length, or something else has one
        return self


class ClientDefence(Section):
    """[defence.client]: what honest clients do against poison among their samples.

    `sanitize`: sanitizers, one after the other, in the first round from `start` in which a client takes part, and every
    `every` rounds if that is given, with the round's global model.
    """

    sanitize: Annotated[list[a("sanitizer")], BeforeValidator(as_list)] = Field([])
    start: Rounds = 1
    every: Rounds | None = None


class DefenceConfig(Section):
    """[defence]: what the server is told and does. f = "true" tells it the truth each round.

    A step that asks for f may have one of its own, { name = "trimmed_mean", f = 2 }, in place of this.
    `base`: the rule that the aggregator is built around, for those that are. `monitors`: what watches the rounds.
    `client`: what honest clients do.
    """

    f: Annotated[int | Literal["true"] | None, BeforeValidator(_count_or_true)] = None
    pre: list[a("preaggregator")] = Field([])
    aggregator: a("aggregator") = Field("mean", validate_default=True)
    base: maybe_a("aggregator") = None
    monitors: list[MonitorConfig] = Field([])
    client: ClientDefence = ClientDefence()

    @property
    def chain(self) -> Defence:
        """The chain that the steps make."""
        base = self.base.step if self.base else None
        return Defence(tuple(step.step for step in self.pre), self.aggregator.step, base)

    @property
    def rule(self) -> str:
        """The chain's name: pre-aggregators, then the rule, its base in parentheses."""
        name = "+".join(step.label for step in (*self.pre, self.aggregator))
        return f"{name}({self.base.label})" if self.base else name


class WarmStart(Section):
    """[warm_start]: begin with a trained model instead of a random one.

    `rounds`: the run's first rounds are without an attack and under the plain mean; all cells of a seed that agree
    on the rest share them. `file`: a model.safetensors of the same net. Only parameters are taken over. With a file,
    `train_last`: only the last so many layers that have parameters are trained and sent, the others are frozen;
    `fresh`: these last layers begin anew, with random parameters.
    """

    rounds: Rounds | None = None
    file: str | None = None
    train_last: Few | None = None
    fresh: bool = False

    @model_validator(mode="after")
    def _one_of_them(self) -> "WarmStart":
        if (self.rounds is None) == (self.file is None):
            raise ValueError(f"give rounds or file; they are {self.rounds} and {self.file!r}")
        if self.train_last and self.file is None:
            raise ValueError(f"train_last = {self.train_last} freezes layers of a file, and none is given")
        if self.fresh and not self.train_last:
            raise ValueError("fresh = true is for the layers that train_last counts, and it is not given")
        return self

    @field_validator("file")
    @classmethod
    def _from_anywhere(cls, file: str | None, info: Any) -> str | None:
        if file is None:
            return None
        path = ((info.context or {}).get("folder") or Path()) / file
        if not os.path.isfile(path):  # a name that is too long is none either
            raise ValueError(f"there is no file {path}")
        return str(path.resolve())

    @field_serializer("file")
    def _file_or_content(self, file: str | None, info: Any) -> str | None:
        return fingerprint(file) if file and by_content(info) else file
