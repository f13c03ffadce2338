"""What local training means. This is the plain version that every engine is held against."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Annotated, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from fedpoison.clients.criterion import Criterion
from fedpoison.clients.drills import Held, within
from fedpoison.clients.federation import Federation, Shard
from fedpoison.common import former
from fedpoison.common.seeding import Stream
from fedpoison.contract.component import a
from fedpoison.data.augment import Augment
from fedpoison.models.dropout import set_stream
from fedpoison.models.vector import flatten, load, travelling
from fedpoison.types import (
    LARGEST,
    Count,
    Drill,
    Event,
    NotNegative,
    Params,
    Positive,
    Repeats,
    Update,
    Updates,
)


class Rates(BaseModel):
    """How a learning rate changes from round to round; every factor applies that is given.

    `warmup`: rounds in which it rises linearly to its full value; `milestones`: rounds after which it is multiplied
    by `factor`; `cosine`: whether it falls to 0 along half a cosine, from the end of the warm-up to the last round.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    warmup: int = Field(0, ge=0, le=1_000_000)
    milestones: list[Annotated[int, Field(ge=0, le=1_000_000)]] = Field([], max_length=100)
    factor: float = Field(0.1, gt=0, le=1000)
    cosine: bool = False

    def at(self, round: int, rounds: int) -> float:
        """The factor in this round, of so many."""
        scale = self.factor ** sum(round > milestone for milestone in self.milestones)
        if round <= self.warmup:
            return scale * round / (self.warmup + 1)
        if self.cosine:
            scale *= (1 + math.cos(math.pi * (round - self.warmup - 1) / (rounds - self.warmup))) / 2
        return scale


