"""Engines: `sequential` against mathematics by hand, `batched` against `sequential` and against itself, bit by bit."""

import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fedpoison import data_attack, partition
from fedpoison.attacks.poisoning import Poison
from fedpoison.clients.federation import Federation, Shard
from fedpoison.clients.training import Engine, Local, Plan, Task, batches, train_client
from fedpoison.common import parallel
from fedpoison.common.seeding import Stream
from fedpoison.contract.lookup import entries, find
from fedpoison.data import Dataset
from fedpoison.data.augment import Augment
from fedpoison.engines.batched import _train_stack
from fedpoison.engines.descent import descent
from fedpoison.engines.minibatches import Place, batches_of
from fedpoison.engines.stackable import net_of
from fedpoison.models.dropout import with_streams
from fedpoison.models.inputs import Normalise
from fedpoison.models.vector import flatten, load
from fedpoison.types import Drill

ENGINES = list(entries("engine"))
CLASSES, CLIENTS, ROUND, SEED = 3, 5, 2, 5


@pytest.fixture(autouse=True)
def _two_workers() -> Iterator[None]:
    """As in a run: two threads inside one small torch operation would only wait for each other."""
    with parallel.using(2):
        yield


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dataset(shape: tuple[int, ...] = (1, 4, 4), samples: int = 80) -> Dataset:
    labels = torch.randint(CLASSES, (samples,), generator=drawn(1))
    middle = torch.rand(CLASSES, *shape, generator=drawn(2))
    images = 0.6 * middle[labels] + 0.4 * torch.rand(samples, *shape, generator=drawn(3))
    return Dataset(images, labels, images[:9], labels[:9], CLASSES)


@partition()
def pieces(labels, n_clients, rng):  # type: ignore[no-untyped-def]
    """The samples in their order, cut into equal pieces."""
    return np.split(np.arange(len(labels)), n_clients)


PIECES = (find("partition", pieces), {})


def federation(data: Dataset, split: str = "dirichlet") -> Federation:
    """Five clients; by default with shards of very different sizes."""
    entry = find("partition", split)
    options = entry.validate({"alpha": 0.4} if split == "dirichlet" else {})
    return Federation(data, (entry, options), CLIENTS, SEED)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return make()


def mlp(*widths: int, bias: bool = True) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after, bias=bias), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    return make


def engine(name: str, net: nn.Module, clients: Federation, local: Local, **options: Any) -> Engine:
    entry = find("engine", name)
    supply = {"model": net, "federation": clients, "local": local, "recipe": None}
    return entry.call(supply, entry.validate(options))


def plan_of(*clients: int, number: int = ROUND, poisoned: bool = False) -> Plan:
    return Plan(SEED, number, tuple(Task(client, poisoned) for client in clients or range(CLIENTS)))


def reference(net: nn.Module, clients: Federation, local: Local, plan: Plan) -> Tensor:
    """The updates of the same training in float64."""
    net64 = copy.deepcopy(net).double()
    rows = []
    for task in plan.tasks:
        shard = clients.shard(task.client, task.poisoned)
        images = shard.images.double() if shard.images.is_floating_point() else shard.images
        exact = replace(shard, images=images)
        stream = plan.batch_stream(task)
        rows.append(train_client(net64, flatten(net).double(), exact, stream, local, clients.augment))
    return torch.stack(rows)


def rounding(params: Tensor, updates: Tensor, clients: Federation, local: Local) -> Tensor:
    """What float32 may be off by: the rounding of each step's parameters, steps being independent."""
    steps = torch.tensor([local.step_count(len(clients.shard(i))) for i in range(CLIENTS)])
    return 4 * torch.finfo(torch.float32).eps * (params.norm() + updates.norm(dim=1)) * steps.sqrt()


# The oracle


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"weight_decay": 0.1},
        {"momentum": 0.5, "weight_decay": 0.3},
        {"prox": 0.7},
        {"prox": 0.7, "momentum": 0.5, "weight_decay": 0.3},
        {"clip_norm": 0.2},
        {"clip_norm": 0.3, "momentum": 0.5, "prox": 0.7, "weight_decay": 0.3},
        {"reduction": "sum"},
        {"optimizer": "adam"},
        {"optimizer": "adam", "betas": [0.5, 0.9], "eps": 0.1, "weight_decay": 0.1, "clip_norm": 0.2, "prox": 0.3},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
