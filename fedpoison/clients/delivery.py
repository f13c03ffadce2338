"""Which clients answer, and when: some not at all, some rounds later."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from fedpoison.common.seeding import Stream
from fedpoison.types import ClientIds, Event, Params, Rounds


class Late(BaseModel):
    """[clients.late]: a client's update arrives `rounds` rounds late with this chance, and is used then, stale."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    chance: float = Field(0.0, ge=0, lt=1)
    rounds: Rounds = 1


@dataclass(frozen=True)
class Answers:
    """How the clients of a cohort answer: masks [n]."""

    lost: Tensor
    late: Tensor

    @classmethod
    def draw(cls, cohort: ClientIds, dropout: float, late: Late, stream: Stream) -> "Answers":
        """One number a client decides, so that a larger dropout loses the same clients and more."""
        chance = torch.from_numpy(stream.numpy().random(len(cohort)))
        lost = chance < dropout
        return cls(lost, ~lost & (chance < dropout + late.chance))


@dataclass(frozen=True)
class Mail:
    """Updates [n, d] (a list if some fit in no matrix), who sent them, and which senders are malicious."""

    updates: Tensor | list[Tensor]
    senders: ClientIds
    malicious: Tensor

    def only(self, mask: Tensor) -> "Mail":
        """The updates of some senders."""
        if mask.all():
            return self
        kept = mask.nonzero().flatten()
        rows = self.updates[kept] if isinstance(self.updates, Tensor) else [self.updates[i] for i in kept.tolist()]
        return Mail(rows, self.senders[kept], self.malicious[kept])

    def then(self, other: "Mail") -> "Mail":
        """These updates, and then those of `other`, which are a matrix."""
        both = self.updates, other.updates
        rows = torch.cat(both) if isinstance(both[0], Tensor) else [*both[0], *both[1]]  # type: ignore[arg-type]
        senders, malicious = torch.cat([self.senders, other.senders]), torch.cat([self.malicious, other.malicious])
        return Mail(rows, senders, malicious)


Waiting = Mapping[str, Tensor]
"""Updates on their way: `updates` [w, d], `senders` [w], `malicious` [w] and `due` [w], the rounds they arrive in."""


def deliver(
    mail: Mail, late: Tensor, waiting: Waiting, round: int, delay: int, params: Params
) -> tuple[Mail, Waiting, list[Event]]:
    """What arrives in this round: the updates that are not late, then those of earlier rounds that are due.

    Of two updates of one client the newer counts. What is late and no vector like the parameters is lost.
    """
    events = []
    if late.any():
        events.append(Event("late", tuple(mail.senders[late].tolist()), f"will arrive in round {round + delay}"))
        waiting = _post(mail.only(late), waiting, round + delay, params)
    arrived = mail.only(~late)
    due = waiting["due"] <= round if waiting else late[:0]
    if not due.any():
        return arrived, waiting, events
    fresh = due & ~torch.isin(waiting["senders"], arrived.senders)
    stale = Mail(*(waiting[name][fresh] for name in ("updates", "senders", "malicious")))
    events.append(Event("arrived_late", tuple(stale.senders.tolist())))
    return arrived.then(stale), {name: value[~due] for name, value in waiting.items()}, events


def _post(mail: Mail, waiting: Waiting, due: int, params: Params) -> Waiting:
    """The waiting updates with these; only the newest of each client."""
    fits = [row.shape == params.shape and row.is_floating_point() for row in mail.updates]
    sent = mail.only(torch.tensor(fits, dtype=torch.bool))
    if not len(sent.senders):
        return waiting
    new = {
        "updates": torch.stack([row.to(params.dtype) for row in sent.updates]),
        "senders": sent.senders,
        "malicious": sent.malicious,
        "due": torch.full_like(sent.senders, due),
    }
    if not waiting:
        return new
    old = ~torch.isin(waiting["senders"], sent.senders)
    return {name: torch.cat([waiting[name][old], value]) for name, value in new.items()}