class Local(BaseModel):
    """Local training on the loss of minibatches, for epochs or for steps; one step a round is FedSGD.

    `optimizer`: "sgd" or "adam" (Kingma and Ba 2015, with `betas` and `eps`), with weight decay as torch has it for
    both: added to the gradient. `momentum` of SGD as in torch: v ← momentum · v + gradient. Memory is fresh each
    round. `prox`: μ of the proximal term μ/2 · ‖w − global‖² (Li et al. 2020, FedProx). `clip_norm`: the largest
    norm of a step's whole gradient, the proximal term's included. `loss`: a registered one's name, or a table with its
    options; `reduction`: the "mean" or the "sum" of it over a minibatch.
    `precision`: "bf16" takes the products of layers in bfloat16, as torch's autocast does; weights stay float32.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    epochs: Repeats | None = None
    steps: Count | None = None
    batch_size: Count = 32
    lr: Positive = 0.05
    optimizer: Literal["sgd", "adam"] = "sgd"
    momentum: float = Field(0.0, ge=0, lt=1)
    betas: list[Annotated[float, Field(ge=0, lt=1)]] = Field([0.9, 0.999], min_length=2, max_length=2)
    eps: Positive = 1e-8
    weight_decay: NotNegative = 0.0
    prox: NotNegative = 0.0
    clip_norm: Positive | None = None
    loss: a("loss") = Field("cross_entropy", validate_default=True)
    reduction: Literal["mean", "sum"] = "mean"
    precision: Literal["fp32", "bf16"] = "fp32"
    rates: Rates = Rates()

    @model_validator(mode="before")
    @classmethod
    def _one_epoch_unless_said(cls, given: object) -> object:
        given = former.local(given) if isinstance(given, dict) else given
        if isinstance(given, dict) and given.get("epochs") is None and given.get("steps") is None:
            return {**given, "epochs": 1}
        return given

    @model_validator(mode="after")
    def _epochs_or_steps(self) -> "Local":
        if self.epochs and self.steps:
            raise ValueError(f"epochs = {self.epochs} and steps = {self.steps} are alternatives; give one")
        if self.momentum and self.optimizer == "adam":
            raise ValueError(f"momentum = {self.momentum} belongs to sgd; adam has betas")
        return self

    def scaled(self, lr_scale: float) -> "Local":
        """These settings with the learning rate times a factor."""
        return self if lr_scale == 1 else self.model_copy(update={"lr": min(self.lr * lr_scale, LARGEST)})

    def drilled(self, drill: Drill | None) -> "Local":
        """These settings with those of a drill; ValueError if it has others than there are."""
        if drill is None or not drill.local:
            return self
        table, given = self.model_dump(), dict(drill.local)
        if {"epochs", "steps"} & given.keys():
            del table["epochs"], table["steps"]
        return Local.model_validate({**table, **given})

    def optimizer_for(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Torch's optimizer with these settings."""
        if self.optimizer == "adam":
            beta1, beta2 = self.betas
            return torch.optim.Adam(
                parameters, lr=self.lr, betas=(beta1, beta2), eps=self.eps, weight_decay=self.weight_decay
            )
        return torch.optim.SGD(parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)

    def step_count(self, samples: int) -> int:
        """Minibatch steps that a client with this many samples makes."""
        return self.steps or (self.epochs or 1) * -(-samples // self.batch_size)


@dataclass(frozen=True)
class Task:
    """One client's training in a round, on its clean or on its poisoned shard.

    `drill`: an attacker's way of it. `kept`: the places in the shard of what an honest client keeps of it, if not all.
    """

    client: int
    poisoned: bool = False
    drill: Drill | None = None
    kept: Tensor | None = None

    @property
    def attacks(self) -> bool:
        """Whether it trains otherwise than an honest client on clean samples."""
        return self.poisoned or self.drill is not None

    def shard(self, federation: Federation) -> Shard:
        """What it trains on."""
        shard = federation.shard(self.client, self.poisoned)
        return shard if self.kept is None else shard.of(self.kept)


class ClientMomentum(BaseModel):
    """Momentum that each client keeps from round to round and sends instead of its update u.

    `form` "average": m ← β m + (1 − β) u, as Karimireddy et al. 2021 and El Mhamdi et al. 2021 have it;
    "accumulating": m ← β m + u, torch's own, whose steps grow by up to 1/(1 − β). m is 0 at first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    beta: float = Field(0.9, ge=0, lt=1)
    form: Literal["average", "accumulating"] = "average"

    def __call__(
        self, memory: Mapping[str, Tensor], tasks: Sequence[Task], updates: Updates, clients: int
    ) -> tuple[Updates, dict[str, Tensor]]:
        """What is sent for these updates [tasks, d], and what each of all the clients keeps for the next round.

        A client's momentum where it behaves and where its data are poisoned or it trains by a drill are two. An update
        that is not finite is sent as it is and not kept.
        """
        sent, memory, usable = updates.clone(), dict(memory), updates.isfinite().all(dim=1)
        for name, attacks in (("clean", False), ("poisoned", True)):
            rows = usable & torch.tensor([task.attacks == attacks for task in tasks], dtype=torch.bool)
            if not rows.any():
                continue
            ids = [task.client for task, row in zip(tasks, rows.tolist(), strict=True) if row]
            kept = memory[name].clone() if name in memory else updates.new_zeros(clients, updates.shape[1])
            share = 1 - self.beta if self.form == "average" else 1.0
            kept[ids] = self.beta * kept[ids] + share * updates[rows]
            sent[rows], memory[name] = kept[ids], kept
        return sent, memory


@dataclass(frozen=True)
class Plan:
    """What an engine is to do in a round; randomness is named by the seed, not carried.

    `lr_scale`: what the learning rate is multiplied by in this round.
    """

    seed: int
    round: int
    tasks: tuple[Task, ...]
    lr_scale: float = 1.0

    def settings(self, local: Local, task: Task) -> Local:
        """What a task's training is like in this round, where the honest train by `local`."""
        return local.scaled(self.lr_scale).drilled(task.drill)

    def batch_stream(self, task: Task) -> Stream:
        """The stream of a task's batch order."""
        return Stream(self.seed, "batches", self.round, task.client)


@dataclass(frozen=True)
class Trained:
    """Updates [tasks, d] in the plan's order, what happened, and the clients that were lost (their rows are NaN)."""

    updates: Updates
    events: tuple[Event, ...] = ()
    lost: tuple[int, ...] = ()


def untouched(federation: Federation, plan: Plan) -> tuple[Event, ...]:
    """An event for each client that trained on what an attack had left as it was."""
    attacked = dict.fromkeys(task.client for task in plan.tasks if task.poisoned)
    return tuple(Event("untouched", (client,)) for client in attacked if client in federation.untouched)


@runtime_checkable
class Engine(Protocol):
    """Trains the clients of a plan from the given global parameters."""

    def train(self, params: Params, plan: Plan) -> Trained:
        """Local training of every task."""
        ...


@dataclass(frozen=True)
class Recipe:
    """An experiment for other processes: `make(text)` builds an engine that trains its clients with the same bits."""

    text: str
    make: Callable[[str], Engine]


def batches(stream: Stream, samples: int, local: Local) -> Iterator[NDArray[np.int64]]:
    """The positions of each minibatch within a shard: shuffled anew each epoch, the last may be smaller."""
    rng, left = stream.numpy(), local.step_count(samples)
    while left:
        order = rng.permutation(samples)
        for start in range(0, samples, local.batch_size)[:left]:
            yield order[start : start + local.batch_size]
            left -= 1


def train_client(
    net: nn.Module,
    params: Params,
    shard: Shard,
    stream: Stream,
    local: Local,
    augment: Augment | None = None,
    drill: Drill | None = None,
) -> Update:
    """Train `net` from `params` on one shard and return local minus global parameters [d].

    `stream` is that of the batches; what else is drawn has streams of its own, for the same round and client. `local`
    has the drill's settings already; what the drill holds is held here.
    """
    load(net, params)
    net.train()
    set_stream(net, stream.of("dropout"))
    weights = travelling(net)
    start = [weight.detach().clone() for weight in weights]
    optimizer, half = local.optimizer_for(weights), local.precision == "bf16"
    order = list(batches(stream, len(shard), local))
    drawn = augment.draws(stream.of("augment"), [len(batch) for batch in order]) if augment else repeat(None)
    criterion = Criterion(local.loss.step)
    held = Held(net, params, drill) if drill and drill.holds else None
    for step, (batch, draws) in enumerate(zip(order, drawn, strict=False), 1):
        index = shard.index[torch.from_numpy(batch)]
        images = shard.images[index]
        if augment and draws is not None:
            images = augment(images, draws.to(images.device))
        shard.stamp(images, index)
        optimizer.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
            output = net(images)
        output = output.float() if half else output
        losses = criterion(output, shard.labels[index])
        (losses.mean() if local.reduction == "mean" else losses.sum()).backward()
        if held:
            held.mask_gradients()
        if local.prox:
            for weight, origin in zip(weights, start, strict=True):
                if weight.grad is not None:
                    weight.grad.add_(weight.detach() - origin, alpha=local.prox)
        if local.clip_norm:
            nn.utils.clip_grad_norm_(weights, local.clip_norm)
        optimizer.step()
        if held:
            held.hold(step)
    update = flatten(net) - params
    return within(update, drill.radius) if drill and drill.radius else update
