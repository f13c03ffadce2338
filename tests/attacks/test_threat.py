"""Who is malicious, when, and what it knows."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedpoison import Verdict, aggregate, aggregator, craft, update_attack
from fedpoison.attacks.threat import Threat
from fedpoison.clients.training import Plan, Task, Trained
from fedpoison.common import parallel
from fedpoison.common.errors import ConfigError
from fedpoison.common.schedule import Schedule
from fedpoison.common.seeding import Stream
from fedpoison.config.config import parse
from fedpoison.config.sweep import load
from fedpoison.contract.lookup import entries, find
from fedpoison.contract.vocabulary import Record
from fedpoison.defences.defence import Defence
from fedpoison.round import State, World, play
from fedpoison.runs.running import Job
from fedpoison.runs.world import build
from fedpoison.types import ClientIds, Update, Updates
from fedpoison.types import State as Memory

STEP = (find("update_attack", "sign_flip"), {})


@pytest.fixture(autouse=True)
def _two_workers() -> Iterator[None]:
    """As in a run: two threads inside one small torch operation would only wait for each other."""
    with parallel.using(2):
        yield


def table(**changes: Any) -> dict[str, Any]:
    base = {
        "name": "t",
        "rounds": 3,
        "data": {"name": "digits"},
        "model": "logistic",
        "clients": {"count": 8},
        "threat": {"malicious": 3, "update": "sign_flip"},
    }
    return {**base, **changes}


def world_of(attack: Callable[..., Any] | None = None, **changes: Any) -> tuple[World, State]:
    """A small federation; `attack` is a decorated function in place of the configured update attack."""
    world, state = build(parse(table(**changes)))
    if attack is not None:
        world = replace(world, threats=(replace(world.threats[0], update=(attack.entry, {})),))
    return world, state


def rounds(world: World, state: State, count: int) -> list[Record]:
    records = []
    for _ in range(count):
        state, record = play(state, world)
        records.append(record)
    return records


# Who


def test_fixed_attackers_sit_at_random_ids() -> None:
    drawn = [Threat.draw_ids(Stream(seed, "malicious"), 10, 3) for seed in range(300)]
    assert all(len(ids) == 3 and ids <= set(range(10)) for ids in drawn)
    assert drawn == [Threat.draw_ids(Stream(seed, "malicious"), 10, 3) for seed in range(300)]
    for client in range(10):
        assert 50 < sum(client in ids for ids in drawn) < 130  # 90 expected, five standard deviations
    assert Threat.draw_ids(Stream(0, "malicious"), 10, 0) == frozenset()
    assert Threat.draw_ids(Stream(0, "malicious"), 10, 10) == frozenset(range(10))


@pytest.mark.parametrize("draw", ["fixed", "per_cohort", "per_round"])
def test_who_attacks_at_a_smaller_share_attacks_at_a_larger_one(draw: str) -> None:
    for seed in range(10):
        shares = [
            build(parse(table(seed=seed, threat={"share": share, "draw": draw, "update": "sign_flip"})))[0].threats[0]
            for share in (0.125, 0.25, 0.5, 1.0)
        ]
        masks = torch.stack([threat.among(torch.arange(8), seed, 3) for threat in shares])
        assert masks.sum(dim=1).tolist() == [1, 2, 4, 8]
        assert (masks[1:] >= masks[:-1]).all()


def test_fixed_attackers_stay_the_same_and_attack_when_they_are_in_the_cohort() -> None:
    world, state = world_of(clients={"count": 8, "per_round": 4})
    for record in rounds(world, state, 12):
        assert record["malicious"] == [i for i in record["cohort"] if i in world.threats[0].fixed_ids]
    assert len(world.threats[0].fixed_ids) == 3


def test_attackers_drawn_per_round_are_exactly_as_many_and_change() -> None:
    threat = Threat(3, "per_cohort", ("all",), update=STEP)
    cohort = torch.arange(20, 30)
    masks = [threat.among(cohort, 5, number) for number in range(1, 61)]
    assert all(int(mask.sum()) == 3 for mask in masks)
    assert torch.equal(masks[7], threat.among(cohort, 5, 8))
    assert not torch.equal(masks[7], threat.among(cohort, 6, 8))
    often = torch.stack(masks).sum(dim=0)
    assert ((often > 3) & (often < 36)).all()  # 18 expected, five standard deviations


def test_a_share_per_round_is_of_the_cohort() -> None:
    threat = {"share": 0.29, "draw": "per_cohort", "update": "sign_flip"}
    world, state = world_of(clients={"count": 200, "per_round": 100}, threat=threat)
    assert [len(record["malicious"]) for record in rounds(world, state, 2)] == [29, 29]


def test_a_cohort_is_drawn_anew_each_round_and_holds_nobody_twice() -> None:
    federation = world_of(clients={"count": 30})[0].federation
    cohorts = [federation.cohort(number, 10).tolist() for number in range(1, 101)]
    assert all(cohort == sorted(set(cohort)) and len(cohort) == 10 for cohort in cohorts)
    assert cohorts == [federation.cohort(number, 10).tolist() for number in range(1, 101)]
    assert len(set(map(tuple, cohorts))) == 100
    for client in range(30):
        assert 10 < sum(client in cohort for cohort in cohorts) < 57  # 33 expected, five standard deviations
    assert federation.cohort(7, 30).tolist() == list(range(30))


# When


@pytest.mark.parametrize(
    ("schedule", "on"),
    [
        ({}, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ({"start": 4}, [4, 5, 6, 7, 8, 9]),
        ({"end": 3}, [1, 2, 3]),
        ({"every": 3}, [1, 4, 7]),
        ({"start": 2, "every": 4}, [2, 6]),
        ({"start": 3, "end": 7, "every": 2}, [3, 5, 7]),
        ({"start": 3, "end": 6, "every": 2}, [3, 5]),
        ({"start": 5, "end": 5}, [5]),
        ({"start": 10}, []),
    ],
)
@pytest.mark.parametrize("draw", ["fixed", "per_cohort"])
def test_the_schedule_says_in_which_rounds_there_is_an_attack(
    schedule: dict[str, int], on: list[int], draw: str
) -> None:
    when = Schedule(**schedule)
    threat = Threat(2, draw, ("all",), update=STEP, fixed_ids=frozenset({1, 4}), schedule=when)  # type: ignore[arg-type]
    assert [number for number in range(1, 10) if when.on(number)] == on
    assert [number for first, last in when.spans(1, 9) for number in range(first, last + 1)] == on
    assert when.last in (None, on[-1] if on else None)
    assert [number for number in range(1, 10) if threat.among(torch.arange(6), 0, number).any()] == on


def test_between_attacks_the_attackers_are_honest() -> None:
    quiet, state = world_of(threat={"malicious": 0})
    data = {"name": "label_flip", "source": 1, "target": 2}
    attacking, _ = world_of(threat={"malicious": 3, "data": data, "schedule": {"start": 2}})
    (first, clean), (after_attacked, attacked) = play(state, quiet), play(state, attacking)
    assert torch.equal(first.params, after_attacked.params)
    assert attacked["malicious"] == clean["malicious"] == []
    assert not torch.equal(play(first, quiet)[0].params, play(first, attacking)[0].params)
    assert play(first, attacking)[1]["malicious"] == sorted(attacking.threats[0].fixed_ids)


# What it knows

DATA = {"name": "label_flip", "target": 3}


def spying() -> tuple[Callable[..., Any], dict[str, Tensor]]:
    """An attack that does nothing but note what it is shown."""
    seen: dict[str, Tensor] = {}

    @update_attack()
    def spy(benign, own, n_malicious, n, params, previous):  # type: ignore[no-untyped-def]
        """Note what is known."""
        seen.update(benign=benign, own=own, params=params, previous=previous, counts=torch.tensor([n_malicious, n]))
        return own.clone()

    return spy, seen


def trained(world: World, state: State, clients: Sequence[int], poisoned: bool = False) -> Tensor:
    tasks = tuple(Task(client, poisoned) for client in clients)
    return world.engine.train(state.params, Plan(world.seed, state.round + 1, tasks)).updates


@pytest.mark.parametrize("engine", ["sequential", "batched"])
@pytest.mark.parametrize("data", [None, DATA])
@pytest.mark.parametrize("knows", [["colluders"], ["all"], ["colluders", "all"], ["colluders", "defence"]])
def test_benign_is_what_the_attackers_may_know(engine: str, data: Any, knows: list[str]) -> None:
    spy, seen = spying()
    threat = {"malicious": 3, "update": "alie", "knows": knows, **({"data": data} if data else {})}
    world, state = world_of(spy, engine=engine, threat=threat, clients={"count": 8, "per_round": 6})
    for _ in range(3):
        after, record = play(state, world)
        if not record["malicious"]:
            state = after
            continue
        honest = [client for client in record["cohort"] if client not in record["malicious"]]
        known = honest if "all" in knows else record["malicious"]  # colluders: their own clean shards
        assert torch.equal(seen["benign"], trained(world, state, known))
        assert torch.equal(seen["own"], trained(world, state, record["malicious"], poisoned=data is not None))
        assert torch.equal(seen["params"], state.params)
        assert torch.equal(seen["previous"], state.previous)
        assert seen["counts"].tolist() == [len(record["malicious"]), 6]
        clean = trained(world, state, record["malicious"])
        assert torch.equal(seen["own"], clean) == (data is None)
        state = after
    assert seen


def test_a_lone_cohort_of_attackers_knows_what_it_would_have_sent() -> None:
    spy, seen = spying()
    world, state = world_of(spy, threat={"malicious": 8, "update": "alie", "knows": "all", "data": DATA})
    play(state, world)
    assert torch.equal(seen["benign"], trained(world, state, range(8)))
    assert torch.equal(seen["own"], trained(world, state, range(8), poisoned=True))


class CountingEngine:
    """Notes which tasks were trained."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.tasks = engine, ()

    def train(self, params: Tensor, plan: Plan) -> Trained:
        self.tasks = plan.tasks
        return self.engine.train(params, plan)


