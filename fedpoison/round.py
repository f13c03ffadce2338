"""One round of federated learning under attack, as one page of code. No input or output, no globals."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise

import torch
from torch import Tensor

from fedpoison.attacks.drilling import Drills
from fedpoison.attacks.threat import Scene, Threat, craft_with, hostile, told
from fedpoison.clients.cleaning import Cleaner, Cleaning
from fedpoison.clients.delivery import Answers, Late, Mail, deliver
from fedpoison.clients.federation import Federation
from fedpoison.clients.harvest import Cohort, Harvest
from fedpoison.clients.training import ClientMomentum, Engine, Local, Plan, Task
from fedpoison.common.seeding import Stream
from fedpoison.contract.vocabulary import PHASES, Record
from fedpoison.defences.defence import Defence
from fedpoison.defences.monitoring import Watch
from fedpoison.defences.quarantine import free, kept_out
from fedpoison.defences.situation import Situation
from fedpoison.measures.evaluation import Evaluator, Examiner, RootProbe, Scores
from fedpoison.measures.rounds import by_group, detection, rejection_skew, spread_of, summary_of_norms
from fedpoison.server import Server
from fedpoison.types import ClientIds, Drill, Event, Layer, Params, Update, Updates, Verdict

Memory = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class State:
    """All that one round hands to the next; it is what a checkpoint holds.

    `memories`: what each owner keeps, by name: "defence", "monitors" and "server", "attack" and "drills", the clients'
    "momentum" and "cleaning", "waiting", the updates that are on their way, and "quarantine", who is not drawn.
    """

    round: int
    params: Params
    previous: Update
    memories: Mapping[str, Memory] = field(default_factory=dict)

    def memory_of(self, owner: str) -> Memory:
        """What an owner keeps; nothing at first."""
        return self.memories.get(owner, {})


@dataclass(frozen=True, kw_only=True)
class World:
    """What stays the same from round to round. `threats`: the groups of attackers; `drills`: those of some of them."""

    seed: int
    rounds: int
    evaluate_every: int
    per_round: int
    f: int | None
    local: Local
    momentum: ClientMomentum | None
    dropout: float
    late: Late
    server: Server
    federation: Federation
    threats: tuple[Threat, ...]
    engine: Engine
    defence: Defence
    evaluator: Evaluator
    layers: tuple[Layer, ...] = ()
    probe: RootProbe | None = None
    exams: Mapping[str, Examiner] = field(default_factory=dict)
    drills: Mapping[int, Drills] = field(default_factory=dict)
    cleaner: Cleaner | None = None
    monitors: tuple[Watch, ...] = ()


def play(state: State, world: World) -> tuple[State, Record]:
    """Play the round after `state`: train, attack, deliver, serve, evaluate."""
    clock = [time.perf_counter()]
    number = state.round + 1

    harvest = _train(state, world, number)
    harvest = harvest.without(harvest.lost)
    clock.append(time.perf_counter())

    sent, attack, remarks = _attack(state, world, harvest)
    mail = Mail(sent, harvest.cohort.clients, harvest.cohort.malicious)
    mail, waiting, delays = deliver(
        mail, harvest.cohort.late, state.memory_of("waiting"), number, world.late.rounds, state.params
    )
    clock.append(time.perf_counter())

    ids, bad = mail.senders, mail.malicious
    situation = _situation(state, world, ids, bad, harvest.root)
    served = world.server.serve(
        mail.updates,
        situation,
        world.defence,
        state.memory_of("server"),
        round=number,
        rounds=world.rounds,
        monitors=world.monitors,
        watched=state.memory_of("monitors"),
    )
    verdict = served.verdict
    clock.append(time.perf_counter())

    due = number % world.evaluate_every == 0 or number == world.rounds or served.stop
    scores = vars(world.evaluator(served.params)) if due else {"events": ()}
    clock.append(time.perf_counter())

    record = {
        "round": number,
        **{name: scores.get(name) for name in SCORES},
        "cohort": ids.tolist(),
        "malicious": ids[bad].tolist(),
        "over_budget": len(hostile(world.threats, ids[bad])) > world.defence.budget(situation.f),
        "f": situation.f,
        "weights": None if verdict.weights is None else verdict.weights.tolist(),
        "flagged": None if verdict.flagged is None else ids[verdict.flagged].tolist(),
        "detection": detection(verdict, bad),
        **spread_of(verdict, mail.updates, ~bad),
        "rejection_skew": rejection_skew(verdict, bad, world.federation.skew(ids)),
        "update_norms": summary_of_norms(verdict.norms, bad),
        "groups": by_group(verdict, [threat.members(ids, bad) for threat in world.threats], scores.get("groups")),
        "sanitised": harvest.cleaning.measured,
        "skipped": verdict.skipped,
        "events": [
            event.as_dict() for event in (*harvest.events, *remarks, *delays, *verdict.events, *scores["events"])
        ],
        "seconds": dict(zip(PHASES, (b - a for a, b in pairwise(clock)), strict=True)),
    }
    memories = {
        "defence": verdict.state,
        "drills": harvest.drills,
        "cleaning": harvest.cleaning.memory,
        **attack,
        "server": served.memory,
        "monitors": served.watched,
        "momentum": harvest.momentum,
        "waiting": waiting,
        "quarantine": kept_out(state.memory_of("quarantine"), served.quarantine, number, world.federation.clients),
    }
    return State(round=number, params=served.params, previous=served.previous, memories=memories), record


SCORES = tuple(field.name for field in fields(Scores) if field.name != "events")


def _train(state: State, world: World, number: int) -> Harvest:
    """Have the cohort train, the attackers too if anybody looks at that, and the server on its own samples."""
    threats, federation = world.threats, world.federation
    cohort, events = _cohort(world, number, free(state.memory_of("quarantine"), number))
    drills, drilled, remarks = _drills(state, world, cohort, number)
    honest = int((~cohort.malicious).sum())
    trained, twinned, cast, twins = ~cohort.malicious, torch.zeros_like(cohort.malicious), list[Task](), list[Task]()
    for place, (client, group) in enumerate(zip(cohort.clients.tolist(), cohort.group.tolist(), strict=True)):
        threat = threats[group] if group >= 0 else None
        task = Task(client, threat is not None and threat.data is not None, drills.get(client))
        if threat is None or threat.needs_own():
            trained[place] = True
            cast.append(task)
        if threat and threat.needs_twins(honest) and (task.attacks or not threat.needs_own()):
            twinned[place] = True
            twins.append(Task(client))
    cast, twins, cleaning = _clean(state, world, cohort, cast, twins, number)
    root = [Task(federation.server)] if world.defence.trains_root else []

    plan = Plan(world.seed, number, (*cast, *twins, *root), world.local.rates.at(number, world.rounds))
    made = world.engine.train(state.params, plan)
    clients, own = made.updates[: len(cast) + len(twins)], made.updates[len(cast) + len(twins) :]
    momentum = state.memory_of("momentum")
    if world.momentum:
        clients, momentum = world.momentum(momentum, (*cast, *twins), clients, federation.clients)
    return Harvest(
        cohort=cohort,
        trained=trained,
        updates=clients[: len(cast)],
        twinned=twinned,
        twins=clients[len(cast) :],
        root=own[0] if root else None,
        momentum=momentum,
        drills=drilled,
        cleaning=cleaning,
        lost=made.lost,
        events=(*events, *remarks, *cleaning.events, *told(made.events, threats, cohort)),
    )


def _drills(state: State, world: World, cohort: Cohort, number: int) -> tuple[dict[int, Drill], Memory, list[Event]]:
    """How each attacker trains who trains otherwise than the honest; the attacks' memory; and remarks on them."""
    memory, found, remarks = state.memory_of("drills"), dict[int, Drill](), list[Event]()
    for group, drills in world.drills.items():
        members = cohort.clients[cohort.group == group]
        if len(members) and world.threats[group].needs_own():
            n = len(members) + int((~cohort.malicious).sum())
            made, memory, said = drills(members, n, state.params, state.previous, memory, number)
            found |= zip(members.tolist(), made, strict=True)
            remarks += said
    return found, memory, remarks


