"""Who is malicious, when, and what it knows."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from fedpoison.clients.harvest import Cohort
from fedpoison.common.schedule import Schedule
from fedpoison.common.seeding import Stream
from fedpoison.contract.entry import Step
from fedpoison.contract.results import as_tensor, unpack
from fedpoison.contract.words import supplied
from fedpoison.linalg.blocks import row_norms
from fedpoison.types import ClientIds, Event, Honest, Malicious, Params, Twins, Update, Verdict

Knowledge = Literal["colluders", "all", "defence"]
Actor = Literal["client", "data"]
Draw = Literal["fixed", "per_cohort", "per_round"]


def check_knowledge(update: Step | None, knows: tuple[Knowledge, ...]) -> list[str]:
    """What the attack's signature asks for and [threat] knows does not grant."""
    if update is None:
        return []
    entry, _ = update
    problems = []
    if "benign" in entry.asks and not {"colluders", "all"} & set(knows):
        problems.append(f'{entry.name} asks for benign updates: threat.knows must hold "colluders" or "all"')
    if "benign_ids" in entry.asks and "all" not in knows:
        problems.append(f'{entry.name} asks whose the benign updates are: threat.knows must hold "all"')
    if "defend" in entry.asks and "defence" not in knows:
        problems.append(f'{entry.name} asks for the defence: threat.knows must hold "defence"')
    return problems


@dataclass(frozen=True)
class Threat:
    """The malicious share of a federation of `clients`, or one group of it, the one with this `number` from 0.

    A group sees the honest and itself. `malicious`: a count, of the population if `draw` is "fixed" (the same clients
    all along, at random ids) or "per_round" (drawn anew for each round), of each cohort if it is "per_cohort".
    `schedule`: when they attack.
    `sybils`: all attackers send what the first of them would, each with noise of this share of its norm. `actor`:
    whether they are malicious or an outsider poisons their data, which is all that is done then.
    """

    malicious: int
    draw: Draw
    knows: tuple[Knowledge, ...]
    data: Step | None = None
    training: Step | None = None
    update: Step | None = None
    schedule: Schedule = field(default_factory=Schedule)
    clients: int = 0
    sybils: float | None = None
    fixed_ids: frozenset[int] = field(default=frozenset())
    actor: Actor = "client"
    number: int = 0

    @staticmethod
    def draw_ids(stream: Stream, clients: int, malicious: int, but: Collection[int] = ()) -> frozenset[int]:
        """The ids of a set of attackers, anywhere in the population but these; of one stream, fewer are among more."""
        order = stream.numpy().permutation(clients).tolist()
        return frozenset([client for client in order if client not in but][:malicious])

    def owner(self, memory: str) -> str:
        """Whose this group's memory is, of those called so."""
        return f"{memory}/{self.number}" if self.number else memory

    def among(self, cohort: ClientIds, seed: int, round: int) -> Tensor:
        """Which of the cohort are malicious in this round: a mask [n]; nobody when the attack is off."""
        mask = torch.zeros(len(cohort), dtype=torch.bool)
        if not self.schedule.on(round) or not (self.data or self.training or self.update):
            return mask
        stream = Stream(seed, "malicious", round)
        if self.draw == "per_cohort":
            mask[list(self.draw_ids(stream, len(cohort), self.malicious))] = True
            return mask
        ids = self.fixed_ids if self.draw == "fixed" else self.draw_ids(stream, self.clients, self.malicious)
        return torch.tensor([i in ids for i in cohort.tolist()], dtype=torch.bool)

    def members(self, senders: ClientIds, malicious: Tensor) -> Tensor:
        """Which malicious senders are of this group, a mask [n]; of several, each is always of the same clients."""
        return malicious & torch.tensor([i in self.fixed_ids for i in senders.tolist()], dtype=torch.bool)

    def as_sybils(self, malicious: Tensor, stream: Stream) -> Tensor:
        """What the attackers send if they are one actor's many clients; what is no matrix stays as it is."""
        if self.sybils is None or malicious.dim() != 2 or not malicious.is_floating_point():
            return malicious
        noise = torch.randn(malicious.shape, generator=stream.torch(), dtype=malicious.dtype)
        noise /= torch.linalg.vector_norm(noise, dim=1, keepdim=True)
        jitter = self.sybils * torch.linalg.vector_norm(malicious[0])
        return torch.addcmul(malicious[0], noise, jitter)

    def needs_own(self) -> bool:
        """Whether anybody looks at what the attackers' training gives."""
        return self.update is None or "own" in self.update[0].asks

    def crafts(self) -> bool:
        """Whether they send anything else than what their training gives."""
        return self.update is not None or self.sybils is not None

    def needs_twins(self, honest: int) -> bool:
        """Whether attackers train as honest clients too, because they can look at no other honest update."""
        asked = self.update is not None and "benign" in self.update[0].asks
        return asked and ("all" not in self.knows or not honest)