@pytest.mark.parametrize("length", [{"epochs": 2}, {"steps": 5}], ids=["epochs", "steps"])
@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_does_what_its_options_say(
    name: str, length: dict[str, int], options: dict[str, Any], scale: float
) -> None:
    data, net = dataset((9,)), seeded(lambda: nn.Linear(9, CLASSES))
    clients = federation(data)
    local = Local(batch_size=8, lr=0.1, **length, **options)
    start = np.hstack([net.weight.detach().numpy(), net.bias.detach().numpy()[:, None]]).astype(np.float64)
    plan = Plan(SEED, ROUND, plan_of().tasks, scale)
    trained = engine(name, nn.Sequential(net), clients, local).train(flatten(net), plan)
    for client, update in enumerate(trained.updates.double().numpy()):
        index = clients.shard(client).index.numpy()
        images, labels = data.train_images.numpy().astype(np.float64)[index], data.train_labels.numpy()[index]
        params, velocity, square = start.copy(), np.zeros_like(start), np.zeros_like(start)
        rng, made = Stream(SEED, "batches", ROUND, client).numpy(), 0
        while made < (local.steps or 2 * int(np.ceil(len(index) / 8))):
            order = rng.permutation(len(index))
            for at in range(0, len(index), 8):
                if made == local.steps:
                    break
                chosen = order[at : at + 8]
                samples = np.hstack([images[chosen], np.ones((len(chosen), 1))])
                scores = np.exp(samples @ params.T)
                error = scores / scores.sum(axis=1, keepdims=True) - np.eye(CLASSES)[labels[chosen]]
                gradient = error.T @ samples / (len(chosen) if local.reduction == "mean" else 1)
                gradient += local.prox * (params - start)
                if local.clip_norm:
                    gradient *= min(1, local.clip_norm / np.linalg.norm(gradient))
                gradient += local.weight_decay * params
                made += 1
                if local.optimizer == "adam":
                    beta, gamma = local.betas
                    velocity = beta * velocity + (1 - beta) * gradient
                    square = gamma * square + (1 - gamma) * gradient**2
                    unbiased = velocity / (1 - beta**made), square / (1 - gamma**made)
                    params = params - scale * 0.1 * unbiased[0] / (np.sqrt(unbiased[1]) + local.eps)
                else:
                    velocity = local.momentum * velocity + gradient
                    params = params - scale * 0.1 * velocity
        moved = params - start
        expected = np.concatenate([moved[:, :-1].ravel(), moved[:, -1]])
        # Adam turns float32's error of a gradient near 0 into one of a step
        np.testing.assert_allclose(update, expected, atol=2e-3 if local.eps < 0.1 and square.any() else 2e-6)


