"""[threat]: who is malicious, when, and what they do."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from fedpoison.attacks.threat import Actor, Draw, Knowledge, check_knowledge
from fedpoison.common.rounding import half_up
from fedpoison.common.schedule import Schedule
from fedpoison.config.section import Section, as_list
from fedpoison.contract.component import maybe_a


class ScheduleConfig(Section):
    """[threat.schedule]: the attack is on in the rounds `at`, or else in rounds start, start + every, … up to end."""

    start: int = Field(1, ge=1)
    end: int | None = Field(None, ge=1)
    every: int = Field(1, ge=1)
    at: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] | None = None

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


class ThreatConfig(Section):
    """[threat]: how many are malicious, what they know and what they do.

    `actor`: a malicious "client", or an outsider who poisons the "data" of so many clients, which train honestly.
    `surrogate`: epochs for which an attacker trains a net of its own to craft poison with, for attacks that do.
    `stamp`: whether triggers are set on pictures before or after [data] augment moves and mirrors them.
    """

    actor: Actor = "client"

    malicious: int | None = Field(None, ge=0)
    share: float | None = Field(None, ge=0, le=1)
    draw: Draw = "fixed"
    knows: Annotated[list[Knowledge], BeforeValidator(as_list)] = Field(["all"])
    data: maybe_a("data_attack") = None
    training: maybe_a("training_attack") = None
    update: maybe_a("update_attack") = None
    sybils: float | None = Field(None, ge=0)
    surrogate: int = Field(20, ge=0)
    stamp: Literal["after_augmentation", "before_augmentation"] = "after_augmentation"
    schedule: ScheduleConfig = ScheduleConfig()

    @model_validator(mode="after")
    def _possible(self) -> "ThreatConfig":
        problems = check_knowledge(self.update.step if self.update else None, tuple(self.knows))
        if self.malicious is not None and self.share is not None:
            problems.append(f"malicious = {self.malicious} and share = {self.share} are alternatives; give one")
        if (self.malicious or self.share) and not (self.data or self.training or self.update):
            problems.append(
                "there are malicious clients but no attack: give threat.data, threat.training or threat.update"
            )
        if self.actor == "data":
            ours = [f"threat.{name}" for name in ("training", "update", "sybils") if getattr(self, name) is not None]
            problems += [f'with actor = "data" clients are honest, and {name} is a client\'s doing' for name in ours]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def count_of(self, clients: int) -> int:
        """Malicious clients among so many."""
        return self.malicious or 0 if self.share is None else half_up(self.share * clients)
