"""One round of federated learning under attack, as one page of code. No input or output, no globals."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise

import torch
from torch import Tensor

from fedpoison.attacks.threat import Scene, Threat, craft_with
from fedpoison.clients.delivery import Answers, Late, Mail, deliver
from fedpoison.clients.federation import Federation
from fedpoison.clients.training import ClientMomentum, Engine, Local, Plan, Task
from fedpoison.common.seeding import Stream
from fedpoison.contract.vocabulary import PHASES, Record
from fedpoison.defences.defence import Defence, Situation
from fedpoison.measures.evaluation import Evaluator, RootProbe, Scores
from fedpoison.measures.rounds import detection, rejection_skew, spread_of, summary_of_norms
from fedpoison.server import Server
from fedpoison.types import ClientIds, Event, Layer, LocalUpdates, Params, Twins, Update, Updates, Verdict

Memory = Mapping[str, Tensor]


@dataclass(frozen=True)
class State:
    """All that one round hands to the next; it is what a checkpoint holds."""

    round: int
    params: Params
    previous: Update
    defence: Memory = field(default_factory=dict)
    attack: Memory = field(default_factory=dict)
    server: Memory = field(default_factory=dict)
    momentum: Memory = field(default_factory=dict)
    waiting: Memory = field(default_factory=dict)


@dataclass(frozen=True)
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


def play(state: State, world: World) -> tuple[State, Record]:
    """Play the round after `state`: train, attack, deliver, defend, step, evaluate."""
    clock = [time.perf_counter()]
    number = state.round + 1
    cohort, bad, late, events = _cohort(world, number)

    rows, twins, root, momentum, lost = _train(state, world, number, cohort, bad, events)
    if lost:
        left = ~torch.isin(cohort, torch.tensor(lost))
        rows = rows[left if len(rows) == len(cohort) else left[~bad]]
        twins = None if twins is None else twins[left[bad]]
        cohort, bad, late = cohort[left], bad[left], late[left]
    clock.append(time.perf_counter())

    situation = _situation(state, world, cohort, bad, root)
    sent, attack_state = _attack(state, world, situation, bad, rows, twins, events)
    mail, waiting, delays = deliver(
        Mail(sent, cohort, bad), late, state.waiting, number, world.late.rounds, state.params
    )
    clock.append(time.perf_counter())

    situation = _situation(state, world, mail.senders, mail.malicious, root)
    with world.defence.drawing(situation.stream):
        verdict = world.defence(mail.updates, situation)
    server_state: Memory
    params, server_state = world.server.step(
        state.params, verdict.update, state.server, world.server.rates.at(number, world.rounds)
    )
    if not verdict.skipped and not torch.isfinite(params).all():
        events.append(Event("skipped", detail="parameters overflow"))
        verdict = replace(verdict, skipped=True, state=state.defence)
    previous = verdict.update
    if verdict.skipped:
        params, server_state, previous = state.params, state.server, state.previous
    clock.append(time.perf_counter())

    due = number % world.evaluate_every == 0 or number == world.rounds
    scores = vars(world.evaluator(params)) if due else {}
    clock.append(time.perf_counter())

    ids, bad = mail.senders, mail.malicious
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
        "skipped": verdict.skipped,
        "events": [event.as_dict() for event in (*events, *delays, *verdict.events)],
        "seconds": dict(zip(PHASES, (b - a for a, b in pairwise(clock)), strict=True)),
    }
    memories = dict(verdict.state), attack_state, server_state, momentum, waiting
    return State(number, params, previous, *memories), record


SCORES = tuple(field.name for field in fields(Scores))


def _cohort(world: World, number: int) -> tuple[ClientIds, Tensor, Tensor, list[Event]]:
    """Who answers in this round; which of them are malicious and which late."""
    drawn = world.federation.cohort(number, world.per_round)
    bad = world.threat.among(drawn, world.seed, number)
    answers = Answers.draw(drawn, world.dropout, world.late, Stream(world.seed, "answers", number))
    events = [Event("no_answer", tuple(drawn[answers.lost].tolist()))] if answers.lost.any() else []
    return drawn[~answers.lost], bad[~answers.lost], answers.late[~answers.lost], events


def _train(
    state: State, world: World, number: int, cohort: ClientIds, bad: Tensor, events: list[Event]
) -> tuple[LocalUpdates, Twins | None, Update | None, Memory, tuple[int, ...]]:
    """Updates of the cohort (without the attackers' if nobody looks at them), of the attackers if they were honest, of
    the server; momentum; whom the engine lost.
    """
    threat, poisons, owns = world.threat, world.threat.data is not None, world.threat.needs_own()
    wanted = zip(cohort.tolist(), bad.tolist(), strict=True)
    cast = [Task(i, poisons and is_bad) for i, is_bad in wanted if owns or not is_bad]
    twins = [Task(i) for i in cohort[bad].tolist()] if threat.needs_twins(int((~bad).sum())) else []
    if owns and not poisons:
        twins = []  # they are honest already
    root = [Task(world.federation.clients)] if world.defence.trains_root else []
    tasks = (*cast, *twins)
    plan = Plan(world.seed, number, (*tasks, *root), world.local.rates.at(number, world.rounds))
    trained = world.engine.train(state.params, plan)
    events += _told(trained.events, threat, cohort[bad])
    updates, momentum = trained.updates[: len(tasks)], dict(state.momentum)
    if world.momentum:
        updates = world.momentum(momentum, tasks, updates, world.federation.clients)
    rows, others = updates[: len(cast)], updates[len(cast) :]
    return rows, others if twins else None, trained.updates[-1] if root else None, momentum, trained.lost


def _told(events: tuple[Event, ...], threat: Threat, attackers: ClientIds) -> list[Event]:
    """An engine's events, with one of all clients that an attack on the data left as they were."""
    kept = [event for event in events if event.what != "untouched"]
    untouched = sorted({client for event in events if event.what == "untouched" for client in event.clients})
    if threat.data and untouched:
        whom = "any" if len(untouched) == len(attackers) else "some"
        what = "attack" if threat.update else "unattacked"  # they forge their updates all the same
        kept.append(Event(what, tuple(untouched), f"{threat.data[0].name} changes no sample of {whom} of its clients"))
    return kept


def _situation(state: State, world: World, ids: ClientIds, bad: Tensor, root: Update | None) -> Situation:
    """What the server knows when these clients have sent their updates."""
    f = int(bad.sum()) if world.f is None else world.f
    stream, sizes = Stream(world.seed, "defence", state.round + 1), world.federation.sizes(ids)
    probe = world.probe.at(state.params) if world.probe else None
    return Situation(f, ids, sizes, state.params, state.previous, stream, state.defence, root, world.layers, probe)


def _attack(
    state: State,
    world: World,
    situation: Situation,
    bad: Tensor,
    rows: LocalUpdates,
    twins: Twins | None,
    events: list[Event],
) -> tuple[Tensor | list[Tensor], Memory]:
    """What the clients send, in the cohort's order; a list if the attackers send what does not fit in a matrix."""
    if not bad.any() or (world.threat.update is None and world.threat.sybils is None):
        return rows, state.attack
    own = rows[bad] if world.threat.needs_own() else rows[:0]
    attack_state, malicious, number = state.attack, own, state.round + 1
    if world.threat.update is not None:

        def defend(tried: Updates) -> Verdict:
            stream = Stream(world.seed, "defend", number)
            with world.defence.drawing(stream):
                return world.defence(tried, replace(situation, stream=stream))

        scene = Scene(
            honest=rows[~bad] if world.threat.needs_own() else rows,
            twins=own if twins is None else twins,
            own=own,
            n_malicious=int(bad.sum()),
            n=len(bad),
            params=state.params,
            previous=state.previous,
            server_lr=world.server.lr * world.server.rates.at(number, world.rounds),
            defend=defend,
            stream=Stream(world.seed, "attack", number),
            state=dict(state.attack),
        )
        malicious, attack_state, remarks = craft_with(world.threat.update, world.threat.knows, scene)
        events += remarks
    malicious = world.threat.as_sybils(malicious, Stream(world.seed, "sybils", number))
    return place(rows, malicious, bad), attack_state


def place(rows: LocalUpdates, malicious: Tensor, bad: Tensor) -> Tensor | list[Tensor]:
    """The malicious rows in their places among the cohort's `rows`, which are changed, or the honest ones' alone.

    A list of rows if the malicious ones do not fit in a matrix.
    """
    (k, d), whole = (int(bad.sum()), rows.shape[1]), len(rows) == len(bad)
    if malicious.shape == (k, d) and malicious.is_floating_point() and malicious.dtype.itemsize <= rows.dtype.itemsize:
        if not whole:
            honest, rows = rows, rows.new_empty(len(bad), d)
            rows[~bad] = honest
        rows[bad] = malicious.to(rows.dtype)
        return rows
    sent = iter(malicious if malicious.dim() and len(malicious) == k else [malicious] * k)
    trained = iter(rows[~bad] if whole else rows)
    return [next(sent) if is_bad else next(trained) for is_bad in bad.tolist()]