@pytest.mark.parametrize("samples", [1, 12, 13, 14, 40])
@pytest.mark.parametrize("batch_size", [1, 13, 100])
@pytest.mark.parametrize("length", [{"epochs": 3}, {"steps": 4}])
def test_batches_pass_over_the_shard_in_a_new_order_each_epoch(
    samples: int, batch_size: int, length: dict[str, int]
) -> None:
    local = Local(batch_size=batch_size, **length)
    made = [batch.tolist() for batch in batches(Stream(1, "batches"), samples, local)]
    an_epoch = -(-samples // batch_size)
    assert len(made) == local.step_count(samples) == (local.steps or 3 * an_epoch)
    epochs = [made[i : i + an_epoch] for i in range(0, len(made), an_epoch)]
    orders = [[place for batch in epoch for place in batch] for epoch in epochs]
    for order in orders[: len(made) // an_epoch]:
        assert sorted(order) == list(range(samples))
    assert all(len(batch) == batch_size for epoch in epochs for batch in epoch[: an_epoch - 1])
    if samples == 40:
        assert orders[0] != sorted(orders[0])
        assert len({tuple(order) for order in orders}) == len(orders)


# Batched is right


NETS = {
    "logistic": mlp(16, CLASSES),
    "logistic-no-bias": mlp(16, CLASSES, bias=False),
    "one-hidden": mlp(16, 9, CLASSES),
    "two-hidden": mlp(16, 11, 5, CLASSES),
    "two-hidden-no-bias": mlp(16, 11, 5, CLASSES, bias=False),
    "mixed": lambda: nn.Sequential(  # no Flatten needed, no ReLU between, one bias missing
        nn.Flatten(), nn.Linear(16, 6), nn.Linear(6, 7, bias=False), nn.ReLU(), nn.Linear(7, CLASSES)
    ),
}
LOCALS = {
    "one-sample-batches": {"batch_size": 1},
    "smaller-last-batch": {"batch_size": 13, "epochs": 2},
    "batch-of-32": {"batch_size": 32},
    "batch-beyond-every-shard": {"batch_size": 100, "epochs": 2},
    "steps": {"batch_size": 13, "steps": 7},
    "one-step": {"batch_size": 5, "steps": 1},
    "momentum": {"batch_size": 13, "momentum": 0.9},
    "weight-decay": {"batch_size": 13, "weight_decay": 0.5},
    "both": {"batch_size": 13, "epochs": 2, "momentum": 0.9, "weight_decay": 0.5},
    "prox": {"batch_size": 13, "epochs": 2, "prox": 0.5},
    "prox-and-both": {"batch_size": 13, "epochs": 2, "prox": 0.5, "momentum": 0.9, "weight_decay": 0.5},
    "clipped": {"batch_size": 13, "epochs": 2, "clip_norm": 0.2},
    "clipped-and-all": {"batch_size": 13, "clip_norm": 0.2, "prox": 0.5, "momentum": 0.9, "weight_decay": 0.5},
    "adam": {"batch_size": 13, "optimizer": "adam", "eps": 0.1, "weight_decay": 0.1},
    "sum": {"batch_size": 13, "reduction": "sum"},
}


@pytest.mark.parametrize("net_name", NETS)
@pytest.mark.parametrize("local_name", LOCALS)
def test_batched_and_sequential_are_equal_within_rounding(net_name: str, local_name: str) -> None:
    clients, net, local = federation(dataset()), seeded(NETS[net_name]), Local(lr=0.02, **LOCALS[local_name])
    params, plan = flatten(net), plan_of()
    exact = reference(net, clients, local, plan)
    allowed = rounding(params, exact, clients, local)
    assert (allowed < 1e-3 * exact.norm(dim=1)).all()  # so that a wrong step would be seen
    for name, options in (("sequential", {}), ("batched", {"stack": 3})):  # 5 clients do not fill stacks of 3
        trained = engine(name, net, clients, local, **options).train(params, plan)
        assert trained.updates.dtype == torch.float32
        assert trained.events == ()
        assert ((trained.updates - exact).norm(dim=1) <= allowed).all(), name
    assert torch.equal(params, flatten(seeded(NETS[net_name])))


def test_the_shards_these_tests_train_on_are_ragged() -> None:
    sizes = sorted(len(federation(dataset()).shard(i)) for i in range(CLIENTS))
    assert sizes[0] < 5
    assert sizes[-1] > 32
    assert all(size % 13 for size in sizes[:-1])


def test_batched_trains_on_even_shards_and_on_tables() -> None:
    clients, net, local = federation(dataset((16,)), "iid"), seeded(NETS["one-hidden"]), Local(batch_size=13)
    exact = reference(net, clients, local, plan_of())
    trained = engine("batched", net, clients, local).train(flatten(net), plan_of())
    assert ((trained.updates - exact).norm(dim=1) <= rounding(flatten(net), exact, clients, local)).all()


PICTURE = (2, 9, 8)


def drops(p: float, channels: bool = False) -> nn.Module:
    return with_streams((nn.Dropout2d if channels else nn.Dropout)(p))


def registered(name: str, shape: tuple[int, ...], **options: Any) -> Callable[[], nn.Module]:
    return lambda: with_streams(find("model", name).function(shape, CLASSES, **options))


LAYERED: dict[str, Callable[[], nn.Module]] = {
    "cnn": registered("cnn", PICTURE, channels=[3, 5], hidden=6),
    "cnn-unpadded": registered("cnn", PICTURE, channels=[3], hidden=6, padding=0),
    "cnn-dropout": registered("cnn_dropout", PICTURE),
    "tanh": lambda: nn.Sequential(nn.Flatten(), nn.Linear(144, 5), nn.Tanh(), nn.ReLU(), nn.Linear(5, CLASSES)),
    "gelu": lambda: nn.Sequential(nn.Flatten(), nn.Linear(144, 5), nn.GELU("tanh"), nn.Linear(5, CLASSES)),
    "ends-in-relu": lambda: nn.Sequential(nn.Flatten(), nn.Linear(144, CLASSES), nn.ReLU()),
    "nested": lambda: nn.Sequential(
        nn.Flatten(), nn.Sequential(nn.Linear(144, 5), nn.ReLU(), nn.ReLU()), nn.Identity(), nn.Linear(5, CLASSES)
    ),
    "row-norms": lambda: nn.Sequential(
        nn.Flatten(),
        nn.LayerNorm(144),
        nn.Linear(144, 8),
        nn.GroupNorm(2, 8),
        nn.ReLU(),
        drops(0.3),
        nn.LayerNorm(8, bias=False),
        nn.LayerNorm(8, elementwise_affine=False),
        nn.Linear(8, CLASSES),
    ),
    "picture-norm": lambda: nn.Sequential(
        nn.Conv2d(2, 6, 3, stride=2, bias=False),
        nn.GroupNorm(3, 6),
        nn.GELU(),
        nn.Conv2d(6, 4, 3, padding=2, dilation=2, groups=2),
        nn.GroupNorm(1, 4, affine=False),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, CLASSES),
    ),
    "pools": lambda: nn.Sequential(
        drops(0.2, channels=True),
        nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True, count_include_pad=False),
        nn.Conv2d(2, 3, 1),
        nn.ReLU(),
        nn.MaxPool2d(2, stride=1),
        nn.AdaptiveAvgPool2d((2, 3)),
        drops(1.0, channels=True),
        drops(0.0),
        nn.Flatten(),
        drops(0.4),
        nn.Linear(18, 1),
        nn.Linear(1, CLASSES),
    ),
    "norm-first": lambda: nn.Sequential(
        nn.ReLU(), nn.GroupNorm(2, 2), nn.MaxPool2d((3, 2), padding=1), nn.Flatten(), nn.Linear(30, CLASSES)
    ),
}


class OneDevice(TorchDispatchMode):
    """Fails where an operation, unless it copies or looks up, is given tensors that lie on several devices."""

    def __torch_dispatch__(self, function, types, given=(), named=None):  # type: ignore[no-untyped-def]
        devices = {leaf.device for leaf in tree_leaves((given, named)) if isinstance(leaf, Tensor) and leaf.dim()}
        name = function.overloadpacket.__name__
        assert len(devices) < 2 or name in ("copy_", "index"), f"{name} is given tensors on {devices}"
        return function(*given, **(named or {}))