def hostile(threats: Sequence[Threat], malicious: ClientIds) -> set[int]:
    """Those of the malicious clients who are so themselves, and not only their data."""
    outsiders = [threat for threat in threats if threat.actor == "data"]
    if len(outsiders) == len(threats):
        return set()
    return {*malicious.tolist()} - {client for threat in outsiders for client in threat.fixed_ids}


def told(events: tuple[Event, ...], threats: tuple[Threat, ...], cohort: Cohort) -> list[Event]:
    """An engine's events, with one of all clients that an attack on the data left as they were."""
    kept = [event for event in events if event.what != "untouched"]
    untouched = {client for event in events if event.what == "untouched" for client in event.clients}
    for threat in threats:
        members = cohort.clients[cohort.group == threat.number].tolist()
        left = sorted(untouched & {*members})
        if threat.data and left:
            whom = "any" if len(left) == len(members) else "some"
            what = "attack" if threat.update or threat.training else "unattacked"  # they attack otherwise all the same
            kept.append(Event(what, tuple(left), f"{threat.data[0].name} changes no sample of {whom} of its clients"))
    return kept


@dataclass(frozen=True)
class Scene:
    """What the attackers find in a round, before [threat] knows cuts it down.

    `malicious` [n]: who of the cohort they are. `honest_ids` and `twin_ids`: whose updates `honest` and `twins` are.
    """

    honest: Honest
    honest_ids: Tensor
    twins: Twins
    twin_ids: Tensor
    own: Malicious
    malicious: Tensor
    params: Params
    previous: Update
    server_lr: float
    defend: Callable[[Tensor], Verdict] | None
    stream: Stream
    state: dict[str, Tensor]

    @property
    def n(self) -> int:
        """Clients in the cohort."""
        return len(self.malicious)

    @property
    def n_malicious(self) -> int:
        """Attackers among them."""
        return int(self.malicious.sum())


def craft_with(step: Step, knows: tuple[Knowledge, ...], scene: Scene) -> tuple[Tensor, dict[str, Tensor], list[Event]]:
    """The malicious updates, the attack's memory, and remarks on it.

    Attackers are shown honest updates that a server would keep, finite ones; where they ask for some and there is none
    they send NaN.
    """
    entry, options = step
    events: list[Event] = []
    full = "all" in knows and len(scene.honest) > 0
    benign, ids = (scene.honest, scene.honest_ids) if full else (scene.twins, scene.twin_ids)
    if "benign" in entry.asks:
        kept = torch.isfinite(row_norms(benign))
        benign, ids = (benign, ids) if kept.all() else (benign[kept], ids[kept])
        if not len(benign):
            what = f"{entry.name}: no honest update that the attackers know is finite, and they send NaN"
            nothing = scene.params.new_full((scene.n_malicious, len(scene.params)), torch.nan)
            return nothing, scene.state, [Event("attack", detail=what)]
    if said := entry.without_effect(scene.n, scene.n_malicious, len(benign), options):
        events.append(Event("attack", detail=said))

    def defend(tried: Any) -> Verdict:
        n, d = scene.n, len(scene.params)
        if not (isinstance(tried, Tensor) and tried.dim() == 2 and len(tried) == n and d in (0, tried.shape[1])):
            given = tuple(tried.shape) if isinstance(tried, Tensor) else f"a {type(tried).__name__}"
            raise ValueError(f"defend takes the updates [n, d] of all n = {n} clients, not {given}")
        assert scene.defend is not None
        return scene.defend(tried)

    makers: dict[str, Callable[[], Any]] = {
        "benign": lambda: benign,
        "own": lambda: scene.own,
        "benign_ids": lambda: ids,
        "full_knowledge": lambda: full,
        "n_malicious": lambda: scene.n_malicious,
        "malicious": lambda: scene.malicious,
        "n": lambda: scene.n,
        "params": lambda: scene.params,
        "previous": lambda: scene.previous,
        "server_lr": lambda: scene.server_lr,
        "defend": lambda: defend,
        "say": lambda: lambda text: events.append(Event("attack", detail=text)),
        "state": lambda: {name: value.clone() for name, value in scene.state.items()},
        "rng": scene.stream.torch,
    }
    result = entry.call(supplied(entry.kind, entry.asks, makers), options, scene.stream)
    crafted, state = unpack(entry, result) if "state" in entry.asks else (result, scene.state)
    return as_tensor(entry, crafted, "[n_malicious, d]"), state, events
