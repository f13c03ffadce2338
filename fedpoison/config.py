"""The TOML as types. What is given is checked here, all at once, before anything runs."""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_serializer,
    model_validator,
)

from fedpoison import __version__
from fedpoison.component import a, maybe_a
from fedpoison.data.augment import Augment
from fedpoison.defence import Defence
from fedpoison.rounding import half_up
from fedpoison.threat import Knowledge, check_knowledge
from fedpoison.training import Local


class ConfigError(ValueError):
    """What is wrong with a configuration, one line a problem."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = list(dict.fromkeys(problems))
        super().__init__("\n".join(self.problems))


class Section(BaseModel):
    """A table of the TOML."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _as_list(given: Any) -> Any:
    return [given] if isinstance(given, str) else given


class Root(Section):
    """[data] root: clean samples that the server has for itself."""

    samples: int = Field(ge=1)


class Normalise(Section):
    """[data] normalise: subtract the mean and divide by the standard deviation of each channel (or feature)."""

    mean: list[float] = Field(min_length=1)
    std: list[Annotated[float, Field(gt=0)]] = Field(min_length=1)

    @model_validator(mode="after")
    def _alike(self) -> "Normalise":
        if len(self.mean) != len(self.std):
            raise ValueError(f"there are {len(self.mean)} means and {len(self.std)} standard deviations")
        return self


def _count_or_share(given: Any) -> Any:
    if type(given) is int and given >= 0:
        return given
    if type(given) is float and 0 <= given < 1:
        return given
    raise ValueError(f"a number of samples, or a share of them below 1, is needed; it is {given!r}")


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
        if isinstance(given, str):
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


class Clients(Section):
    """[clients]: how many there are, how many take part in a round, how they train.

    `held_out`: the share of each client's samples on which it does not train but measures the global model.
    """

    count: int = Field(20, ge=1)
    per_round: int | None = Field(None, ge=1)
    held_out: float = Field(0.0, ge=0, lt=1)
    local: Local = Local()

    @model_validator(mode="after")
    def _not_more_than_there_are(self) -> "Clients":
        if self.cohort > self.count:
            raise ValueError(f"per_round = {self.per_round} is more than the {self.count} clients there are")
        return self

    @property
    def cohort(self) -> int:
        """Clients in a round."""
        return self.per_round or self.count


class Server(Section):
    """[server]: params ← params + lr · aggregate."""

    lr: float = Field(1.0, gt=0, allow_inf_nan=False)


class Schedule(Section):
    """[threat.schedule]: the attack is on in rounds start, start + every, … up to end."""

    start: int = Field(1, ge=1)
    end: int | None = Field(None, ge=1)
    every: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _in_order(self) -> "Schedule":
        if self.end is not None and self.end < self.start:
            raise ValueError(f"the attack would end in round {self.end}, before it starts in round {self.start}")
        return self


class ThreatConfig(Section):
    """[threat]: how many are malicious, what they know and what they do."""

    malicious: int | None = Field(None, ge=0)
    share: float | None = Field(None, ge=0, le=1)
    draw: Literal["fixed", "per_round"] = "fixed"
    knows: Annotated[list[Knowledge], BeforeValidator(_as_list)] = ["all"]
    data: maybe_a("data_attack") = None
    update: maybe_a("update_attack") = None
    schedule: Schedule = Schedule()

    @model_validator(mode="after")
    def _possible(self) -> "ThreatConfig":
        problems = check_knowledge(self.update.step if self.update else None, tuple(self.knows))
        if self.malicious is not None and self.share is not None:
            problems.append(f"malicious = {self.malicious} and share = {self.share} are alternatives; give one")
        if (self.malicious or self.share) and not (self.data or self.update):
            problems.append("there are malicious clients but no attack: give threat.data or threat.update")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def count_of(self, clients: int) -> int:
        """Malicious clients among so many."""
        return self.malicious or 0 if self.share is None else half_up(self.share * clients)


def _count_or_true(given: Any) -> Any:
    if given is True:  # --set defence.f=true
        return "true"
    if given in (None, "true") or (type(given) is int and given >= 0):
        return given
    raise ValueError(f'a whole number of at least 0 is needed, or "true"; it is {given!r}')


class DefenceConfig(Section):
    """[defence]: what the server is told and does. f = "true" tells it the truth each round."""

    f: Annotated[int | Literal["true"] | None, BeforeValidator(_count_or_true)] = None
    pre: list[a("preaggregator")] = []
    aggregator: a("aggregator") = Field("mean", validate_default=True)

    @property
    def chain(self) -> Defence:
        """The chain that the steps make."""
        return Defence(tuple(step.step for step in self.pre), self.aggregator.step)

    @property
    def rule(self) -> str:
        """The chain's name: pre-aggregators, then the rule."""
        return "+".join(step.label for step in (*self.pre, self.aggregator))