@pytest.mark.parametrize("net_name", [*LAYERED, "embedding"])
@pytest.mark.parametrize("local_name", ["one-step", "clipped-and-all", "adam"])
def test_everything_of_a_step_lies_on_the_device(net_name: str, local_name: str) -> None:
    """Played with tensors that have a device of their own and no values, for there may be no other device here."""
    tokens = net_name == "embedding"
    clients = federation(text() if tokens else dataset(PICTURE))
    local = Local(lr=0.02, **LOCALS[local_name])
    shards = sorted((clients.shard(i) for i in (1, 4)), key=len, reverse=True)
    streams = [Stream(0, "batches", 1, i) for i in (1, 4)]
    here = batches_of(shards, streams, local, 16, None if tokens else Augment(crop=1, flip=True))
    there = here.held_by(Place(clients, "meta"))
    drawn = [stream.of("dropout").torch() for stream in streams]
    model = (embedded() if tokens else LAYERED[net_name]()).to("meta")
    if not tokens:
        model.insert(0, Normalise([0.1, 0.2], [0.5, 0.5], PICTURE).to("meta"))
    net = net_of(model, (5,) if tokens else PICTURE, tokens, 3)
    assert net is not None
    params = flatten(model)
    moved = params.new_empty(2, len(params) + -len(params) % 16)[:, : len(params)]
    assert params.is_meta
    assert moved.is_meta
    for drill in (None, Drill(mask=torch.ones(len(params), dtype=torch.bool))):
        taken = descent(moved, params, local, [drill, drill])
        with OneDevice():
            _train_stack(net, there, local, taken, drawn)
            with pytest.raises(AssertionError, match="is given tensors on"):
                _train_stack(net, here, local, taken, drawn)


@pytest.mark.parametrize("net_name", ["cnn-dropout", "pools"])
def test_a_client_alone_is_trained_on_the_device_too(net_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *given, **named: nullcontext())  # it does not know such a device
    shard, model = federation(dataset(PICTURE)).shard(1), LAYERED[net_name]().to("meta")
    there = Shard(shard.images.to("meta"), shard.labels.to("meta"), shard.index)
    local, stream = Local(prox=0.1, clip_norm=1.0), Stream(0, "batches", 1, 1)
    with OneDevice():
        assert train_client(model, flatten(model), there, stream, local, Augment(crop=1)).is_meta


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"engine\.device is 'cuda', and torch finds no such device here"):
        engine("batched", seeded(NETS["logistic"]), federation(dataset()), Local(), device="cuda")


@pytest.mark.parametrize("net_name", LAYERED)
@pytest.mark.parametrize("local_name", ["smaller-last-batch", "one-step", "both", "clipped-and-all", "adam", "sum"])
def test_every_layer_in_a_stack_does_what_torch_does(net_name: str, local_name: str) -> None:
    clients, net = federation(dataset(PICTURE)), seeded(LAYERED[net_name])
    local = Local(lr=0.02, **LOCALS[local_name])
    params, plan = flatten(net), plan_of()
    exact = reference(net, clients, local, plan)
    allowed = rounding(params, exact, clients, local)
    assert (allowed < 1e-2 * exact.norm(dim=1)).all()
    trained = engine("batched", net, clients, local, stack=3).train(params, plan)
    assert trained.events == ()
    assert ((trained.updates - exact).norm(dim=1) <= allowed).all()


def text(samples: int = 140) -> Dataset:
    tokens = torch.randint(7, (samples, 5), generator=drawn(5))
    return Dataset(tokens, tokens[:, 0] % CLASSES, tokens[:9], tokens[:9, 0] % CLASSES, CLASSES, vocabulary=7)


@pytest.mark.parametrize("net_name", [*NETS, *LAYERED])
@pytest.mark.parametrize(
    "change", [{}, {"momentum": 0.9, "prox": 0.1}, {"steps": 1}, {"optimizer": "adam", "eps": 0.1}]
)
def test_products_in_bfloat16_are_off_by_its_rounding_in_either_engine(net_name: str, change: dict[str, Any]) -> None:
    clients = federation(dataset(PICTURE, 140) if net_name in LAYERED else dataset())
    net, local = (
        seeded((LAYERED if net_name in LAYERED else NETS)[net_name]),
        Local(batch_size=13, lr=0.02, **change),
    )
    params, half = flatten(net), local.model_copy(update={"precision": "bf16"})
    exact = reference(net, clients, local, plan_of())
    for name, options in (("sequential", {}), ("batched", {"stack": 3})):
        updates = engine(name, net, clients, half, **options).train(params, plan_of()).updates
        off = (updates - exact).norm() / exact.norm()
        assert 1e-5 < off < 16 * torch.finfo(torch.bfloat16).eps, name


