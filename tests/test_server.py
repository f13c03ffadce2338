"""The server's optimizers against their papers' lines in numpy and against Flower's."""

import logging
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvgM, FedYogi
from torch import Tensor

from fedpoison.common.errors import ConfigError
from fedpoison.config.config import parse
from fedpoison.round import play
from fedpoison.runs.world import build
from fedpoison.server import Server

logging.getLogger("flwr").setLevel(logging.ERROR)
D, ROUNDS = 6, 5
START = torch.randn(D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
AGGREGATES = torch.randn(ROUNDS, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def stepped(server: Server, memory: dict[str, Tensor] | None = None) -> Tensor:
    params, memory = START, memory or {}
    for aggregate in AGGREGATES:
        params, memory = server.step(params, aggregate, memory, server.lr)
    return params


def test_plain_steps_add_the_aggregates() -> None:
    assert torch.allclose(stepped(Server(lr=0.5)), START + 0.5 * AGGREGATES.sum(dim=0))


def test_momentum_accumulates() -> None:
    params, mean = START.numpy(), np.zeros(D)
    for delta in AGGREGATES.numpy():
        mean = 0.9 * mean + delta
        params = params + 0.5 * mean
    assert np.allclose(stepped(Server(lr=0.5, momentum=0.9)), params)


@pytest.mark.parametrize("optimizer", ["adam", "yogi", "adagrad"])
def test_adaptive_steps_are_the_papers(optimizer: str) -> None:
    server = Server(optimizer=optimizer, lr=0.3, betas=[0.8, 0.95], tau=0.01)  # type: ignore[arg-type]
    x, m, v = START.numpy(), np.zeros(D), np.full(D, 0.01**2)
    for delta in AGGREGATES.numpy():
        m = 0.8 * m + (1 - 0.8) * delta
        v = {
            "adagrad": v + delta**2,
            "yogi": v - (1 - 0.95) * delta**2 * np.sign(v - delta**2),
            "adam": 0.95 * v + (1 - 0.95) * delta**2,
        }[optimizer]
        x = x + 0.3 * m / (np.sqrt(v) + 0.01)
    assert np.allclose(stepped(server), x)


def test_weight_decay_is_torchs() -> None:
    weight = torch.nn.Parameter(START.clone())
    optimizer = torch.optim.SGD([weight], lr=0.3, momentum=0.9, weight_decay=0.1)
    for aggregate in AGGREGATES:
        weight.grad = -aggregate
        optimizer.step()
    assert torch.allclose(stepped(Server(lr=0.3, momentum=0.9, weight_decay=0.1)), weight.detach())


FLOWER: dict[str, tuple[Any, Server, dict[str, Any]]] = {
    "momentum": (
        FedAvgM(server_learning_rate=0.3, server_momentum=0.8),
        Server(lr=0.3, momentum=0.8),
        {},
    ),
    "yogi": (
        FedYogi(eta=0.3, beta_1=0.8, beta_2=0.95, tau=0.01),
        Server(optimizer="yogi", lr=0.3, betas=[0.8, 0.95], tau=0.01),
        {"square": torch.zeros(D, dtype=torch.float64)},
    ),
    "adagrad": (
        FedAdagrad(eta=0.3, tau=0.01),
        Server(optimizer="adagrad", lr=0.3, betas=[0.0, 0.95], tau=0.01),
        {"square": torch.zeros(D, dtype=torch.float64)},
    ),
    "adam": (
        FedAdam(eta=0.3, beta_1=0.8, beta_2=0.95, tau=0.01),
        Server(optimizer="adam", lr=0.3, betas=[0.8, 0.95], tau=0.01),
        {"square": torch.zeros(D, dtype=torch.float64)},
    ),
}


@pytest.mark.parametrize("name", FLOWER)
def test_flowers_server_optimizers_agree_from_the_same_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower starts v at 0 where the paper has τ², and corrects Adam's bias as if a round more had been played."""
    strategy, server, memory = FLOWER[name]
    params, arrays = START, ArrayRecord([START.numpy().copy()])
    monkeypatch.setattr("flwr.serverapp.strategy.FedAvg.aggregate_train", lambda self, round, replies: (replies, None))
    strategy.current_arrays = arrays if name == "momentum" else dict(arrays.items())
    if name != "momentum":
        strategy.current_arrays = {k: v.numpy() for k, v in arrays.items()}
    for number, aggregate in enumerate(AGGREGATES, start=1):
        lr = server.lr
        if name == "adam":
            lr *= np.sqrt(1 - 0.95 ** (number + 1)) / (1 - 0.8 ** (number + 1))
        local = params + aggregate
        theirs, _ = strategy.aggregate_train(number, ArrayRecord([local.numpy().copy()]))
        params, memory = server.step(params, aggregate, memory, lr)
        (got,) = theirs.to_numpy_ndarrays()
        assert np.allclose(got, params, rtol=1e-10)
        if name != "momentum":
            strategy.current_arrays = {k: params.numpy() for k in strategy.current_arrays}


def table(**server: Any) -> dict[str, Any]:
    clients = {"count": 4, "local": {"steps": 2}}
    return {"name": "t", "rounds": 3, "data": "digits", "model": "logistic", "clients": clients, "server": server}


def params_after(rounds: int, **server: Any) -> Tensor:
    world, state = build(parse(table(**server)))
    for _ in range(rounds):
        state, _ = play(state, world)
    return state.params


@pytest.mark.parametrize(
    "option",
    [
        {"momentum": 0.5},
        {"optimizer": "adam"},
        {"optimizer": "yogi"},
        {"optimizer": "adagrad"},
        {"weight_decay": 0.1},
        {"rates": {"milestones": [1], "factor": 0.5}},
        {"rates": {"warmup": 2}},
        {"rates": {"cosine": True}},
    ],
    ids=str,
)
def test_each_option_changes_the_second_round(option: dict[str, Any]) -> None:
    assert not torch.allclose(params_after(2, **option), params_after(2))


def test_the_servers_memory_survives_a_skipped_round() -> None:
    world, state = build(parse(table(momentum=0.5)))
    state, _ = play(state, world)
    broken = state.__class__(**{**vars(state), "params": state.params * float("nan")})
    after, record = play(broken, world)
    assert record["skipped"]
    assert torch.equal(after.memory_of("server")["mean"], state.memory_of("server")["mean"])


def test_momentum_belongs_to_sgd() -> None:
    with pytest.raises(ConfigError, match=r"server: momentum = 0\.5 belongs to sgd; yogi has betas"):
        parse(table(optimizer="yogi", momentum=0.5))