class Config(Section):
    """One run: an experiment's cell with one seed."""

    name: str = Field(min_length=1, pattern=r"^\w[\w.+ -]*$")
    seed: int = Field(0, ge=0)
    rounds: int = Field(ge=1)
    evaluate_every: int = Field(1, ge=1)
    data: Data
    model: a("model") = Field("mlp", validate_default=True)
    clients: Clients = Clients()
    server: Server = Server()
    threat: ThreatConfig = ThreatConfig()
    defence: DefenceConfig = DefenceConfig()
    engine: a("engine") = Field("batched", validate_default=True)
    workers: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _chain_fits(self) -> "Config":
        clients, threat = self.clients, self.threat
        among = clients.count if threat.draw == "fixed" else clients.cohort
        problems = []
        if threat.share and not self.malicious:
            problems.append(f"threat.share = {threat.share} of {among} clients is nobody")
        if self.malicious and threat.schedule.start > self.rounds:
            problems.append(f"the attack starts in round {threat.schedule.start}, after the last, {self.rounds}")
        if self.malicious > among:
            problems.append(f"threat.malicious = {self.malicious} of {among} clients")
        elif self.f is not None:
            problems += self.defence.chain.problems(clients.cohort, self.f)
        else:
            problems += self.defence.chain.problems(clients.cohort, self.expected_malicious)
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def malicious(self) -> int:
        """Malicious clients: of the population if they are fixed, of each cohort otherwise."""
        return self.threat.count_of(self.clients.count if self.threat.draw == "fixed" else self.clients.cohort)

    @property
    def expected_malicious(self) -> int:
        """Malicious clients in an expected cohort, rounded half up."""
        if self.threat.draw == "per_round":
            return self.malicious
        return half_up(self.malicious * self.clients.cohort / self.clients.count)

    @property
    def f(self) -> int | None:
        """What the defence is told; None where it is told the truth of each round."""
        if self.defence.f == "true":
            return None
        return self.expected_malicious if self.defence.f is None else self.defence.f

    @property
    def attack(self) -> str:
        """The attack's name: data and update attack, or none."""
        if not self.malicious:
            return "none"
        return "+".join(c.label for c in (self.threat.data, self.threat.update) if c)

    def table(self) -> dict[str, Any]:
        """All that was resolved, as a TOML table that gives this configuration again."""
        dumped: dict[str, Any] = _without_none(self.model_dump())
        dumped["defence"]["f"] = "true" if self.f is None else self.f
        return dumped

    def labels(self) -> dict[str, Any]:
        """How tables and figures call this run, and the hash of the clean run it is compared with."""
        clean = self.clean().hash if self.malicious else None
        schedule = self.threat.schedule.model_dump() if self.malicious else None
        return {"rule": self.defence.rule, "attack": self.attack, "clean": clean, "schedule": schedule}

    def clean(self) -> "Config":
        """The same run without its attack.

        The data attack stays named, so that what it aims at is measured on the clean model too, but nobody
        does it; the defence is told the f that it was told.
        """
        quiet = ThreatConfig(data=self.threat.data)
        defence = self.defence.model_copy(update={"f": self.expected_malicious if self.f is None else self.f})
        return self.model_copy(update={"threat": quiet, "defence": defence})

    @property
    def hash(self) -> str:
        """Twelve digits over everything that can change a bit of the result."""
        table = self.table()
        for name in ("name", "workers"):
            table.pop(name, None)
        for place in self.data.dataset.entry.places:
            table["data"].pop(place, None)
        if not self.engine.entry.file_hash:
            table["engine"] = "sequential" if self.engine.name == "sequential" else "batched"
        if not self.malicious:
            table["threat"] = {"data": table["threat"].get("data")}
        chosen = (self.model, self.engine, self.data.dataset, self.data.partition, self.threat.data)
        parts = (*chosen, self.threat.update, *self.defence.pre, self.defence.aggregator)
        files = {c.name: f"{c.entry.file_hash}:{c.entry.name}" for c in parts if c and c.entry.file_hash}
        text = json.dumps([table, __version__], sort_keys=True)
        for name, content in files.items():  # what a file says counts, not where it lies
            text = text.replace(json.dumps(name), json.dumps(content))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def _without_none(table: Any) -> Any:
    if isinstance(table, dict):
        return {k: _without_none(v) for k, v in table.items() if v is not None}
    return [_without_none(v) for v in table] if isinstance(table, list) else table


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; ConfigError if it cannot be read."""
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror or error}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path} is not TOML: {error}"]) from error


def parse(table: Mapping[str, Any], folder: Path | None = None) -> Config:
    """Check one run's tables; user files are looked up relative to `folder`. ConfigError names all that is wrong."""
    try:
        return Config.model_validate(dict(table), context={"folder": folder})
    except ValidationError as error:
        raise ConfigError([_sentence(e) for e in error.errors()]) from None


def _sentence(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"] if part != "dataset")
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = "there is no such key"
    elif error["type"] == "missing":
        message = "is missing"
    elif error["type"] != "value_error":
        message = f"{message}, not {error['input']!r}"
    return f"{place}: {message}" if place else message