def embedded(padding: int | None = None) -> nn.Module:
    return nn.Sequential(nn.Embedding(7, 4, padding_idx=padding), nn.Tanh(), nn.Flatten(), nn.Linear(20, CLASSES))


@pytest.mark.parametrize("padding", [None, 2])
def test_an_embedding_in_a_stack_does_what_torch_does(padding: int | None) -> None:
    clients, net, local = federation(text()), seeded(lambda: embedded(padding)), Local(batch_size=7, epochs=2)
    params = flatten(net)
    exact = reference(net, clients, local, plan_of())
    trained = engine("batched", net, clients, local, stack=3).train(params, plan_of())
    assert trained.events == ()
    assert ((trained.updates - exact).norm(dim=1) <= rounding(params, exact, clients, local)).all()
    alone = engine("batched", net, clients, local, stack=1).train(params, plan_of())
    assert torch.equal(alone.updates, trained.updates)


# Batched has the same bits whatever happens around a client


@pytest.mark.parametrize("net_name", LAYERED)
@pytest.mark.parametrize("stack", [pytest.param(2, marks=pytest.mark.exhaustive), 3])
@pytest.mark.parametrize(
    "local",
    [
        Local(batch_size=7, momentum=0.5),
        Local(batch_size=13, steps=1),
        Local(batch_size=16),
        Local(batch_size=7, momentum=0.5, precision="bf16"),
    ],
    ids=["7", "1-of-13", "16", "7-bf16"],
)
def test_bits_in_stacks_of_pictures_depend_on_no_neighbour(net_name: str, stack: int, local: Local) -> None:
    clients, net = federation(dataset(PICTURE, 140)), seeded(LAYERED[net_name])
    params = flatten(net)

    def train(*ids: int) -> Tensor:
        return engine("batched", net, clients, local, stack=stack).train(params, plan_of(*ids)).updates

    alone = torch.cat([train(client) for client in range(CLIENTS)])
    for workers in (1, 2, 3):
        with parallel.using(workers):
            assert torch.equal(train(), alone), workers
    assert torch.equal(train(4, 2, 3), alone[[4, 2, 3]])
    assert torch.equal(train(1, 0, 4, 3), alone[[1, 0, 4, 3]])


@pytest.mark.parametrize("widths", [(64, CLASSES), (64, 33, CLASSES), (17, 50, 7, CLASSES)])
@pytest.mark.parametrize(
    "local",
    [
        Local(batch_size=32),
        Local(batch_size=7, epochs=2, momentum=0.9),
        Local(batch_size=13, weight_decay=0.1, prox=0.1),
        Local(batch_size=7, optimizer="adam", clip_norm=0.3),
        Local(batch_size=7, steps=1, weight_decay=0.1),
        Local(batch_size=13, precision="bf16"),
        Local(batch_size=7, steps=1, precision="bf16"),
    ],
    ids=["32", "7-momentum", "13-decay-prox", "7-adam-clipped", "one-step", "bf16", "one-step-bf16"],
)
def test_a_clients_bits_do_not_depend_on_stack_workers_or_stack_mates(widths: tuple[int, ...], local: Local) -> None:
    clients, net = federation(dataset((widths[0],), 140)), seeded(mlp(*widths))
    params = flatten(net)

    def train(stack: int | None, plan: Plan) -> Tensor:
        options = {} if stack is None else {"stack": stack}
        return engine("batched", net, clients, local, **options).train(params, plan).updates

    alone = torch.cat([train(1, plan_of(client)) for client in range(CLIENTS)])
    for workers, stack in ((1, 2), (1, CLIENTS), (2, 1), (2, 3), (2, None), (3, 2), (3, CLIENTS)):
        with parallel.using(workers):
            assert torch.equal(train(stack, plan_of()), alone), (workers, stack)
    assert torch.equal(train(2, plan_of(4, 2, 3)), alone[[4, 2, 3]])
    assert torch.equal(train(3, plan_of(1, 0, 4, 3)), alone[[1, 0, 4, 3]])


@pytest.mark.parametrize("stack", [1, 2, CLIENTS])
@pytest.mark.parametrize("client", range(CLIENTS))
def test_a_client_with_huge_samples_changes_nobody_else(client: int, stack: int) -> None:
    data = dataset((17,), 140)
    clients, net, local = federation(data), seeded(mlp(17, 8, CLASSES)), Local(batch_size=7, lr=0.1)
    huge = data.train_images.clone()
    huge[clients.shard(client).index] = 3e38
    spoilt = federation(Dataset(huge, data.train_labels, data.test_images, data.test_labels, CLASSES))
    calm = engine("batched", net, clients, local, stack=stack).train(flatten(net), plan_of()).updates
    wild = engine("batched", net, spoilt, local, stack=stack).train(flatten(net), plan_of()).updates
    others = torch.arange(CLIENTS) != client
    assert torch.equal(wild[others], calm[others])
    assert not wild[client].isfinite().all()


