"""Learning rates over rounds, clients' momentum, and that each option of the training does something."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fedpoison.clients.training import ClientMomentum, Local, Rates, Task
from fedpoison.common.errors import ConfigError
from fedpoison.config.config import parse
from fedpoison.round import play
from fedpoison.runs.world import build


def table(rounds: int = 3, **clients: Any) -> dict[str, Any]:
    local = {"steps": 2, "lr": 0.1, **clients.pop("local", {})}
    return {
        "name": "t",
        "rounds": rounds,
        "data": "digits",
        "model": "logistic",
        "clients": {"count": 4, "local": local, **clients},
    }


def params_after(rounds: int, **clients: Any) -> Tensor:
    world, state = build(parse(table(**clients)))
    for _ in range(rounds):
        state, _ = play(state, world)
    return state.params


def test_rates_follow_their_schedule() -> None:
    steps = Rates(milestones=[2, 4], factor=0.5)
    assert [steps.at(round, 6) for round in range(1, 7)] == [1, 1, 0.5, 0.5, 0.25, 0.25]
    assert [Rates(warmup=3).at(round, 6) for round in range(1, 7)] == [0.25, 0.5, 0.75, 1, 1, 1]
    cosine = [Rates(cosine=True).at(round, 4) for round in range(1, 5)]
    assert cosine == pytest.approx([1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2])
    both = [Rates(warmup=1, cosine=True, milestones=[2], factor=0.1).at(round, 3) for round in (1, 2, 3)]
    assert both == pytest.approx([0.5, 1, 0.05])
    assert Rates().at(7, 9) == 1


@pytest.mark.parametrize(
    "option",
    [
        {"optimizer": "adam", "lr": 0.01},
        {"momentum": 0.5},
        {"prox": 1.0},
        {"clip_norm": 0.01},
        {"reduction": "sum"},
        {"weight_decay": 0.5},
        {"rates": {"milestones": [1], "factor": 0.5}},
        {"rates": {"warmup": 2}},
        {"rates": {"cosine": True}},
    ],
    ids=str,
)
@pytest.mark.parametrize("engine", ["sequential", "batched"])
def test_each_option_changes_the_second_round(option: dict[str, Any], engine: str) -> None:
    def after(**local: Any) -> Tensor:
        world, state = build(parse({**table(local=local), "engine": engine}))
        for _ in range(2):
            state, _ = play(state, world)
        return state.params

    assert not torch.allclose(after(**option), after())


def test_momentum_is_kept_by_each_client() -> None:
    """Two clients by hand, the second silent in the second round; then one whose update is not finite."""
    updates = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    for form, share in (("average", 0.5), ("accumulating", 1.0)):
        momentum = ClientMomentum(beta=0.5, form=form)  # type: ignore[arg-type]
        memory: dict[str, Tensor] = {}
        sent, memory = momentum(memory, [Task(2), Task(0)], updates, 3)
        assert torch.equal(sent, share * updates)
        sent, memory = momentum(memory, [Task(2)], updates[1:], 3)
        assert torch.equal(sent, torch.tensor([[0.5 * share, share]]))
        assert torch.equal(memory["clean"], torch.tensor([[0, share], [0, 0], [0.5 * share, share]]))
        kept = memory["clean"]
        sent, memory = momentum(memory, [Task(2), Task(0)], torch.tensor([[torch.nan, 0.0], [0.0, 0.0]]), 3)
        assert sent[0].isnan().any()
        assert torch.equal(memory["clean"][2], kept[2])
        assert torch.equal(sent[1], 0.5 * kept[0])


def test_momentum_on_clean_and_on_poisoned_data_are_two() -> None:
    momentum, ones = ClientMomentum(beta=0.5), torch.ones(2, 2)
    _, memory = momentum({}, [Task(0), Task(0, poisoned=True)], torch.stack([ones[0], 3 * ones[0]]), 1)
    assert torch.equal(memory["clean"], 0.5 * ones[:1])
    assert torch.equal(memory["poisoned"], 1.5 * ones[:1])


def test_client_momentum_of_one_step_is_worker_momentum_on_gradients() -> None:
    """With everybody in every round the mean of momenta is the momentum of the mean: SGD with dampening = β."""
    averaged = params_after(3, local={"steps": 1, "batch_size": 500}, momentum=0.9)
    accumulated = params_after(3, local={"steps": 1, "batch_size": 500}, momentum={"form": "accumulating"})
    for got, dampening in ((averaged, 0.9), (accumulated, 0.0)):
        world, state = build(parse(table(local={"steps": 1, "batch_size": 500})))
        weight = torch.nn.Parameter(state.params.clone())
        optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, dampening=dampening)
        optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)  # ours starts from 0
        for _ in range(3):
            moved = play(replace(state, params=weight.detach().clone()), world)[0].params
            weight.grad = (weight.detach() - moved) / 0.1
            optimizer.step()
        assert torch.allclose(got, weight.detach(), atol=1e-5)


def test_momentum_belongs_to_sgd() -> None:
    with pytest.raises(ConfigError, match=r"clients\.local: momentum = 0\.5 belongs to sgd; adam has betas"):
        parse(table(local={"optimizer": "adam", "momentum": 0.5}))


@pytest.mark.parametrize(
    "wrong", [{"prox": -1.0}, {"clip_norm": 0.0}, {"reduction": "max"}, {"loss": "max"}, {"betas": [0.9]}, {"eps": 0.0}]
)
def test_options_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"clients.local.{next(iter(wrong))}"):
        parse(table(local=wrong))


def test_a_scaled_rate_is_the_only_change() -> None:
    local = Local(lr=0.2, momentum=0.3)
    assert local.scaled(0.5) == Local(lr=0.1, momentum=0.3)
    assert local.scaled(1.0) is local
