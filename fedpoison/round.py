"""One round of federated learning under attack, as one page of code. No input or output, no globals."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from fedpoison.defence import Defence, Situation
from fedpoison.evaluation import Evaluator, Scores
from fedpoison.federation import Federation
from fedpoison.measures import detection, spread_of, summary_of_norms
from fedpoison.seeding import Stream
from fedpoison.threat import Scene, Threat, craft_with
from fedpoison.training import Engine, Plan, Task
from fedpoison.types import ClientIds, Event, Honest, Malicious, Params, Twins, Update, Updates, Verdict


@dataclass(frozen=True)
class State:
    """All that one round hands to the next; it is what a checkpoint holds."""

    round: int
    params: Params
    previous: Update
    defence: Mapping[str, Tensor] = field(default_factory=dict)
    attack: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class World:
    """What stays the same from round to round."""

    seed: int
    rounds: int
    evaluate_every: int
    per_round: int
    f: int | None
    server_lr: float
    federation: Federation
    threat: Threat
    engine: Engine
    defence: Defence
    evaluator: Evaluator


Record = dict[str, Any]
"""One line of rounds.jsonl; what was not measured is None."""


def play(state: State, world: World) -> tuple[State, Record]:
    """Play the round after `state`: train, attack, defend, step, evaluate."""
    clock = [time.perf_counter()]
    number, threat = state.round + 1, world.threat
    cohort = world.federation.cohort(number, world.per_round)
    bad = threat.among(cohort, world.seed, number)
    f = int(bad.sum()) if world.f is None else world.f

    honest, own, twins, events = _train(state, world, number, cohort, bad)
    clock.append(time.perf_counter())

    sizes = world.federation.sizes(cohort)
    stream = Stream(world.seed, "defence", number)
    situation = Situation(f, cohort, sizes, state.params, state.previous, stream, state.defence)
    updates, attack_state = _attack(state, world, situation, bad, honest, own, twins, events)
    clock.append(time.perf_counter())

    verdict = world.defence(updates, situation)
    params = state.params + world.server_lr * verdict.update
    if not torch.isfinite(params).all():
        events.append(Event("skipped", detail="parameters overflow"))
        verdict = replace(verdict, skipped=True, state=state.defence)
        params = state.params
    clock.append(time.perf_counter())

    due = number % world.evaluate_every == 0 or number == world.rounds
    scores = vars(world.evaluator(params)) if due else {}
    clock.append(time.perf_counter())

    record = {
        "round": number,
        **{name: scores.get(name) for name in SCORES},
        "cohort": cohort.tolist(),
        "malicious": cohort[bad].tolist(),
        "over_budget": int(bad.sum()) > f,
        "f": f,
        "weights": None if verdict.weights is None else verdict.weights.tolist(),
        "flagged": None if verdict.flagged is None else cohort[verdict.flagged].tolist(),
        "detection": detection(verdict, bad),
        **spread_of(verdict, honest, verdict.norms[~bad]),
        "update_norms": summary_of_norms(verdict.norms, bad),
        "skipped": verdict.skipped,
        "events": [event.as_dict() for event in (*events, *verdict.events)],
        "seconds": dict(zip(PHASES, (b - a for a, b in pairwise(clock)), strict=True)),
    }
    previous = state.previous if verdict.skipped else verdict.update
    return State(number, params, previous, dict(verdict.state), attack_state), record


SCORES = tuple(field.name for field in fields(Scores))
PHASES = ("train", "attack", "defence", "evaluate")


def _train(
    state: State, world: World, number: int, cohort: ClientIds, bad: Tensor
) -> tuple[Honest, Malicious, Twins, list[Event]]:
    """The honest clients' updates, the attackers' own, and what the attackers would send if they were honest."""
    threat, poisons = world.threat, world.threat.data is not None
    honest = [Task(i) for i in cohort[~bad].tolist()]
    own = [Task(i, poisons) for i in cohort[bad].tolist()] if threat.needs_own() else []
    twins = [Task(i) for i in cohort[bad].tolist()] if threat.needs_twins(len(honest)) else []
    if twins and own and not poisons:
        twins = []  # they are honest already
    plan = Plan(world.seed, number, (*honest, *own, *twins))
    trained = world.engine.train(state.params, plan)
    a, b = len(honest), len(honest) + len(own)
    parts = trained.updates[:a], trained.updates[a:b], trained.updates[b:]
    return parts[0], parts[1], parts[2] if twins else parts[1], list(trained.events)


def _attack(
    state: State,
    world: World,
    situation: Situation,
    bad: Tensor,
    honest: Honest,
    own: Malicious,
    twins: Twins,
    events: list[Event],
) -> tuple[Tensor | list[Tensor], Mapping[str, Tensor]]:
    """What the server receives, in the cohort's order; a list if the attackers send what does not fit in a matrix."""
    if not bad.any():
        return honest, state.attack
    attack_state, malicious = state.attack, own
    if world.threat.update is not None:

        def defend(tried: Updates) -> Verdict:
            k, stream = len(tried), Stream(world.seed, "defend", state.round + 1)
            ids, sizes = situation.client_ids[:k], situation.sizes[:k]
            return world.defence(tried, replace(situation, client_ids=ids, sizes=sizes, stream=stream))

        scene = Scene(
            honest=honest,
            twins=twins,
            own=own,
            n_malicious=int(bad.sum()),
            n=len(bad),
            params=state.params,
            previous=state.previous,
            server_lr=world.server_lr,
            defend=defend,
            stream=Stream(world.seed, "attack", state.round + 1),
            state=dict(state.attack),
        )
        malicious, attack_state, remarks = craft_with(world.threat.update, world.threat.knows, scene)
        events += remarks
    return place(honest, malicious, bad), attack_state


def place(honest: Honest, malicious: Tensor, bad: Tensor) -> Tensor | list[Tensor]:
    """Honest and malicious rows in the cohort's order; a list of rows if the malicious ones do not fit in a matrix."""
    k, d = int(bad.sum()), honest.shape[1]
    if (
        malicious.shape == (k, d)
        and malicious.is_floating_point()
        and malicious.dtype.itemsize <= honest.dtype.itemsize
    ):
        updates = honest.new_empty(len(bad), d)
        updates[~bad], updates[bad] = honest, malicious.to(honest.dtype)
        return updates
    sent = iter(malicious if malicious.dim() and len(malicious) == k else [malicious] * k)
    trained = iter(honest)
    return [next(sent) if is_bad else next(trained) for is_bad in bad.tolist()]