def _clean(
    state: State, world: World, cohort: Cohort, cast: list[Task], twins: list[Task], number: int
) -> tuple[list[Task], list[Task], Cleaning]:
    """Have all who are honest clean their samples, and attackers where they behave, if anything is to be cleaned."""
    memory = state.memory_of("cleaning")
    if world.cleaner is None:
        return cast, twins, Cleaning((), memory, (), None)
    bad = hostile(world.threats, cohort.clients[cohort.malicious])
    honest = [task for task in cast if task.client not in bad]
    cleaning = world.cleaner([*honest, *twins], state.params, number, memory)
    made = iter(cleaning.tasks)
    return [task if task.client in bad else next(made) for task in cast], list(made), cleaning


def _cohort(world: World, number: int, among: Tensor | None) -> tuple[Cohort, list[Event]]:
    """Who answers in this round, of all or of those among whom the server draws, and who does not."""
    drawn = world.federation.cohort(number, world.per_round, among)
    group = torch.full_like(drawn, -1)
    for threat in world.threats:
        group[threat.among(drawn, world.seed, number)] = threat.number
    answers = Answers.draw(drawn, world.dropout, world.late, Stream(world.seed, "answers", number))
    events = [Event("no_answer", tuple(drawn[answers.lost].tolist()))] if answers.lost.any() else []
    return Cohort(clients=drawn, group=group, late=answers.late).only(~answers.lost), events