@pytest.mark.parametrize(
    ("threat", "clean", "poisoned"),
    [
        ({"update": "alie", "knows": "all"}, 5, 0),
        ({"update": "alie", "knows": "colluders"}, 8, 0),
        ({"update": "sign_flip", "knows": []}, 8, 0),
        ({"update": "gaussian"}, 5, 0),
        ({"data": DATA}, 5, 3),
        ({"data": DATA, "update": "model_replacement"}, 5, 3),
    ],
)
def test_nobody_is_trained_whose_update_is_not_looked_at(threat: dict[str, Any], clean: int, poisoned: int) -> None:
    world, state = world_of(threat={"malicious": 3, **threat})
    engine = CountingEngine(world.engine)
    play(state, replace(world, engine=engine))
    assert [task.poisoned for task in engine.tasks].count(True) == poisoned
    assert len(engine.tasks) == clean + poisoned


PRYING = """
from fedpoison import update_attack

@update_attack()
def prying(own, defend):
    \"\"\"Ask for the defence.\"\"\"
    return own
"""


@pytest.mark.parametrize(
    ("threat", "sentence"),
    [
        ({"update": "alie", "knows": []}, 'alie asks for benign updates: threat.knows must hold "colluders" or "all"'),
        ({"update": "alie", "knows": "defence"}, "alie asks for benign updates"),
        ({"update": "ipm", "knows": []}, "ipm asks for benign updates"),
        ({"update": "p.py:prying", "knows": "all"}, 'prying asks for the defence: threat.knows must hold "defence"'),
        ({"update": "p.py:prying", "knows": []}, "prying asks for the defence"),
        ({"update": "sign_flip", "knows": "everything"}, "everything"),
    ],
)
def test_an_attack_that_asks_for_more_than_is_granted_is_refused(
    tmp_path: Path, threat: dict[str, Any], sentence: str
) -> None:
    (tmp_path / "p.py").write_text(PRYING)
    with pytest.raises(ConfigError) as refusal:
        parse(table(threat={"malicious": 1, **threat}), tmp_path)
    assert len(refusal.value.problems) == 1
    assert sentence in str(refusal.value)


