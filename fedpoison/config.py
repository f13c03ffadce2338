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
    field_validator,
    model_serializer,
    model_validator,
)

from fedpoison import __version__
from fedpoison.component import a, maybe_a
from fedpoison.data.augment import Augment
from fedpoison.data.store import fingerprint
from fedpoison.defence import Defence
from fedpoison.delivery import Late
from fedpoison.rounding import half_up
from fedpoison.server import Server
from fedpoison.threat import Draw, Knowledge, check_knowledge
from fedpoison.training import ClientMomentum, Local


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


def _beta_alone(given: Any) -> Any:
    return {"beta": float(given)} if type(given) in (int, float) else given


class Clients(Section):
    """[clients]: how many there are, how many take part in a round, how they train, how they answer.

    `held_out`: the share of each client's samples on which it does not train but measures the global model.
    `momentum`: what each client keeps from round to round (its β alone, or a table). `dropout`: the chance that a
    client does not answer in a round; `late`: that it answers late.
    """

    count: int = Field(20, ge=1)
    per_round: int | None = Field(None, ge=1)
    held_out: float = Field(0.0, ge=0, lt=1)
    momentum: Annotated[ClientMomentum | None, BeforeValidator(_beta_alone)] = None
    dropout: float = Field(0.0, ge=0, lt=1)
    late: Late = Late()
    local: Local = Local()

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


class Schedule(Section):
    """[threat.schedule]: the attack is on in the rounds `at`, or else in rounds start, start + every, … up to end."""

    start: int = Field(1, ge=1)
    end: int | None = Field(None, ge=1)
    every: int = Field(1, ge=1)
    at: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _in_order(self) -> "Schedule":
        if self.at and {"start", "end", "every"} & self.model_fields_set:
            raise ValueError(f"at = {self.at} says in which rounds the attack is on; start, end and every say it too")
        if self.end is not None and self.end < self.start:
            raise ValueError(f"the attack would end in round {self.end}, before it starts in round {self.start}")
        return self

    def after(self, warm: int) -> "Schedule":
        """What is left of it when the first `warm` rounds are without an attack."""
        if self.at:
            return self.model_copy(update={"at": [round for round in self.at if round > warm]})
        missed = max(0, -(-(warm + 1 - self.start) // self.every))
        return self.model_copy(update={"start": self.start + missed * self.every})

    @property
    def first(self) -> int:
        """The first round in which the attack is on."""
        return min(self.at) if self.at else self.start


class ThreatConfig(Section):
    """[threat]: how many are malicious, what they know and what they do."""

    malicious: int | None = Field(None, ge=0)
    share: float | None = Field(None, ge=0, le=1)
    draw: Draw = "fixed"
    knows: Annotated[list[Knowledge], BeforeValidator(_as_list)] = ["all"]
    data: maybe_a("data_attack") = None
    update: maybe_a("update_attack") = None
    sybils: float | None = Field(None, ge=0, allow_inf_nan=False)
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


class WarmStart(Section):
    """[warm_start]: begin with a trained model instead of a random one.

    `rounds`: the run's first rounds are without an attack and under the plain mean; all cells of a seed that agree
    on the rest share them. `file`: a model.safetensors of the same net. Only parameters are taken over.
    """

    rounds: int | None = Field(None, ge=1)
    file: str | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> "WarmStart":
        if (self.rounds is None) == (self.file is None):
            raise ValueError(f"give rounds or file; they are {self.rounds} and {self.file!r}")
        return self

    @field_validator("file")
    @classmethod
    def _from_anywhere(cls, file: str | None, info: Any) -> str | None:
        if file is None:
            return None
        path = ((info.context or {}).get("folder") or Path()) / file
        if not path.is_file():
            raise ValueError(f"there is no file {path}")
        return str(path.resolve())


class Config(Section):
    """One run: an experiment's cell with one seed."""

    name: str = Field(min_length=1, pattern=r"^\w[\w.+ -]*$")
    seed: int = Field(0, ge=0)
    rounds: int = Field(ge=1)
    evaluate_every: int = Field(1, ge=1)
    data: Data
    model: a("model") = Field("mlp", validate_default=True)
    warm_start: WarmStart | None = None
    clients: Clients = Clients()
    server: Server = Server()
    threat: ThreatConfig = ThreatConfig()
    defence: DefenceConfig = DefenceConfig()
    engine: a("engine") = Field("batched", validate_default=True)
    workers: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _chain_fits(self) -> "Config":
        clients, threat = self.clients, self.threat
        among = clients.cohort if threat.draw == "per_cohort" else clients.count
        problems = []
        if threat.share and not self.malicious:
            problems.append(f"threat.share = {threat.share} of {among} clients is nobody")
        if self.malicious and threat.schedule.first > self.rounds:
            problems.append(f"the attack starts in round {threat.schedule.first}, after the last, {self.rounds}")
        if self.defence.chain.wants_root and not self.data.root:
            needs = f"{self.defence.chain.wants_root} needs the server's own samples"
            problems.append(f"{needs}: give data.root, such as {{ samples = 100 }}")
        if self.warm_rounds >= self.rounds:
            problems.append(f"warm_start.rounds = {self.warm_rounds} leave nothing of rounds = {self.rounds}")
        if self.warm_rounds and (clients.local.rates.cosine or self.server.rates.cosine):
            problems.append("warm_start.rounds are shared, and a cosine that ends in the last round is each run's own")
        if self.malicious and threat.schedule.end is not None and threat.schedule.end <= self.warm_rounds:
            problems.append(f"the attack ends in round {threat.schedule.end}, within the {self.warm_rounds} warm ones")
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
    def warm_rounds(self) -> int:
        """Rounds before the attack that this run shares with others."""
        return (self.warm_start.rounds or 0) if self.warm_start else 0

    def prefix(self) -> "Config":
        """The run whose last round is this one's last warm one: no attack, the plain mean, the same all else."""
        update = {"rounds": self.warm_rounds, "warm_start": None, "threat": ThreatConfig()}
        return self.model_copy(update={**update, "defence": DefenceConfig()})

    @property
    def malicious(self) -> int:
        """Malicious clients: of each cohort if they are drawn so, of the population otherwise."""
        return self.threat.count_of(self.clients.cohort if self.threat.draw == "per_cohort" else self.clients.count)

    @property
    def expected_malicious(self) -> int:
        """Malicious clients in an expected cohort, rounded half up."""
        if self.threat.draw == "per_cohort":
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
        schedule = self.threat.schedule.after(self.warm_rounds).model_dump() if self.malicious else None
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
        for option in self.data.dataset.entry.contents:
            table["data"][option] = fingerprint(table["data"][option])
        if not self.engine.entry.file_hash:
            table["engine"] = "sequential" if self.engine.name == "sequential" else "batched"
        if self.warm_start and self.warm_start.file:
            table["warm_start"] = fingerprint(self.warm_start.file)
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