def _situation(state: State, world: World, ids: ClientIds, bad: Tensor, root: Update | None) -> Situation:
    """What the server knows when these clients have sent their updates."""
    return Situation(
        f=int(bad.sum()) if world.f is None else world.f,
        client_ids=ids,
        sizes=world.federation.sizes(ids),
        params=state.params,
        previous=state.previous,
        stream=Stream(world.seed, "defence", state.round + 1),
        state=state.memory_of("defence"),
        root_update=root,
        layers=world.layers,
        probe=world.probe.at(state.params) if world.probe else None,
        exams=world.exams,
    )


def _attack(
    state: State, world: World, harvest: Harvest
) -> tuple[Updates | list[Tensor], dict[str, Memory], list[Event]]:
    """What the clients send, in the cohort's order; the attacks' memories by owner; and remarks on them."""
    crafted, memories, remarks = dict[int, Tensor](), dict[str, Memory](), list[Event]()
    for threat in world.threats:
        memory = state.memory_of(threat.owner("attack"))
        if threat.crafts() and (harvest.cohort.group == threat.number).any():
            malicious, memory, said = _craft(state, world, harvest, threat, memory)
            stream = Stream(world.seed, "sybils", state.round + 1, threat.number)
            crafted[threat.number] = threat.as_sybils(malicious, stream)
            remarks += said
        memories[threat.owner("attack")] = memory
    return harvest.attacked(crafted), memories, remarks


def _craft(
    state: State, world: World, harvest: Harvest, threat: Threat, memory: Memory
) -> tuple[Tensor, Memory, list[Event]]:
    """What a group of attackers sends, its memory, and remarks; as far as it sees there are the honest and itself."""
    own, cohort, number = harvest.own(threat.number), harvest.cohort, state.round + 1
    if threat.update is None:
        return own, memory, []
    seen = cohort.only((cohort.group == threat.number) | ~cohort.malicious)
    situation = _situation(state, world, seen.clients, seen.malicious, harvest.root)
    if world.f is not None:
        situation = replace(situation, f=max(0, world.f - (len(cohort.clients) - len(seen.clients))))

    def defend(tried: Updates) -> Verdict:
        stream = Stream(world.seed, "defend", number, threat.number)
        with world.defence.drawing(stream):
            return world.defence(tried, replace(situation, stream=stream))

    scene = Scene(
        honest=harvest.honest,
        honest_ids=seen.clients[~seen.malicious],
        twins=harvest.behaved(threat.number),
        twin_ids=seen.clients[seen.malicious],
        own=own,
        malicious=seen.malicious,
        params=state.params,
        previous=state.previous,
        server_lr=world.server.rate(number, world.rounds),
        defend=defend,
        stream=Stream(world.seed, "attack", number, threat.number),
        state=dict(memory),
    )
    return craft_with(threat.update, threat.knows, scene)