def test_an_attack_may_use_what_is_granted(tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text(PRYING)
    granted = {"malicious": 1, "update": "p.py:prying", "knows": ["defence"]}
    world, state = build(parse(table(threat=granted), tmp_path))
    assert play(state, world)[1]["events"] == []


# The defence, tried out


def remembering() -> tuple[Defence, list[tuple[int, float]]]:
    """A defence with a memory and noise; a list of its rounds so far and its first random number at each call."""
    calls: list[tuple[int, float]] = []

    @aggregator()
    def noisy(updates: Updates, rng: torch.Generator, state: Memory) -> tuple[Update, Memory]:
        """Count the rounds and add noise."""
        so_far = int(state.get("rounds", torch.zeros(())))
        noise = torch.randn(updates.shape[1], generator=rng)
        calls.append((so_far, float(noise[0])))
        return updates.mean(0) + 1e-4 * noise, {"rounds": torch.tensor(so_far + 1)}

    return Defence((), (noisy.entry, {})), calls


def test_trying_the_defence_changes_nothing_but_the_attack() -> None:
    verdicts: list[Verdict] = []

    @update_attack()
    def tries(benign, own, defend):  # type: ignore[no-untyped-def]
        """Try the defence three times and send the own updates."""
        together = torch.cat([benign, own])
        before = together.clone()
        verdicts.extend(defend(together) for _ in range(3))
        assert torch.equal(together, before)
        return own

    @update_attack()
    def sends(own):  # type: ignore[no-untyped-def]
        """Send the own updates."""
        return own

    knows = {"malicious": 3, "update": "alie", "knows": ["all", "defence"]}
    defence, calls = remembering()
    world, state = world_of(tries, threat=knows)
    quiet, _ = world_of(sends, threat=knows)
    trying = untried = state
    for number in range(3):
        del calls[:]
        trying, record = play(trying, replace(world, defence=defence))
        *tries_, real = calls
        assert tries_ == [(number, tries_[0][1])] * 3  # the memory stands still, the stream starts anew
        assert real[0] == number
        assert real[1] != tries_[0][1]  # a stream of its own: the attack cannot foresee the noise
        untried, other = play(untried, replace(quiet, defence=defence))
        assert torch.equal(trying.params, untried.params)
        assert trying.memory_of("defence") == untried.memory_of("defence") == {"rounds": torch.tensor(number + 1)}
        assert record["malicious"] == other["malicious"]
    assert len(verdicts) == 9
    assert all(isinstance(verdict, Verdict) and verdict.update.shape == state.params.shape for verdict in verdicts)


@pytest.mark.parametrize(("rows", "shape"), [(slice(3), "(3, 650)"), (None, "(1, 8, 650)"), ("list", "a list")])
def test_the_defence_is_asked_about_all_updates_of_a_round_or_refuses(rows: Any, shape: str) -> None:
    @update_attack()
    def tries(benign, own, defend):  # type: ignore[no-untyped-def]
        """Try the defence on something else than the round's updates."""
        together = torch.cat([benign, own])
        defend(list(together) if rows == "list" else together[rows])
        return own

    world, state = world_of(tries, threat={"malicious": 3, "update": "alie", "knows": ["all", "defence"]})
    sentence = f"defend takes the updates [n, d] of all n = 8 clients, not {shape}"
    with pytest.raises(ValueError, match=re.escape(sentence)):
        play(state, world)


def test_craft_refuses_to_try_the_defence_on_fewer_updates_or_columns() -> None:
    @update_attack()
    def tries(benign, own, defend, *, columns: int = 5):  # type: ignore[no-untyped-def]
        """Try the defence on the honest updates, without the attackers'."""
        defend(benign[:, :columns])
        return own

    known: dict[str, Any] = {"own": torch.ones(2, 5), "defend": lambda tried: aggregate("mean", tried)}
    with pytest.raises(ValueError, match=r"of all n = 5 clients, not \(3, 5\)"):
        craft(tries, n_malicious=2, benign=torch.ones(3, 5), **known)
    assert craft(tries, n_malicious=2, benign=torch.ones(3, 5), n=3, **known).shape == (2, 5)
    with pytest.raises(ValueError, match=r"of all n = 3 clients, not \(3, 4\)"):
        craft(tries, n_malicious=2, benign=torch.ones(3, 5), n=3, columns=4, **known)


# Honest clients that diverge


class Diverging:
    """An engine some of whose clients come back with a NaN."""

    def __init__(self, world: World, clients: set[int]) -> None:
        self._engine, self._clients = world.engine, clients

    def train(self, params: Update, plan: Plan) -> Trained:
        trained = self._engine.train(params, plan)
        for row, task in enumerate(plan.tasks):
            if task.client in self._clients:
                trained.updates[row, 1] = torch.nan
        return trained


@pytest.mark.parametrize("knows", ["all", "colluders"])
def test_attackers_are_not_shown_updates_that_are_not_finite(knows: str) -> None:
    spy, seen = spying()
    world, state = world_of(spy, threat={"malicious": 3, "update": "alie", "knows": knows})
    _, record = play(state, world)
    known = record["malicious"] if knows == "colluders" else [c for c in range(8) if c not in record["malicious"]]
    whole = seen["benign"]
    play(state, replace(world, engine=Diverging(world, {known[1]})))
    assert torch.equal(seen["benign"], whole[[i for i in range(len(known)) if i != 1]])
    assert seen["counts"].tolist() == [3, 8]


@pytest.mark.parametrize("attack", ["alie", "ipm", "min_max", "min_sum"])
def test_an_honest_client_that_diverges_does_not_silence_the_attackers(attack: str) -> None:
    world, state = world_of(threat={"malicious": 3, "update": attack})
    honest = min({*range(8)} - world.threats[0].fixed_ids)
    _, record = play(state, replace(world, engine=Diverging(world, {honest})))
    assert [(event["what"], event["clients"]) for event in record["events"]] == [("set_aside", [honest])]
    benign = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))
    benign[2, 0], benign[4, 1] = torch.nan, torch.inf
    shown = craft(attack, n_malicious=2, benign=benign, n=20)
    assert torch.equal(shown, craft(attack, n_malicious=2, benign=benign[[0, 1, 3, 5]], n=20))


