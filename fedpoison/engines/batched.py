"""Several clients at once: their nets as stacks of layers, stacks over threads.

A stack of K clients does each layer as one batched operation, with the backward pass written out and, where it can
be, the SGD step folded into the product that forms the gradient. A slice of a batched product has the same bits
whatever it is stacked with, if all slots are aligned alike; a grouped convolution has if the number of groups is
always the same, so stacks with convolutions are filled up with empty slots. Short batches are padded to the full
size. So a client's update does not depend on its neighbours or the number of threads.
"""

import copy
import math
import threading
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fedpoison.clients.criterion import Criterion
from fedpoison.clients.federation import Federation, Shard
from fedpoison.clients.training import Local, Plan, Task, Trained, train_client, untouched
from fedpoison.common.parallel import in_parallel, workers
from fedpoison.contract.registry import engine
from fedpoison.engines.descent import Descent, descent
from fedpoison.engines.layers import Pass
from fedpoison.engines.minibatches import Batches, Place, aligned, batches_of
from fedpoison.engines.stackable import Net, convolution_work, net_of
from fedpoison.models.vector import travelling
from fedpoison.types import Count, Event, Params

_CACHE_BYTES = 4_000_000
"""What a stack's parameters may take; a little over an L2 cache was fastest where it was measured."""

_STEP = 200_000_000
"""Multiplications of a stack's convolutions, forward in one step, beyond which more nets at once gain nothing."""

Device = Literal["cpu", "cuda"]


class OneByOne:
    """The oracle's way for nets that cannot be stacked, a client a thread."""

    def __init__(self, model: nn.Module, federation: Federation, local: Local, device: Device) -> None:
        self._model, self._federation, self._local = model, federation, local
        self._mine, self._place = threading.local(), Place(federation, device)

    def train(self, params: Params, plan: Plan) -> Trained:
        """Train every task as the oracle does."""
        updates = params.new_empty(len(plan.tasks), len(params))
        shards, start = _shards(self._federation, plan), params.to(self._place.device)

        def one(row: int) -> None:
            if not hasattr(self._mine, "net"):
                self._mine.net = copy.deepcopy(self._model)
            task, shard = plan.tasks[row], self._place.shard(shards[row])
            stream, local = plan.batch_stream(task), plan.settings(self._local, task)
            updates[row] = train_client(
                self._mine.net, start, shard, stream, local, self._federation.augment, task.drill
            )

        list(in_parallel(one, range(len(plan.tasks))))
        said = Event("engine", detail="this net cannot be stacked, so its clients are trained one by one")
        events = untouched(self._federation, plan)
        return Trained(updates, (said, *events) if plan.round == 1 else events)

    def shares(self, plan: Plan, workers: int) -> list[list[int]]:
        """The places of the tasks in the plan, one at a time."""
        return [[place] for place in range(len(plan.tasks))]


