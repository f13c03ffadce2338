"""Clients that answer late or not at all."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedpoison.clients.delivery import Answers, Late, Mail, deliver
from fedpoison.common.errors import ConfigError
from fedpoison.common.seeding import Stream
from fedpoison.config.config import parse
from fedpoison.contract.vocabulary import Record
from fedpoison.round import State, World, play
from fedpoison.runs.checkpoints import load_state, save_state
from fedpoison.runs.world import build

PARAMS = torch.zeros(2)


def mail(*senders: int, value: float = 1.0, malicious: tuple[int, ...] = ()) -> Mail:
    rows = torch.tensor([[value, float(sender)] for sender in senders]).reshape(len(senders), 2)
    bad = torch.tensor([sender in malicious for sender in senders], dtype=torch.bool)
    return Mail(rows, torch.tensor(senders, dtype=torch.int64), bad)


def mask(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.bool)


def test_what_is_late_arrives_when_it_is_due_and_once() -> None:
    got, waiting, events = deliver(mail(1, 2, 3, malicious=(2,)), mask(0, 1, 0), {}, 1, 2, PARAMS)
    assert got.senders.tolist() == [1, 3]
    assert [event.as_dict() for event in events] == [
        {"what": "late", "clients": [2], "detail": "will arrive in round 3"}
    ]
    got, waiting, events = deliver(mail(1, value=5), mask(0), waiting, 2, 2, PARAMS)
    assert (got.senders.tolist(), events) == ([1], [])
    got, waiting, events = deliver(mail(1, value=7), mask(0), waiting, 3, 2, PARAMS)
    assert got.senders.tolist() == [1, 2]
    assert torch.equal(torch.as_tensor(got.updates), torch.tensor([[7.0, 1.0], [1.0, 2.0]]))
    assert got.malicious.tolist() == [False, True]
    assert [event.as_dict()["what"] for event in events] == ["arrived_late"]
    got, waiting, events = deliver(mail(1), mask(0), waiting, 4, 2, PARAMS)
    assert (got.senders.tolist(), events) == ([1], [])


def test_of_two_updates_of_a_client_the_newer_counts() -> None:
    _, waiting, _ = deliver(mail(1, value=1), mask(1), {}, 1, 2, PARAMS)
    _, waiting, _ = deliver(mail(1, value=2), mask(1), waiting, 2, 2, PARAMS)
    got, _, _ = deliver(mail(), mask(), waiting, 4, 2, PARAMS)
    assert torch.as_tensor(got.updates).tolist() == [[2.0, 1.0]]
    got, _, events = deliver(mail(1, value=3), mask(0), waiting, 4, 2, PARAMS)
    assert torch.as_tensor(got.updates).tolist() == [[3.0, 1.0]]
    assert events[-1].clients == ()


def test_what_is_late_and_no_vector_is_lost() -> None:
    sent = Mail([torch.zeros(2), torch.zeros(9), torch.zeros(2)], torch.tensor([0, 1, 2]), mask(0, 1, 1))
    got, waiting, _ = deliver(sent, mask(0, 1, 1), {}, 1, 1, PARAMS)
    assert isinstance(got.updates, list)
    assert waiting["senders"].tolist() == [2]
    wrong = Mail([torch.zeros(3)], torch.tensor([5]), mask(1))
    got, _, _ = deliver(wrong, mask(0), waiting, 2, 1, PARAMS)
    assert [len(row) for row in got.updates] == [3, 2]


def test_the_chances_are_those_of_the_options_and_nested() -> None:
    cohort = torch.arange(20_000)
    few = Answers.draw(cohort, 0.1, Late(chance=0.2), Stream(0, "answers", 1))
    more = Answers.draw(cohort, 0.3, Late(chance=0.2), Stream(0, "answers", 1))
    assert abs(float(few.lost.double().mean()) - 0.1) < 0.01
    assert abs(float(few.late.double().mean()) - 0.2) < 0.01
    assert not (few.lost & few.late).any()
    assert (more.lost | ~few.lost).all()


def world_of(clients: dict[str, Any], **changes: Any) -> tuple[World, State]:
    table = {
        "name": "t",
        "rounds": 6,
        "data": "digits",
        "model": "logistic",
        "clients": {"count": 10, "local": {"steps": 1}, **clients},
        **changes,
    }
    return build(parse(table))


def played(world: World, state: State, rounds: int) -> tuple[State, list[Record]]:
    records = []
    for _ in range(rounds):
        state, record = play(state, world)
        records.append(record)
    return state, records


def test_who_does_not_answer_is_an_event_and_not_in_the_cohort() -> None:
    _, records = played(*world_of({"dropout": 0.4}), 6)
    lost = [sorted(c for e in r["events"] if e["what"] == "no_answer" for c in e["clients"]) for r in records]
    assert any(lost)
    for record, missing in zip(records, lost, strict=True):
        assert sorted(record["cohort"] + missing) == list(range(10))
        assert len(record["weights"]) == len(record["cohort"])


def test_a_late_update_is_of_the_model_it_was_trained_on() -> None:
    """Nobody but client 3 is late in round 1; its old update is then averaged in."""
    world, state = world_of({"late": {"chance": 0.3, "rounds": 1}})
    before = state.params
    late = Answers.draw(torch.arange(10), 0.0, world.late, Stream(0, "answers", 1)).late
    assert 0 < int(late.sum()) < 10
    state, record = play(state, world)
    assert record["cohort"] == (~late).nonzero().flatten().tolist()
    waiting = state.memory_of("waiting")
    assert waiting["senders"].tolist() == late.nonzero().flatten().tolist()
    calm, start = world_of({})
    everyone, _ = play(start, calm)
    total = 10 * (everyone.params - before)
    mine = waiting["updates"].sum(dim=0) + (len(late) - int(late.sum())) * (state.params - before)
    assert torch.allclose(mine, total, atol=1e-5)
    _, record = play(state, world)
    arrived = [c for e in record["events"] if e["what"] == "arrived_late" for c in e["clients"]]
    assert set(arrived) <= set(late.nonzero().flatten().tolist())
    assert record["cohort"][len(record["cohort"]) - len(arrived) :] == arrived


def test_a_round_in_which_nobody_answers_is_skipped() -> None:
    world, state = world_of({"count": 2, "dropout": 0.9})
    state, records = played(world, state, 6)
    empty = [record for record in records if not record["cohort"]]
    assert empty
    assert all(record["skipped"] for record in empty)


@pytest.mark.parametrize("update", [None, "ipm", "gaussian"])
def test_attackers_may_be_lost_or_late_too(update: str | None) -> None:
    data = None if update else {"name": "label_flip"}
    threat = {"malicious": 4} | ({"update": update} if update else {"data": data})
    world, state = world_of({"dropout": 0.3, "late": {"chance": 0.3, "rounds": 2}}, threat=threat)
    _, records = played(world, state, 6)
    fixed = world.threats[0].fixed_ids
    assert all(set(record["malicious"]) == fixed & set(record["cohort"]) for record in records)
    assert len({tuple(record["malicious"]) for record in records}) > 1


@pytest.mark.parametrize("knows", ["all", "colluders"])
def test_a_round_in_which_only_attackers_arrive_is_a_round(knows: str) -> None:
    threat = {"malicious": 3, "update": "ipm", "knows": knows}
    world, state = world_of({"count": 4, "late": {"chance": 0.6, "rounds": 3}}, threat=threat)
    _, records = played(world, state, 6)
    assert any(record["cohort"] and set(record["cohort"]) == set(record["malicious"]) for record in records)


def test_a_cut_run_goes_on_with_what_was_on_its_way(tmp_path: Path) -> None:
    world, state = world_of({"late": {"chance": 0.4, "rounds": 2}, "momentum": 0.9}, server={"momentum": 0.5})
    state, _ = played(world, state, 2)
    save_state(tmp_path / "checkpoint.safetensors", state)
    again = load_state(tmp_path / "checkpoint.safetensors")
    assert torch.equal(played(world, again, 3)[0].params, played(world, state, 3)[0].params)
    assert again.memory_of("waiting")
    assert again.memory_of("momentum")
    assert again.memory_of("server")


def test_more_than_everybody_cannot_be_missing() -> None:
    with pytest.raises(ConfigError, match=r"dropout = 0\.6 and late\.chance = 0\.5 are more than 1 together"):
        world_of({"dropout": 0.6, "late": {"chance": 0.5}})