def test_where_no_honest_update_is_finite_attackers_have_nothing_to_go_by() -> None:
    spy, seen = spying()
    world, state = world_of(spy, threat={"malicious": 3, "update": "alie"})
    honest = {*range(8)} - world.threats[0].fixed_ids
    _, record = play(state, replace(world, engine=Diverging(world, honest)))
    assert not seen
    said = "spy: no honest update that the attackers know is finite, and they send NaN"
    assert said in [event["detail"] for event in record["events"]]
    assert record["skipped"]
    with pytest.warns(UserWarning, match=said.replace("spy", "ipm")):
        assert craft("ipm", n_malicious=2, benign=torch.full((3, 4), torch.nan)).isnan().all()


# No honest client


@pytest.mark.parametrize("engine", ["sequential", "batched"])
@pytest.mark.parametrize("knows", ["all", "colluders"])
@pytest.mark.parametrize("attack", [*entries("update_attack"), None])
def test_a_cohort_without_honest_clients_is_a_round_like_any_other(attack: str | None, knows: str, engine: str) -> None:
    update = {} if attack is None else {"update": attack}
    threat = {"malicious": 8, "knows": [knows, "defence"], "data": DATA, **update}
    if attack == "mimic" and knows == "colluders":
        pytest.skip("it must know whose updates it copies")
    world, state = world_of(threat=threat, engine=engine, clients={"count": 8, "per_round": 3})
    _, record = play(state, world)
    assert record["malicious"] == record["cohort"]
    assert record["kappa"] is None
    assert record["distance_to_honest_mean"] is None
    assert record["update_norms"]["honest"] is None
    assert record["detection"]["auroc"] is None
    assert record["detection"]["false_positive_rate"] is None


