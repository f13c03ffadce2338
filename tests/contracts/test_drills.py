"""Drills: how attackers train otherwise, by hand, in both engines, and beside honest clients who notice nothing."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedpoison.clients.drills import within
from fedpoison.clients.federation import Federation
from fedpoison.clients.training import Engine, Local, Plan, Task, batches, train_client
from fedpoison.common import parallel
from fedpoison.contract.lookup import find
from fedpoison.data import Dataset
from fedpoison.models.vector import flatten
from fedpoison.types import Drill

CLASSES, CLIENTS, SEED = 3, 5, 5
OTHERS = {
    "momentum": {"momentum": 0.9},
    "decay": {"weight_decay": 0.5, "momentum": 0.5},
    "adam": {"optimizer": "adam", "eps": 0.1, "weight_decay": 0.1},
    "clipped": {"clip_norm": 0.2, "prox": 0.5, "momentum": 0.9, "weight_decay": 0.5},
    "one-step": {"steps": 1},
    "plain": {},
}


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def federation() -> Federation:
    labels = torch.randint(CLASSES, (80,), generator=drawn(1))
    middle = torch.rand(CLASSES, 1, 4, 4, generator=drawn(2))
    images = 0.6 * middle[labels] + 0.4 * torch.rand(80, 1, 4, 4, generator=drawn(3))
    entry = find("partition", "dirichlet")
    data = Dataset(images, labels, images[:9], labels[:9], CLASSES)
    return Federation(data, (entry, entry.validate({"alpha": 0.4})), CLIENTS, SEED)


def net() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 9), nn.ReLU(), nn.Linear(9, CLASSES))


D = len(flatten(net()))
MASK = torch.rand(D, generator=drawn(6)) < 0.7
DRILLS = {
    "settings": Drill(local={"epochs": 3, "lr": 0.05, "batch_size": 7}),
    "mask": Drill(mask=MASK),
    "radius": Drill(radius=0.02),
    "ball": Drill(radius=0.02, every=2),
    "all": Drill(local={"epochs": 2, "momentum": 0.5}, mask=MASK, radius=0.05, every=1),
}


def local_of(name: str) -> Local:
    return Local(batch_size=13, lr=0.1, **OTHERS[name])


def drill_for(name: str, local: Local) -> Drill:
    """Adam has no momentum to change."""
    drill = DRILLS[name]
    return replace(drill, local={"epochs": 2}) if local.optimizer == "adam" and "momentum" in drill.local else drill


def engine(name: str, local: Local, **options: Any) -> Engine:
    entry = find("engine", name)
    supply = {"model": net(), "federation": federation(), "local": local, "recipe": None}
    return entry.call(supply, entry.validate(options))


def updates(name: str, local: Local, tasks: tuple[Task, ...], scale: float = 1.0, **options: Any) -> Tensor:
    with parallel.using(2):
        return engine(name, local, **options).train(flatten(net()), Plan(SEED, 2, tasks, scale)).updates


def by_hand(local: Local, drill: Drill, client: int) -> Tensor:
    """The same training in float64, a step at a time: what a drill holds is looked after between the steps."""
    shard, net64, held = federation().shard(client), net().double(), local.drilled(drill)
    weights = list(net64.parameters())
    start = torch.cat([w.detach().flatten() for w in weights])
    mask = torch.ones(D, dtype=torch.bool) if drill.mask is None else drill.mask
    optimizer, stream = held.optimizer_for(weights), Plan(SEED, 2, ()).batch_stream(Task(client))
    for made, batch in enumerate(batches(stream, len(shard), held), 1):
        rows = shard.index[torch.from_numpy(batch)]
        optimizer.zero_grad()
        nn.functional.cross_entropy(net64(shard.images[rows].double()), shard.labels[rows]).backward()
        now = torch.cat([w.detach().flatten() for w in weights])
        gradient = torch.cat([w.grad.flatten() for w in weights]) * mask + held.prox * (now - start)
        if held.clip_norm:
            gradient *= min(1.0, held.clip_norm / float(gradient.norm()))
        for weight, values in zip(weights, gradient.split([w.numel() for w in weights]), strict=True):
            weight.grad = values.view_as(weight)
        optimizer.step()
        moved = (torch.cat([w.detach().flatten() for w in weights]) - start) * mask
        if drill.radius and drill.every and made % drill.every == 0:
            moved *= min(1.0, drill.radius / float(moved.norm()))
        with torch.no_grad():
            for weight, values in zip(weights, (start + moved).split([w.numel() for w in weights]), strict=True):
                weight.copy_(values.view_as(weight))
    return moved * min(1.0, drill.radius / float(moved.norm())) if drill.radius else moved


@pytest.mark.parametrize("local_name", OTHERS)
@pytest.mark.parametrize("drill_name", DRILLS)
@pytest.mark.parametrize("name", ["sequential", "batched"])
def test_an_engine_trains_as_a_drill_says(name: str, drill_name: str, local_name: str) -> None:
    local = local_of(local_name)
    drill = drill_for(drill_name, local)
    got = updates(name, local, tuple(Task(i, drill=drill) for i in range(CLIENTS)))
    for client, update in enumerate(got):
        expected = by_hand(local, drill, client)
        assert (update - expected).norm() < 2e-5 * (1 + expected.norm())
        assert expected.norm() > 0.005
        if drill.mask is not None:
            assert (update[~drill.mask] == 0).all()
            assert (update[drill.mask] != 0).any()
        if drill.radius:
            assert update.norm() <= drill.radius * (1 + 1e-6)


@pytest.mark.parametrize("name", ["sequential", "batched"])
def test_what_may_not_move_stays_even_where_its_gradient_is_not_finite(name: str) -> None:
    local = Local(batch_size=13, lr=1e30, steps=3)
    got = updates(name, local, (Task(0, drill=Drill(mask=MASK)),))[0]
    assert not got[MASK].isfinite().all()
    assert (got[~MASK] == 0).all()


def test_a_rate_of_a_drill_s_own_follows_no_schedule() -> None:
    local, own = Local(batch_size=13, lr=0.1), Task(0, drill=Drill(local={"lr": 0.05}))
    assert torch.equal(updates("batched", local, (own,), 0.25), updates("batched", local, (own,)))
    honest = updates("batched", local, (Task(0),), 0.25)
    assert not torch.equal(honest, updates("batched", local, (Task(0),)))
    assert torch.equal(honest, updates("batched", local, (Task(0, drill=Drill(local={"lr": 0.025})),)))


@pytest.mark.parametrize("local_name", OTHERS)
def test_neither_the_honest_nor_the_attackers_bits_depend_on_who_else_trains(local_name: str) -> None:
    local = local_of(local_name)
    drills = [None, *(drill_for(name, local) for name in DRILLS)]
    tasks = tuple(Task(i % CLIENTS, drill=drill) for i in range(2 * CLIENTS) for drill in drills)
    together = updates("batched", local, tasks, stack=3)
    for task, update in zip(tasks, together, strict=True):
        assert torch.equal(update, updates("batched", local, (task,), stack=2)[0]), task
    honest = tuple(Task(i) for i in range(CLIENTS))
    assert torch.equal(updates("batched", local, honest), together[:: len(drills)][:CLIENTS])


def test_the_honest_are_stacked_as_without_attackers() -> None:
    local = Local(batch_size=13)
    made = engine("batched", local, stack=2)
    honest = tuple(Task(i) for i in range(CLIENTS))
    bad = (Task(0, drill=DRILLS["mask"]), Task(1, drill=DRILLS["radius"]), Task(2, drill=DRILLS["settings"]))
    alone, beside = (made.shares(Plan(SEED, 2, tasks), 1) for tasks in (honest, (*honest, *bad)))
    assert beside[: len(alone)] == alone
    assert sorted(map(sorted, beside[len(alone) :])) == [[5, 6], [7]]  # those that are held, and those that are not


def test_a_drill_s_settings_are_held_to_what_settings_are() -> None:
    assert Local(epochs=2).drilled(Drill(local={"steps": 3})).step_count(100) == 3
    assert Local(steps=2, batch_size=10).drilled(Drill(local={"epochs": 3})).step_count(100) == 30
    for wrong in ({"rate": 1.0}, {"lr": -1.0}, {"epochs": 1, "steps": 1}, {"epochs": 0}):
        with pytest.raises(ValueError, match="validation error"):
            Local().drilled(Drill(local=wrong))


def test_a_vector_is_shortened_only_if_it_is_longer() -> None:
    short = torch.tensor([0.3, 0.4])
    assert within(short, 0.6) is short
    torch.testing.assert_close(within(torch.tensor([3.0, 4.0]), 1.0), torch.tensor([0.6, 0.8]))


def test_the_plain_client_is_the_same_with_and_without_a_drill_that_says_nothing() -> None:
    shard, local, stream = federation().shard(1), Local(), Plan(SEED, 2, ()).batch_stream(Task(1))
    plain, drilled = (train_client(net(), flatten(net()), shard, stream, local, None, d) for d in (None, Drill()))
    assert torch.equal(plain, drilled)
