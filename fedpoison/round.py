"""One round of federated learning under attack, as one page of code. No input or output, no globals."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise

from torch import Tensor

from fedpoison.attacks.drilling import Drills
from fedpoison.attacks.threat import Scene, Threat, craft_with
from fedpoison.clients.cleaning import Cleaner, Cleaning
from fedpoison.clients.delivery import Answers, Late, Mail, deliver
from fedpoison.clients.federation import Federation
from fedpoison.clients.harvest import Cohort, Harvest
from fedpoison.clients.training import ClientMomentum, Engine, Local, Plan, Task
from fedpoison.common.seeding import Stream
from fedpoison.contract.vocabulary import PHASES, Record
from fedpoison.defences.defence import Defence
from fedpoison.defences.monitoring import Watch
from fedpoison.defences.situation import Situation
from fedpoison.measures.evaluation import Evaluator, RootProbe, Scores
from fedpoison.measures.rounds import detection, rejection_skew, spread_of, summary_of_norms
from fedpoison.server import Server
from fedpoison.types import ClientIds, Drill, Event, Layer, Params, Update, Updates, Verdict

Memory = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class State:
    """All that one round hands to the next; it is what a checkpoint holds.

    `memories`: what each owner keeps, by name: "defence", "monitors" and "server", "attack" and "drills", the clients'
    "momentum" and "cleaning", and "waiting", the updates that are on their way.
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
    """What stays the same from round to round."""

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
    threat: Threat
    engine: Engine
    defence: Defence
    evaluator: Evaluator
    layers: tuple[Layer, ...] = ()
    probe: RootProbe | None = None
    drills: Drills | None = None
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

    due = number % world.evaluate_every == 0 or number == world.rounds
    scores = vars(world.evaluator(served.params)) if due else {}
    clock.append(time.perf_counter())

    record = {
        "round": number,
        **{name: scores.get(name) for name in SCORES},
        "cohort": ids.tolist(),
        "malicious": ids[bad].tolist(),
        "over_budget": world.threat.actor == "client" and int(bad.sum()) > world.defence.budget(situation.f),
        "f": situation.f,
        "weights": None if verdict.weights is None else verdict.weights.tolist(),
        "flagged": None if verdict.flagged is None else ids[verdict.flagged].tolist(),
        "detection": detection(verdict, bad),
        **spread_of(verdict, mail.updates, ~bad),
        "rejection_skew": rejection_skew(verdict, bad, world.federation.skew(ids)),
        "update_norms": summary_of_norms(verdict.norms, bad),
        "sanitised": harvest.cleaning.measured,
        "skipped": verdict.skipped,
        "events": [event.as_dict() for event in (*harvest.events, *remarks, *delays, *verdict.events)],
        "seconds": dict(zip(PHASES, (b - a for a, b in pairwise(clock)), strict=True)),
    }
    memories = {
        "defence": verdict.state,
        "drills": harvest.drills,
        "cleaning": harvest.cleaning.memory,
        "attack": attack,
        "server": served.memory,
        "monitors": served.watched,
        "momentum": harvest.momentum,
        "waiting": waiting,
    }
    return State(round=number, params=served.params, previous=served.previous, memories=memories), record


SCORES = tuple(field.name for field in fields(Scores))


def _train(state: State, world: World, number: int) -> Harvest:
    """Have the cohort train, the attackers too if anybody looks at that, and the server on its own samples."""
    threat, federation = world.threat, world.federation
    cohort, events = _cohort(world, number)
    trained = ~cohort.malicious | threat.needs_own()
    poisons = threat.data is not None
    drills, drilled, remarks = _drills(state, world, cohort, number)
    wanted = zip(cohort.clients.tolist(), cohort.malicious.tolist(), trained.tolist(), strict=True)
    cast = [Task(i, poisons and is_bad, drills.get(i)) for i, is_bad, trains in wanted if trains]
    behaves = not threat.needs_own() or poisons or bool(drills)  # otherwise than in the cast
    twinned = behaves and threat.needs_twins(int((~cohort.malicious).sum()))
    twins = [Task(i) for i in cohort.clients[cohort.malicious].tolist()] if twinned else []
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
        twins=clients[len(cast) :] if twins else None,
        root=own[0] if root else None,
        momentum=momentum,
        drills=drilled,
        cleaning=cleaning,
        lost=made.lost,
        events=(*events, *remarks, *cleaning.events, *_told(made.events, threat, cohort.clients[cohort.malicious])),
    )