class Batched:
    """Stacks of clients, a stack a thread."""

    def __init__(self, net: Net, federation: Federation, local: Local, slots: int, device: Device) -> None:
        self._net, self._federation, self._local, self._slots = net, federation, local, slots
        self._place = Place(federation, device)

    def train(self, params: Params, plan: Plan) -> Trained:
        """Train all tasks, a stack a thread."""
        federation, shards, shares = self._federation, _shards(self._federation, plan), self.shares(plan, workers())
        order = torch.tensor([place for share in shares for place in share])
        starts = np.cumsum([0, *map(len, shares)]).tolist()
        start = params.to(self._place.device)
        moved = start.new_empty(len(plan.tasks), aligned(len(params)))[:, : len(params)]  # in that order

        def one(stack: int) -> None:
            members = shares[stack]
            tasks = [plan.tasks[i] for i in members]
            local, width = self._like(plan, tasks[0])
            streams = [plan.batch_stream(task) for task in tasks]
            batches = batches_of([shards[i] for i in members], streams, local, width, federation.augment)
            batches = batches.held_by(self._place)
            drawn = [stream.of("dropout").torch() for stream in streams] if self._net.draws else []
            taken = descent(moved[starts[stack] : starts[stack + 1]], start, local, [task.drill for task in tasks])
            _train_stack(self._net, batches, local, taken, drawn)

        list(in_parallel(one, range(len(shares))))
        moved = moved.to(params.device)
        updates = moved if (order.diff() == 1).all() else moved[order.argsort()]
        return Trained(updates, untouched(self._federation, plan))

    def shares(self, plan: Plan, workers: int) -> list[list[int]]:
        """The places of the tasks in the plan, a stack each; clients of one stack end at about the same time.

        Those of one stack train alike: attackers with a drill stand apart from the honest, who are as fast as without.
        """
        alike: list[tuple[Local, bool, list[int]]] = []
        for place, task in enumerate(plan.tasks):
            local, holds = self._local.drilled(task.drill), bool(task.drill and task.drill.holds)
            for known, held, places in alike:
                if held == holds and (known is local or known == local):
                    places.append(place)
                    break
            else:
                alike.append((local, holds, [place]))
        return [share for local, _, places in alike for share in self._stacks(plan, places, local, workers)]

    def _stacks(self, plan: Plan, places: list[int], local: Local, workers: int) -> list[list[int]]:
        steps = {place: local.step_count(self._samples(plan.tasks[place])) for place in places}
        order = sorted(places, key=lambda place: -steps[place])
        size = self._slots
        if order and not self._net.has_pictures:  # no more turns than needed, and all workers busy in each
            turns = -(-len(order) // (size * workers))
            size = -(-len(order) // (turns * workers))
        return [order[start : start + size] for start in range(0, len(order), size)]

    def _samples(self, task: Task) -> int:
        """How many a task trains on; a poisoned shard, which may take long to make, is as large as the clean one."""
        return len(self._federation.shard(task.client)) if task.kept is None else len(task.kept)

    def _like(self, plan: Plan, task: Task) -> tuple[Local, int]:
        """How a task is trained, and how wide its batches are."""
        local = plan.settings(self._local, task)
        return local, aligned(min(local.batch_size, self._federation.largest))


def _bits(stack: int | None, device: str) -> list[Any]:
    """Convolutions round by how many they are grouped with."""
    return [stack, False, *([device] if device != "cpu" else [])]


@engine(bits=_bits)
def batched(
    model: nn.Module, federation: Federation, local: Local, *, stack: Count | None = None, device: Device = "cpu"
) -> Batched | OneByOne:
    """Clients in stacks over threads, for nn.Sequential nets of the usual layers; others one by one.

    `stack`: clients a stack at the most; what fits a processor's cache unless given. `device`: where they are trained;
    on "cuda", which wants larger stacks, a client's update may depend on its stack. ValueError if there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("engine.device is 'cuda', and torch finds no such device here")
    dataset = federation.dataset
    slots = stack or _slots(model, federation, local)
    model = model if device == "cpu" else copy.deepcopy(model).to(device)  # the caller's stays where it is
    net = net_of(model, dataset.input_shape, dataset.vocabulary is not None, slots)
    return Batched(net, federation, local, slots, device) if net else OneByOne(model, federation, local, device)


def _slots(model: nn.Module, federation: Federation, local: Local) -> int:
    """How many nets a stack has, from what stays the same however many workers there are and whoever attacks."""
    slots = min(8, _CACHE_BYTES // sum(p.numel() * p.element_size() for p in travelling(model)))
    if work := convolution_work(model, federation.dataset.input_shape):
        enough = round(_STEP / (work * min(local.batch_size, federation.largest)))
        slots = min(slots, enough, federation.clients // 8)  # stacks of pictures are full or waste work
    return max(1, slots)


def _shards(federation: Federation, plan: Plan) -> list[Shard]:
    federation.poison(task.client for task in plan.tasks if task.poisoned)
    return [task.shard(federation) for task in plan.tasks]


@torch.no_grad()
def _train_stack(net: Net, batches: Batches, local: Local, taken: Descent, drawn: list[torch.Generator]) -> None:
    """Train K clients, whose numbers of steps descend, by the steps that are taken."""
    _, k, width = batches.index.shape
    counts, images = batches.counts, batches.shards[0].images
    shape = images.shape[1:]
    parts = (np.arange(width) < counts[:, :, None]).astype(np.float32)  # 0 for padding
    if local.reduction == "mean":
        parts /= counts.clip(min=1).astype(np.float32)[:, :, None]
    share = torch.from_numpy(parts).to(taken.nets).unsqueeze(3)
    criterion = Criterion(local.loss.step)
    space = images.new_empty(k * width, math.prod(shape))
    for step, active in enumerate((counts > 0).sum(axis=1).tolist()):
        inputs = batches.inputs(step, active, space)
        if net.normalise:
            inputs = net.normalise(inputs.view(-1, *shape)).flatten(1)
        now = Pass(taken.nets[:active], taken, counts[step].tolist(), drawn, local.precision == "bf16")
        labels, part = batches.labels[step, :active], share[step, :active]
        _step(net, inputs.view(active, width, -1), labels, part, criterion, now)
        taken.end(active)
    taken.finish()


def _step(net: Net, inputs: Tensor, labels: Tensor, share: Tensor, criterion: Criterion, now: Pass) -> None:
    """Forward and backward through all layers, with the loss between them.

    `inputs` [k, B, features]; `labels` [k, B]; `share` [k, B, 1], a sample's part in the loss: 1 over the batch's size
    for the mean, 1 for the sum, 0 for padding.
    """
    output, memories = inputs, []
    for layer in net.layers:
        output, kept = layer.forward(output, now)
        memories.append(kept)
    if criterion.usual:
        delta = torch.softmax(output, dim=2)
        delta.scatter_add_(2, labels.unsqueeze(2), delta.new_full((), -1.0).expand(*labels.shape, 1))
    else:
        delta = _slopes(output, labels, criterion, now.counts)
    delta.mul_(share)
    for depth in reversed(range(net.lowest, len(net.layers))):
        lower = net.layers[depth].backward(delta, memories.pop(), now, depth > net.lowest)
        delta = delta if lower is None else lower


def _slopes(logits: Tensor, labels: Tensor, criterion: Criterion, counts: list[int]) -> Tensor:
    """The gradient of each sample's loss at its logits [k, B, classes]: a client's by itself, without its padding.

    Together they would be faster, and a client's bits would depend on its neighbours: libraries take the last numbers
    of a block one by one.
    """
    slopes = torch.zeros_like(logits)
    for slope, mine, own, count in zip(slopes, logits, labels, counts, strict=False):
        with torch.enable_grad():
            given = mine[:count].detach().clone().requires_grad_()
            total = criterion(given, own[:count]).sum()
        slope[:count] = torch.autograd.grad(total, given)[0]
    return slopes