# More attackers than the defence was told


@pytest.mark.parametrize(("f", "over"), [(0, True), (2, True), (3, False), (4, False), ("true", False)])
def test_over_budget_says_that_attackers_exceed_f(f: Any, over: bool) -> None:
    world, state = world_of(defence={"f": f})
    _, record = play(state, world)
    assert len(record["malicious"]) == 3
    assert record["over_budget"] is over
    assert record["f"] == (3 if f == "true" else f)


def test_over_budget_goes_by_the_fewest_that_a_step_is_told_of() -> None:
    chains = [
        ({"f": 2, "aggregator": {"name": "trimmed_mean", "f": 3}}, False),
        ({"f": 3, "aggregator": {"name": "trimmed_mean", "f": 2}}, True),
        ({"f": "true", "pre": [{"name": "nnm", "f": 2}], "aggregator": "trimmed_mean"}, True),
        ({"f": 2, "pre": [{"name": "nnm", "f": 3}], "aggregator": "median"}, False),
    ]
    for defence, over in chains:
        world, state = world_of(defence=defence)
        _, record = play(state, world)
        assert record["over_budget"] is over
        experiment = load(table(defence=defence))
        said = [w for w in Job(experiment, Path()).warnings() if "more than f" in w]
        assert said == ["every round has 3 attackers, more than f = 2"] * over