def _drills(state: State, world: World, cohort: Cohort, number: int) -> tuple[dict[int, Drill], Memory, list[Event]]:
    """How each attacker trains who trains otherwise than the honest; the attack's memory; and remarks on it."""
    memory, bad = state.memory_of("drills"), cohort.clients[cohort.malicious]
    if world.drills is None or not len(bad) or not world.threat.needs_own():
        return {}, memory, []
    n, params, previous = len(cohort.clients), state.params, state.previous
    made, memory, remarks = world.drills(bad, n, params, previous, memory, number)
    return dict(zip(bad.tolist(), made, strict=True)), memory, remarks


def _clean(
    state: State, world: World, cohort: Cohort, cast: list[Task], twins: list[Task], number: int
) -> tuple[list[Task], list[Task], Cleaning]:
    """Have all who are honest clean their samples, and attackers where they behave, if anything is to be cleaned."""
    memory = state.memory_of("cleaning")
    if world.cleaner is None:
        return cast, twins, Cleaning((), memory, (), None)
    bad = {*cohort.clients[cohort.malicious].tolist()} if world.threat.actor == "client" else set[int]()
    honest = [task for task in cast if task.client not in bad]
    cleaning = world.cleaner([*honest, *twins], state.params, number, memory)
    made = iter(cleaning.tasks)
    return [task if task.client in bad else next(made) for task in cast], list(made), cleaning


def _cohort(world: World, number: int) -> tuple[Cohort, list[Event]]:
    """Who answers in this round, and who does not."""
    drawn = world.federation.cohort(number, world.per_round)
    bad = world.threat.among(drawn, world.seed, number)
    answers = Answers.draw(drawn, world.dropout, world.late, Stream(world.seed, "answers", number))
    events = [Event("no_answer", tuple(drawn[answers.lost].tolist()))] if answers.lost.any() else []
    return Cohort(clients=drawn, malicious=bad, late=answers.late).only(~answers.lost), events


def _told(events: tuple[Event, ...], threat: Threat, attackers: ClientIds) -> list[Event]:
    """An engine's events, with one of all clients that an attack on the data left as they were."""
    kept = [event for event in events if event.what != "untouched"]
    untouched = sorted({client for event in events if event.what == "untouched" for client in event.clients})
    if threat.data and untouched:
        whom = "any" if len(untouched) == len(attackers) else "some"
        what = "attack" if threat.update or threat.training else "unattacked"  # they attack otherwise all the same
        kept.append(Event(what, tuple(untouched), f"{threat.data[0].name} changes no sample of {whom} of its clients"))
    return kept


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
    )


def _attack(state: State, world: World, harvest: Harvest) -> tuple[Updates | list[Tensor], Memory, list[Event]]:
    """What the clients send, in the cohort's order; the attack's memory; and remarks on it."""
    threat, cohort, memory, number = world.threat, harvest.cohort, state.memory_of("attack"), state.round + 1
    if not cohort.malicious.any() or (threat.update is None and threat.sybils is None):
        return harvest.updates, memory, []
    malicious, remarks = harvest.own, list[Event]()
    if threat.update is not None:
        situation = _situation(state, world, cohort.clients, cohort.malicious, harvest.root)

        def defend(tried: Updates) -> Verdict:
            stream = Stream(world.seed, "defend", number)
            with world.defence.drawing(stream):
                return world.defence(tried, replace(situation, stream=stream))

        scene = Scene(
            honest=harvest.honest,
            twins=malicious if harvest.twins is None else harvest.twins,
            own=malicious,
            n_malicious=int(cohort.malicious.sum()),
            n=len(cohort.clients),
            params=state.params,
            previous=state.previous,
            server_lr=world.server.rate(number, world.rounds),
            defend=defend,
            stream=Stream(world.seed, "attack", number),
            state=dict(memory),
        )
        malicious, memory, remarks = craft_with(threat.update, threat.knows, scene)
    malicious = threat.as_sybils(malicious, Stream(world.seed, "sybils", number))
    return harvest.attacked(malicious), memory, remarks