@data_attack(aim=lambda images, labels, n_classes: (images, labels), goal="availability")
def no_numbers(images, labels):  # type: ignore[no-untyped-def]
    """Make every sample NaN."""
    return images * torch.nan, labels


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("client", range(CLIENTS))
def test_a_client_that_poisons_its_samples_with_nan_changes_nobody_else(client: int, name: str) -> None:
    data = dataset((17,), 140)
    entry = find("partition", "dirichlet")
    split = (entry, entry.validate({"alpha": 0.4}))
    clients = Federation(data, split, CLIENTS, SEED, Poison((find("data_attack", no_numbers), {}), data, SEED))
    net, local = seeded(mlp(17, 8, CLASSES)), Local(batch_size=7, lr=0.1)
    params, tasks = flatten(net), [Task(i, poisoned=i == client) for i in range(CLIENTS)]
    calm = engine(name, net, clients, local).train(params, plan_of()).updates
    wild = engine(name, net, clients, local).train(params, Plan(SEED, ROUND, tuple(tasks))).updates
    others = torch.arange(CLIENTS) != client
    assert torch.equal(wild[others], calm[others])
    assert wild[client].isnan().all()


def augmented(data: Dataset, augment: Augment | None) -> Federation:
    return Federation(data, PIECES, CLIENTS, SEED, augment=augment)


NORMALISED = {
    "stacked": lambda: nn.Sequential(Normalise([0.3], [0.5], (1, 4, 4)), *mlp(16, 9, CLASSES)()),
    "one-by-one": lambda: nn.Sequential(
        Normalise([0.3], [0.5], (1, 4, 4)),
        nn.Conv2d(1, 2, 3, padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(32, CLASSES),
    ),
}


@pytest.mark.parametrize("net_name", NORMALISED)
@pytest.mark.parametrize("augment", [None, Augment(crop=1, flip=True)], ids=["as-they-are", "augmented"])
def test_engines_agree_on_normalised_and_augmented_samples(net_name: str, augment: Augment | None) -> None:
    net, local = seeded(NORMALISED[net_name]), Local(batch_size=7, epochs=2, lr=0.02)
    clients = augmented(dataset(samples=85), augment)
    params = flatten(net)
    exact = reference(net, clients, local, plan_of())
    for name in ENGINES:
        got = engine(name, net, clients, local).train(params, plan_of()).updates
        assert ((got - exact).norm(dim=1) <= rounding(params, exact, clients, local)).all(), name
        others = [augmented(dataset(samples=85), other) for other in (Augment(crop=1), Augment(flip=True))]
        for other in others:
            differs = engine(name, net, other, local).train(params, plan_of()).updates
            assert not torch.allclose(differs, got, atol=1e-5)


def test_augmented_batches_have_the_same_bits_in_any_stack() -> None:
    net, local = seeded(NORMALISED["stacked"]), Local(batch_size=7, epochs=2)
    clients, params = augmented(dataset(samples=85), Augment(crop=2, flip=True)), flatten(net)
    alone = [engine("batched", net, clients, local, stack=1).train(params, plan_of(i)).updates[0] for i in range(5)]
    assert torch.equal(
        engine("batched", net, clients, local, stack=3).train(params, plan_of()).updates, torch.stack(alone)
    )


def stamped(name: str, augment: Augment | None, stamps_last: bool, **options: Any) -> Federation:
    data, entry = dataset((2, 6, 6), samples=85), find("data_attack", name)
    options |= {"dba": {"size": 2, "gap": 1}, "sig": {"f": 2.0}}.get(name, {})
    poison = Poison((entry, entry.validate(options)), data, SEED, stamps_last=stamps_last)
    return Federation(data, PIECES, CLIENTS, SEED, poison, augment=augment)


SMALL = lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 6), nn.Tanh(), nn.Linear(6, CLASSES))  # noqa: E731


@pytest.mark.parametrize("attack", ["badnets", "wanet"])
def test_engines_agree_on_triggers_that_are_set_after_augmentation(attack: str) -> None:
    net, local, options = seeded(SMALL), Local(batch_size=7, epochs=2, lr=0.02), {"share": 0.4, "target": 0}
    clients = stamped(attack, Augment(crop=1, flip=True), True, **options)
    before = stamped(attack, Augment(crop=1, flip=True), False, **options)
    params, plan = flatten(net), Plan(SEED, ROUND, tuple(Task(i, i in (1, 3)) for i in range(CLIENTS)))
    exact = reference(net, clients, local, plan)
    for name in ENGINES:
        got = engine(name, net, clients, local).train(params, plan).updates
        assert ((got - exact).norm(dim=1) <= rounding(params, exact, clients, local)).all(), name
        differs = (engine(name, net, before, local).train(params, plan).updates - got).abs().amax(dim=1) > 1e-5
        assert differs.tolist() == [i in (1, 3) for i in range(CLIENTS)]