def test_over_budget_follows_the_cohort() -> None:
    world, state = world_of(clients={"count": 8, "per_round": 4})  # 1.5 attackers expected: f = 2
    records = rounds(world, state, 25)
    assert {record["f"] for record in records} == {2}
    assert [record["over_budget"] for record in records] == [len(record["malicious"]) > 2 for record in records]
    assert {record["over_budget"] for record in records} == {True, False}


def test_a_defence_told_the_truth_is_told_each_cohorts() -> None:
    world, state = world_of(clients={"count": 8, "per_round": 4}, defence={"f": "true"})
    records = rounds(world, state, 10)
    assert [record["f"] for record in records] == [len(record["malicious"]) for record in records]
    assert len({record["f"] for record in records}) > 1


# Redrawn, single shots, sybils


def test_attackers_redrawn_each_round_are_drawn_from_the_population() -> None:
    threat = {"malicious": 4, "draw": "per_round", "update": "sign_flip"}
    world, state = world_of(clients={"count": 8, "per_round": 4}, threat=threat)
    found = rounds(world, state, 6)
    counts = {len(record["malicious"]) for record in found}
    assert len(counts) > 1  # two of four are expected, not promised
    assert set().union(*(record["malicious"] for record in found)) > set(found[0]["malicious"])
    everyone, start = world_of(clients={"count": 8}, threat=threat)
    redrawn = [tuple(record["malicious"]) for record in rounds(everyone, start, 4)]
    assert {len(ids) for ids in redrawn} == {4}
    assert len(set(redrawn)) > 1


@pytest.mark.parametrize("draw", ["fixed", "per_cohort", "per_round"])
def test_an_attack_at_some_rounds_is_on_in_them_only(draw: str) -> None:
    threat = {"malicious": 3, "draw": draw, "update": "sign_flip", "schedule": {"at": [2, 5]}}
    world, state = world_of(threat=threat)
    assert [bool(record["malicious"]) for record in rounds(world, state, 6)] == [False, True, False, False, True, False]


def test_after_its_end_an_attack_cools_down() -> None:
    threat = {"malicious": 3, "update": "sign_flip", "schedule": {"start": 2, "end": 3}}
    world, state = world_of(threat=threat)
    assert [bool(record["malicious"]) for record in rounds(world, state, 5)] == [False, True, True, False, False]


def test_sybils_send_one_update_with_jitter() -> None:
    def sent(**threat: Any) -> Tensor:
        seen: dict[str, Tensor] = {}

        @aggregator()
        def watch(updates: Updates, client_ids: ClientIds) -> Update:
            """Remember what was sent."""
            seen.update(updates=updates, ids=client_ids)
            return updates[0]

        world, state = world_of(threat={"malicious": 3, "data": {"name": "label_flip"}, **threat})
        _, record = play(state, replace(world, defence=Defence((), (find("aggregator", watch), {}))))
        return seen["updates"][torch.isin(seen["ids"], torch.tensor(record["malicious"]))]

    own, same, near = sent(), sent(sybils=0.0), sent(sybils=0.1)
    assert not torch.equal(own[0], own[1])
    assert torch.equal(same, own[0].expand_as(own))
    gaps = torch.linalg.vector_norm(near - own[0], dim=1) / torch.linalg.vector_norm(own[0])
    assert torch.allclose(gaps, torch.full((3,), 0.1), atol=1e-4)
    assert not torch.equal(near[0], near[1])


def test_at_and_start_are_alternatives() -> None:
    with pytest.raises(ConfigError, match=r"at = \[3\] says in which rounds the attack is on"):
        parse(table(threat={"malicious": 1, "update": "ipm", "schedule": {"at": [3], "start": 2}}))


def test_an_attack_at_some_rounds_is_the_same_for_another_process() -> None:
    made = parse(table(threat={"malicious": 1, "update": "ipm", "schedule": {"at": [2, 3]}}))
    assert parse(made.table()).hash == made.hash
