"""The TOML as types. What is given is checked here, all at once, before anything runs."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from fedpoison.common.errors import ConfigError
from fedpoison.common.fingerprint import fingerprint
from fedpoison.common.rounding import half_up
from fedpoison.common.schedule import Schedule, together
from fedpoison.common.version import VERSION
from fedpoison.config.keys import instead
from fedpoison.config.section import Section
from fedpoison.config.sections import Clients, Data, DefenceConfig, WarmStart
from fedpoison.config.threat import Group, ThreatConfig
from fedpoison.contract.component import Component, a
from fedpoison.server import Server
from fedpoison.types import Few, Rounds, RunSeed


class Config(Section):
    """One run: an experiment's cell with one seed."""

    name: str = Field(min_length=1, max_length=100, pattern=r"^\w[\w.+ -]*$")
    seed: RunSeed = 0
    rounds: Rounds
    evaluate_every: Rounds = 1
    data: Data
    model: a("model") = Field("mlp", validate_default=True)
    warm_start: WarmStart | None = None
    clients: Clients = Field(default_factory=Clients)
    server: Server = Server()
    threat: ThreatConfig = ThreatConfig()
    defence: DefenceConfig = DefenceConfig()
    engine: a("engine") = Field("batched", validate_default=True)
    workers: Few | None = None

    @model_validator(mode="after")
    def _chain_fits(self) -> "Config":
        clients, threat = self.clients, self.threat
        among = clients.cohort if threat.draw == "per_cohort" else clients.count
        problems = [said for place, group in self.groups.items() for said in self._misplaced(place, group, among)]
        if self.defence.chain.wants_root and not self.data.root:
            needs = f"{self.defence.chain.wants_root} needs the server's own samples"
            problems.append(f"{needs}: give data.root, such as {{ samples = 100 }}")
        if self.warm_rounds >= self.rounds:
            problems.append(f"warm_start.rounds = {self.warm_rounds} leave nothing of rounds = {self.rounds}")
        if self.warm_rounds and (clients.local.rates.cosine or self.server.rates.cosine):
            problems.append("warm_start.rounds are shared, and a cosine that ends in the last round is each run's own")
        if self.malicious > among:
            problems.append(f"threat.malicious = {self.malicious} of {among} clients")
        elif self.f is not None:
            problems += self.defence.chain.problems(clients.cohort, self.f)
        else:
            problems += self.defence.chain.problems(clients.cohort, self.expected_malicious)
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _misplaced(self, place: str, group: Group, among: int) -> Iterator[str]:
        """What a group's number, names or schedule cannot be here."""
        if group.share and not group.count_of(among):
            yield f"{place}.share = {group.share} of {among} clients is nobody"
        if unknown := [client for client in group.clients or () if client >= self.clients.count]:
            named = ", ".join(map(str, unknown))
            yield f"{place}.clients: there is no client {named}, of {self.clients.count} from 0"
        first, last = group.schedule.after(self.warm_rounds).first, group.schedule.after(0).last
        if group.count_of(among) and last is not None and last <= self.warm_rounds:
            yield f"the attack ends in round {last}, within the {self.warm_rounds} warm ones"
        elif group.count_of(among) and first > self.rounds:
            yield f"the attack starts in round {first}, after the last, {self.rounds}"

    @property
    def groups(self) -> dict[str, Group]:
        """The threat's groups by the dotted keys of their tables; one alone is the threat itself."""
        several = self.threat.groups
        return {f"threat.groups.{i}": group for i, group in enumerate(several)} if several else {"threat": self.threat}

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
        return sum(self.counts)

    @property
    def counts(self) -> tuple[int, ...]:
        """The malicious clients of each group."""
        among = self.clients.cohort if self.threat.draw == "per_cohort" else self.clients.count
        return tuple(group.count_of(among) for group in self.threat.each)

    @property
    def hostile(self) -> int:
        """Those of the malicious clients who are so themselves, and not only their data."""
        return sum(k for k, group in zip(self.counts, self.threat.each, strict=True) if group.actor == "client")

    @property
    def expected_malicious(self) -> int:
        """Malicious clients in an expected cohort, rounded half up."""
        return self.expected(self.malicious)

    @property
    def expected_hostile(self) -> int:
        """Those of them who are malicious themselves."""
        return self.expected(self.hostile)

    def expected(self, malicious: int) -> int:
        """How many of so many malicious clients are in an expected cohort, rounded half up."""
        if self.threat.draw == "per_cohort":
            return malicious
        return half_up(malicious * self.clients.cohort / self.clients.count)

    @property
    def f(self) -> int | None:
        """What the defence is told; None where it is told the truth of each round."""
        if self.defence.f == "true":
            return None
        if self.defence.f is not None:
            return self.defence.f
        return self.expected_hostile

    @property
    def attack(self) -> str:
        """The attack's name: data, training and update attack, or none; that of each group that there is."""
        names = [group.label for group, count in zip(self.threat.each, self.counts, strict=True) if count]
        return " & ".join(names) or "none"

    @property
    def schedule(self) -> Schedule | None:
        """When anybody attacks; None if nobody does."""
        pairs = zip(self.threat.each, self.counts, strict=True)
        there = [group.schedule.after(self.warm_rounds) for group, count in pairs if count]
        return together(there, self.rounds) if there else None

    def stamps_last(self, group: Group) -> bool:
        """Whether the trigger of a group's data attack is set on pictures after their augmentation."""
        data, after = group.data, group.stamp == "after_augmentation"
        return bool(self.data.augment and data and data.entry.plants and after)

    def table(self) -> dict[str, Any]:
        """All that was resolved, as a TOML table that gives this configuration again."""
        return self._dumped(by_content=False)

    def _dumped(self, by_content: bool) -> dict[str, Any]:
        dumped: dict[str, Any] = _without_none(self.model_dump(context={"by_content": by_content}))
        dumped["defence"]["f"] = "true" if self.f is None else self.f
        groups = dumped["threat"].pop("groups")
        dumped["threat"] = {"groups": groups} if groups else dumped["threat"]
        return dumped

    def labels(self) -> dict[str, Any]:
        """How tables and figures call this run, and the hash of the clean run it is compared with."""
        clean = self.clean().hash if self.malicious else None
        schedule = asdict(self.schedule) if self.schedule else None
        labels = {"rule": self.defence.rule, "attack": self.attack, "clean": clean, "schedule": schedule}
        return {**labels, "digests": self.digests}

    @property
    def components(self) -> dict[str, Component]:
        """All algorithms by the dotted keys of their tables; a pre-aggregator by its place, as in defence.pre.0."""
        pre = {f"defence.pre.{place}": step for place, step in enumerate(self.defence.pre)}
        watched = {f"defence.monitors.{i}": each.monitor for i, each in enumerate(self.defence.monitors)}
        cleaning = {f"defence.client.sanitize.{i}": step for i, step in enumerate(self.defence.client.sanitize)}
        kinds = ("data", "training", "update")
        attacks = {f"{place}.{kind}": getattr(group, kind) for place, group in self.groups.items() for kind in kinds}
        chosen = {
            "data": self.data.dataset,
            "data.partition": self.data.partition,
            "model": self.model,
            "clients.local.loss": self.clients.local.loss,
            **attacks,
            **pre,
            "defence.aggregator": self.defence.aggregator,
            "defence.base": self.defence.base,
            **watched,
            **cleaning,
            "engine": self.engine,
        }
        return {key: component for key, component in chosen.items() if component}

    @property
    def digests(self) -> dict[str, str]:
        """Short digests of the files of the user's in it by dotted key, such as defence.aggregator or data.file."""
        found = {f"{key}.{k}".rstrip("."): d for key, c in self.components.items() for k, d in c.digests.items()}
        warm = self.warm_start and self.warm_start.file
        return {**found, **({"warm_start.file": fingerprint(warm)[:16]} if warm else {})}

    def clean(self) -> "Config":
        """The same run without its attack.

        The data attack stays named, so that what it aims at is measured on the clean model too, but nobody
        does it; the defence is told the f that it was told.
        """
        aiming = [Group(data=group.data) for group in self.threat.each if group.data]
        quiet = (
            ThreatConfig(groups=aiming) if len(aiming) > 1 else ThreatConfig(data=aiming[0].data if aiming else None)
        )
        defence = self.defence.model_copy(update={"f": self.expected_malicious if self.f is None else self.f})
        return self.model_copy(update={"threat": quiet, "defence": defence})

    @property
    def hash(self) -> str:
        """Twelve digits over everything that can change a bit of the result."""
        table = self._dumped(by_content=True)
        for name in ("name", "workers"):
            table.pop(name, None)
        entry, options = self.engine.step
        if not entry.file_hash:
            name, told = entry.bits_of or entry.name, entry.tell("bits", **options) if entry.bits else []
            table["engine"] = [name, *told] if any(told) else name
        if not self.defence.monitors:
            del table["defence"]["monitors"]  # there were none before
        if not self.defence.client.sanitize:
            del table["defence"]["client"]
        for group, told in zip(self.threat.each, table["threat"].get("groups", [table["threat"]]), strict=True):
            if not self.stamps_last(group):
                del told["stamp"]  # it changes nothing, or is what was always done
        local, loss = table["clients"]["local"], table["clients"]["local"]["loss"]
        local["loss"] = local.pop("reduction")  # as it was called before losses could be chosen
        if loss != {"name": "cross_entropy"}:
            local["criterion"] = loss
        if self.malicious:
            table["threat"]["ids"] = "nested"  # which are drawn for a seed; what was drawn otherwise has other hashes
        elif self.threat.groups:
            table["threat"] = {"groups": [{"data": told.get("data")} for told in table["threat"]["groups"]]}
        else:
            table["threat"] = {"data": table["threat"].get("data")}
        text = json.dumps([table, VERSION], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def _without_none(table: Any) -> Any:
    if isinstance(table, dict):
        return {k: _without_none(v) for k, v in table.items() if v is not None}
    return [_without_none(v) for v in table] if isinstance(table, list) else table


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
        message = f"there is no such key; {instead(place, Config)}"
    elif error["type"] == "missing":
        message = "is missing"
    elif error["type"] != "value_error":
        message = f"{message}, not {error['input']!r}"
    return f"{place}: {message}" if place else message