@pytest.mark.parametrize("attack", ["blended", "sig", "wanet"])
def test_triggers_after_augmentation_have_the_same_bits_in_any_stack(attack: str) -> None:
    net, local = seeded(SMALL), Local(batch_size=7, epochs=2)
    clients, params = stamped(attack, Augment(crop=2, flip=True), True, share=0.5), flatten(net)
    plan = plan_of(poisoned=True)
    alone = [
        engine("batched", net, clients, local, stack=1).train(params, replace(plan, tasks=(task,))).updates[0]
        for task in plan.tasks
    ]
    for name, options in (("batched", {"stack": 3}), ("ray", {}), ("flower", {})):
        got = engine(name, net, clients, local, **options).train(params, plan).updates
        assert torch.equal(got, torch.stack(alone)), name


@pytest.mark.parametrize("name", ["sequential", "batched"])
@pytest.mark.parametrize("attack", ["badnets", "blended", "dba", "sig", "wanet"])
def test_without_augmentation_it_does_not_matter_when_a_trigger_is_set(name: str, attack: str) -> None:
    net, params = seeded(SMALL), flatten(seeded(SMALL))
    made = [
        engine(name, net, stamped(attack, augment, last, share=0.5), Local(batch_size=7)).train(
            params, plan_of(2, poisoned=True)
        )
        for augment, last in ((None, False), (Augment(), True))
    ]
    assert torch.equal(made[0].updates, made[1].updates)


# What every engine is held to


@pytest.mark.parametrize("name", ENGINES)
def test_training_has_no_memory_and_touches_nothing(name: str) -> None:
    data = dataset()
    clients, net = federation(data), seeded(NETS["one-hidden"])
    engine_, params, images = engine(name, net, clients, Local()), flatten(net), data.train_images.clone()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = engine_.train(params, plan_of()).updates.clone()
    load(net, torch.ones_like(params))  # whatever the net was left with
    engine_.train(torch.zeros_like(params), plan_of(number=3))
    assert torch.equal(engine_.train(params, plan_of()).updates, first)
    assert torch.equal(params, flatten(seeded(NETS["one-hidden"])))
    assert torch.equal(data.train_images, images)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ENGINES)
def test_batches_are_drawn_anew_for_each_round_seed_and_client(name: str) -> None:
    data = dataset()
    images, labels = data.train_images.repeat(2, 1, 1, 1), data.train_labels.repeat(2)
    twins = Dataset(images, labels, data.test_images, data.test_labels, CLASSES)
    twice, once = Federation(twins, PIECES, 2, SEED), Federation(data, PIECES, 1, SEED)
    net, local = seeded(NETS["logistic"]), Local(batch_size=5)
    params = flatten(net)
    base = engine(name, net, twice, local).train(params, plan_of(0, 1)).updates
    assert not torch.equal(base[0], base[1])
    assert torch.equal(engine(name, net, once, local).train(params, plan_of(0)).updates[0], base[0])
    for seed, number in ((SEED, ROUND + 1), (SEED + 1, ROUND)):
        other = engine(name, net, twice, local).train(params, Plan(seed, number, (Task(0),))).updates[0]
        assert not torch.equal(other, base[0])


@pytest.mark.parametrize("name", ENGINES)
def test_a_poisoned_task_trains_on_the_poisoned_shard(name: str) -> None:
    flip, data = find("data_attack", "label_flip"), dataset()
    poison = Poison((flip, flip.validate({"target": "C-1-y"})), data, SEED)
    attacked = Federation(data, PIECES, CLIENTS, SEED, poison)
    mirrored = CLASSES - 1 - data.train_labels
    flipped = Federation(
        Dataset(data.train_images, mirrored, data.test_images, data.test_labels, CLASSES), PIECES, CLIENTS, SEED
    )
    net, local = seeded(NETS["one-hidden"]), Local(batch_size=13)
    params, options = flatten(net), {"stack": 2} if name == "batched" else {}

    def train(clients: Federation, *tasks: Task) -> Tensor:
        return engine(name, net, clients, local, **options).train(params, Plan(SEED, ROUND, tasks)).updates

    mixed = train(attacked, Task(0), Task(0, True), Task(4, True), Task(4), Task(3))
    clean, poisoned = train(attacked, Task(0), Task(4), Task(3)), train(flipped, Task(0), Task(4))
    assert torch.equal(mixed, torch.stack([clean[0], poisoned[0], poisoned[1], clean[1], clean[2]]))
    assert not torch.equal(clean[0], poisoned[0])
    assert torch.equal(train(flipped, Task(0, True)), train(flipped, Task(0)))  # nobody poisons there


class Largest(TorchDispatchMode):
    """Notes how many values the largest of the tensors has that are made, views apart."""

    values = 0

    def __torch_dispatch__(self, function, types, given=(), named=None):  # type: ignore[no-untyped-def]
        result = function(*given, **(named or {}))
        there, made = ([leaf for leaf in tree_leaves(t) if isinstance(leaf, Tensor)] for t in ((given, named), result))
        known = {leaf.untyped_storage().data_ptr() for leaf in there}
        sizes = [t.numel() for t in made if t.is_floating_point() and t.untyped_storage().data_ptr() not in known]
        self.values = max([self.values, *sizes])
        return result


