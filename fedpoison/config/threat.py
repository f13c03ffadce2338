"""[threat]: who is malicious, when, and what they do."""

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from fedpoison.attacks.threat import Actor, Draw, Knowledge, check_knowledge
from fedpoison.common.rounding import half_up
from fedpoison.common.schedule import Schedule
from fedpoison.config.section import Section, as_list
from fedpoison.contract.component import Component, maybe_a
from fedpoison.types import NotNegative, Rounds


class ScheduleConfig(Section):
    """[threat.schedule]: the attack is on in the rounds `at`, or else in rounds start, start + every, … up to end."""

    start: Rounds = 1
    end: Rounds | None = None
    every: Rounds = 1
    at: Annotated[list[Rounds], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _in_order(self) -> "ScheduleConfig":
        if self.at and (self.start, self.end, self.every) != (1, None, 1):
            raise ValueError(f"at = {self.at} says in which rounds the attack is on; start, end and every say it too")
        if self.end is not None and self.end < self.start:
            raise ValueError(f"the attack would end in round {self.end}, before it starts in round {self.start}")
        return self

    def after(self, warm: int) -> Schedule:
        """What is left of it when the first `warm` rounds are without an attack."""
        return Schedule(**dict(self)).after(warm)


class Group(Section):
    """Attackers who are alike: how many they are, or which, what they know and what they do.

    `actor`: a malicious "client", or an outsider who poisons the "data" of so many clients, which train honestly.
    `clients`: their ids, in place of a number or a share of them. `surrogate`: epochs for which an attacker trains a
    net of its own to craft poison with, for attacks that do. `stamp`: whether triggers are set on pictures before or
    after [data] augment moves and mirrors them.
    """

    actor: Actor = "client"
    malicious: int | None = Field(None, ge=0, le=1_000_000)
    share: float | None = Field(None, ge=0, le=1)
    clients: Annotated[list[Annotated[int, Field(ge=0, lt=1_000_000)]], Field(min_length=1)] | None = None
    knows: Annotated[list[Knowledge], BeforeValidator(as_list)] = Field(["all"])
    data: maybe_a("data_attack") = None
    training: maybe_a("training_attack") = None
    update: maybe_a("update_attack") = None
    sybils: NotNegative | None = None
    surrogate: int = Field(20, ge=0, le=100_000)
    stamp: Literal["after_augmentation", "before_augmentation"] = "after_augmentation"
    schedule: ScheduleConfig = ScheduleConfig()

    @model_validator(mode="after")
    def _possible(self) -> "Group":
        problems = check_knowledge(self.update.step if self.update else None, tuple(self.knows))
        told = {name: getattr(self, name) for name in ("malicious", "share", "clients")}
        given = [f"{name} = {value}" for name, value in told.items() if value is not None]
        if len(given) > 1:
            problems.append(f"{' and '.join(given)} are alternatives; give one")
        if self.clients and len({*self.clients}) < len(self.clients):
            problems.append(f"clients = {self.clients} names one twice")
        if (self.malicious or self.share or self.clients) and not self.attacks:
            problems.append(
                "there are malicious clients but no attack: give threat.data, threat.training or threat.update"
            )
        if self.actor == "data":
            ours = [f"threat.{name}" for name in ("training", "update", "sybils") if getattr(self, name) is not None]
            problems += [f'with actor = "data" clients are honest, and {name} is a client\'s doing' for name in ours]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def attacks(self) -> tuple[Component, ...]:
        """What they do: attacks on data, training and updates."""
        return tuple(attack for attack in (self.data, self.training, self.update) if attack)

    @property
    def label(self) -> str:
        """What tables call it."""
        return "+".join(attack.label for attack in self.attacks)

    def count_of(self, clients: int) -> int:
        """Malicious clients among so many."""
        if self.clients:
            return len(self.clients)
        return self.malicious or 0 if self.share is None else half_up(self.share * clients)


class ThreatConfig(Group):
    """[threat]: who is malicious. Of `groups`, each has all of its own; without them it is itself the only one.

    `draw`: whether the malicious are the same ones all along ("fixed"), so many of each cohort ("per_cohort"), or so
    many of all, drawn anew each round ("per_round").
    """

    draw: Draw = "fixed"
    groups: list[Group] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _one_group_is_a_threat(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or not isinstance(given.get("groups"), list):
            return given
        groups, others = given["groups"], sorted(given.keys() - {"groups"})
        if groups and others:
            raise ValueError(f"with groups each says all of its own, and {', '.join(others)} stands beside them")
        return groups[0] if len(groups) == 1 else given

    @model_validator(mode="after")
    def _by_groups_or_by_itself(self) -> "ThreatConfig":
        problems = []
        named = Counter(client for group in self.groups for client in {*(group.clients or ())})
        if twice := sorted(client for client, groups in named.items() if groups > 1):
            problems.append(f"clients {', '.join(map(str, twice))} are in two groups")
        if self.clients and self.draw != "fixed":
            problems.append(f'clients = {self.clients} says who is malicious, draw = "{self.draw}" draws it')
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def each(self) -> tuple[Group, ...]:
        """The groups; one alone is what it says itself."""
        return (*self.groups,) or (self,)