@pytest.mark.parametrize("augment", [None, Augment(crop=1, flip=True)], ids=["as-they-are", "augmented"])
@pytest.mark.parametrize("last", [False, True], ids=["rows", "channels-last"])
def test_a_poisoned_client_costs_no_copy_of_samples_that_are_not_drawn(augment: Augment | None, last: bool) -> None:
    data, flip = dataset((2, 4, 4), samples=2000), find("data_attack", "label_flip")
    if last:
        images = data.train_images.contiguous(memory_format=torch.channels_last)
        data = Dataset(images, data.train_labels, data.test_images, data.test_labels, CLASSES)
    poison = Poison((flip, flip.validate({})), data, SEED)
    attacked, net, local = Federation(data, PIECES, CLIENTS, SEED, poison, augment=augment), seeded(mlp(32, 3)), Local()
    trained = engine("batched", net, attacked, local.model_copy(update={"steps": 2, "batch_size": 8}), stack=CLIENTS)
    params, plan = flatten(net), Plan(SEED, ROUND, tuple(Task(i, i in (1, 3)) for i in range(CLIENTS)))
    with parallel.using(1):  # all in one stack, in this thread
        trained.train(params, plan)  # poisons
        with Largest() as largest:
            trained.train(params, plan)
    drawn_and_border = CLIENTS * 16 * 2 * (4 + 2) ** 2
    assert 0 < largest.values <= drawn_and_border < 2 * 400 * 32


def test_work_is_shared_out_without_crafting_poison() -> None:
    def poison(client: int, index: Tensor) -> tuple[Tensor, Tensor]:
        raise AssertionError(f"client {client}'s poison was crafted")

    attacked = Federation(dataset(), PIECES, CLIENTS, SEED, poison)
    trained = engine("batched", seeded(NETS["logistic"]), attacked, Local())
    shares = trained.shares(Plan(SEED, 1, (Task(0, True), Task(1))), 2)  # type: ignore[attr-defined]
    assert sorted(place for share in shares for place in share) == [0, 1]


@pytest.mark.parametrize("name", ENGINES)
def test_a_plan_without_tasks_gives_no_updates(name: str) -> None:
    net = seeded(NETS["logistic"])
    trained = engine(name, net, federation(dataset()), Local()).train(flatten(net), Plan(SEED, 1, ()))
    assert trained.updates.shape == (0, len(flatten(net)))


# Nets that cannot be stacked


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(64, 64), nn.Linear(64, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        return self.outer(flat + torch.tanh(self.inner(flat)))


class Doubled(nn.Linear):
    def forward(self, samples: Tensor) -> Tensor:
        return 2 * super().forward(samples)


def frozen() -> nn.Module:
    net = mlp(64, 5, CLASSES)()
    net[1].weight.requires_grad_(False)
    return net


def tied(part: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        net = mlp(64, 8, 8, 8, CLASSES)()
        setattr(net[5], part, getattr(net[3], part))
        return net

    return make


def hooked() -> nn.Module:
    net = mlp(64, CLASSES)()
    net[1].register_forward_hook(lambda module, inputs, output: 2 * output)
    return net


def hooked_inside() -> nn.Module:
    inner = nn.Sequential(nn.Linear(64, 5), nn.ReLU())
    inner.register_forward_hook(lambda module, inputs, output: 2 * output)
    return nn.Sequential(nn.Flatten(), inner, nn.Linear(5, CLASSES))


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "residual": Residual,
    "unknown-layer": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ELU(), nn.Linear(5, CLASSES)),
    "linear-on-a-picture": lambda: nn.Sequential(nn.Linear(8, 8), nn.Flatten(), nn.Linear(64, CLASSES)),
    "reflected": lambda: nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"), nn.Flatten(), nn.Linear(128, CLASSES)
    ),
    "hooked-inside": lambda: hooked_inside(),
    "subclass": lambda: nn.Sequential(nn.Flatten(), Doubled(64, CLASSES)),
    "frozen": frozen,
    "tied-weights": tied("weight"),
    "tied-biases": tied("bias"),
    "hooked": hooked,
}


@pytest.mark.parametrize("net_name", OTHERS)
def test_a_net_that_cannot_be_stacked_is_trained_as_the_oracle_does(net_name: str) -> None:
    clients, net, local = federation(dataset((1, 8, 8))), seeded(OTHERS[net_name]), Local(batch_size=13, momentum=0.5)
    params = flatten(net)
    with parallel.using(1):
        expected = engine("sequential", net, clients, local).train(params, plan_of())
    for workers in (1, 2, 3):
        with parallel.using(workers):
            trained = engine("batched", net, clients, local).train(params, plan_of())
        assert torch.equal(trained.updates, expected.updates)


def test_a_net_that_cannot_be_stacked_is_mentioned_once() -> None:
    net = seeded(OTHERS["residual"])
    batched = engine("batched", net, federation(dataset((1, 8, 8))), Local(batch_size=13))
    events = [batched.train(flatten(net), plan_of(number=number)).events for number in (1, 2, 3)]
    assert [len(said) for said in events] == [1, 0, 0]
    assert events[0][0].what == "engine"
    assert "one by one" in events[0][0].detail
