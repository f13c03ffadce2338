"""Several clients at once: their nets as stacks of matrices, stacks over threads.

A stack of K clients does each layer as one batched matrix product, with the backward pass written out and the
SGD step folded into the product that forms the gradient. A slice of a batched product has the same bits
whatever it is stacked with, if all slots are aligned alike; short batches are padded to the full size. So a
client's update does not depend on its neighbours, the stack size or the number of threads.
"""

import copy
import threading
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from fedpoison.data.augment import Augment
from fedpoison.engines.descent import Descent, descent
from fedpoison.federation import Federation, Shard
from fedpoison.models.inputs import Normalise
from fedpoison.models.vector import travelling
from fedpoison.parallel import in_parallel, workers
from fedpoison.registry import engine
from fedpoison.seeding import Stream
from fedpoison.training import Engine, Local, Plan, Trained, batches, train_client
from fedpoison.types import Count, Event, Images, Labels, Params

_CACHE_BYTES = 4_000_000
"""What a stack's parameters may take; a little over an L2 cache was fastest where it was measured."""


@engine()
def batched(model: nn.Module, federation: Federation, local: Local, *, stack: Count | None = None) -> Engine:
    """Clients in stacks over threads, for nn.Sequential nets of Linear, ReLU and Flatten; others one by one.

    `stack`: clients a stack at the most; what fits the cache unless given.
    """
    net = _stackable(model)
    if net is None:
        return OneByOne(model, federation, local)
    size = sum(p.numel() * p.element_size() for p in travelling(model))
    return Batched(net, federation, local, stack or max(1, min(8, _CACHE_BYTES // size)))


class OneByOne:
    """The oracle's way for nets that cannot be stacked, a client a thread."""

    def __init__(self, model: nn.Module, federation: Federation, local: Local) -> None:
        self._model, self._federation, self._local = model, federation, local
        self._mine = threading.local()

    def train(self, params: Params, plan: Plan) -> Trained:
        """Train every task as the oracle does."""
        updates, local = params.new_empty(len(plan.tasks), len(params)), self._local.scaled(plan.lr_scale)
        shards = [self._federation.shard(task.client, task.poisoned) for task in plan.tasks]

        def one(row: int) -> None:
            if not hasattr(self._mine, "net"):
                self._mine.net = copy.deepcopy(self._model)
            stream, augment = plan.batch_stream(plan.tasks[row]), self._federation.augment
            updates[row] = train_client(self._mine.net, params, shards[row], stream, local, augment)

        list(in_parallel(one, range(len(plan.tasks))))
        said = Event("engine", detail="this net cannot be stacked, so its clients are trained one by one")
        return Trained(updates, (said,) if plan.round == 1 else ())


@dataclass(frozen=True)
class Linear:
    """A linear layer's place in the parameter vector; `rectified` if a ReLU follows."""

    weight: slice
    bias: slice | None
    outputs: int
    inputs: int
    rectified: bool


@dataclass(frozen=True)
class Stackable:
    """A net of linear layers with or without ReLU, and the normalisation before it."""

    normalise: Normalise | None
    layers: list[Linear]


def _stackable(model: nn.Module) -> Stackable | None:
    """The net as layers that can be stacked, or None if it is anything else."""
    modules = list(model) if type(model) is nn.Sequential else []
    parameters = [p for m in modules for p in m.parameters()]
    plain = not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in (model, *modules))
    if not plain or len({id(p) for p in parameters}) < len(parameters) or not all(p.requires_grad for p in parameters):
        return None
    first = modules[0] if modules else None
    normalise = first if isinstance(first, Normalise) else None
    modules = modules[1:] if normalise else modules
    if modules and type(modules[0]) is nn.Flatten and (modules[0].start_dim, modules[0].end_dim) == (1, -1):
        modules = modules[1:]
    layers: list[Linear] = []
    place = 0
    for module in modules:
        if type(module) is nn.ReLU and layers and not layers[-1].rectified:
            layers[-1] = replace(layers[-1], rectified=True)
        elif type(module) is nn.Linear and module.weight.dtype == torch.float32:
            weight = slice(place, place + module.weight.numel())
            place = weight.stop
            bias = None if module.bias is None else slice(place, place + module.out_features)
            place = place if bias is None else bias.stop
            layers.append(Linear(weight, bias, module.out_features, module.in_features, False))
        else:
            return None
    return Stackable(normalise, layers) if layers and not layers[-1].rectified else None


class Batched:
    """Stacks of clients, a stack a thread."""

    def __init__(self, net: Stackable, federation: Federation, local: Local, stack: int) -> None:
        self._net, self._federation, self._local, self._stack = net, federation, local, stack
        self._width = _aligned(min(local.batch_size, federation.largest))

    def train(self, params: Params, plan: Plan) -> Trained:
        """Train all tasks, those with the most steps first, so that a stack's clients end at about the same time."""
        shards = [self._federation.shard(task.client, task.poisoned) for task in plan.tasks]
        steps = torch.tensor([self._local.step_count(len(shard)) for shard in shards])
        order = steps.argsort(descending=True, stable=True)
        local = self._local.scaled(plan.lr_scale)
        moved = params.new_empty(len(plan.tasks), _aligned(len(params)))[:, : len(params)]  # in that order

        def one(place: slice) -> None:
            members = order[place].tolist()
            streams = [plan.batch_stream(plan.tasks[i]) for i in members]
            batches = _batches_of([shards[i] for i in members], streams, local, self._width, self._federation.augment)
            _train_stack(self._net, params, batches, local, moved[place])

        if not plan.tasks:
            return Trained(moved)
        turns = -(-len(order) // (self._stack * workers()))  # as many full turns of all workers as needed
        size = -(-len(order) // (turns * workers()))
        list(in_parallel(one, (slice(i, i + size) for i in range(0, len(order), size))))
        return Trained(moved if (order.diff() == 1).all() else moved[order.argsort()])


@dataclass(frozen=True)
class Batches:
    """All batches of a stack of K clients.

    `index` [steps, K, width]: rows of `images` and `labels`; `counts` [steps, K]: each batch's size. A batch is
    padded to the width with its own first row, whose share of the gradient is then 0; another client's row could
    be NaN, and 0 · NaN is not 0. Where a client is done its batches have size 0. `draws` [steps, K, width, 3]:
    what the augmentation does to each sample.
    """

    images: Images
    labels: Labels
    index: Tensor
    counts: Tensor
    augment: Augment | None
    draws: Tensor

    def inputs(self, step: int, active: int, out: Tensor) -> Tensor:
        """The samples [active · width, *] of the first clients' batches in this step, `out` if it serves."""
        rows = self.index[step, :active].flatten()
        flat = torch.index_select(self.images.flatten(1), 0, rows, out=out[: len(rows)])
        if not self.augment:
            return flat
        return self.augment(flat.view(-1, *self.images.shape[1:]), self.draws[step, :active].flatten(0, 1)).flatten(1)


@torch.no_grad()
def _train_stack(net: Stackable, params: Params, batches: Batches, local: Local, moved: Tensor) -> None:
    """Write the updates of K clients, whose numbers of steps descend, into `moved` [K, d]."""
    _, k, width = batches.index.shape
    counts, layers = batches.counts, net.layers
    taken = descent(moved, params, local)
    nets = taken.nets
    share = (torch.arange(width) < counts.unsqueeze(2)).to(params.dtype).unsqueeze(3)  # 0 for padding
    if local.loss == "mean":
        share /= counts.clamp(min=1)[:, :, None, None]
    space = params.new_empty(k * width, layers[0].inputs)
    for step, active in enumerate((counts > 0).sum(dim=1).tolist()):
        inputs = batches.inputs(step, active, space)
        if net.normalise:
            inputs = net.normalise(inputs.view(-1, *batches.images.shape[1:])).flatten(1)
        wanted = one_hot(batches.labels[batches.index[step, :active].flatten()], layers[-1].outputs)
        shaped = inputs.view(active, width, -1), wanted.view(active, width, -1)
        _step(layers, nets[:active], *shaped, share[step, :active], taken)
        taken.end(active)
    taken.finish()


def _batches_of(
    shards: list[Shard], streams: list[Stream], local: Local, width: int, augment: Augment | None
) -> Batches:
    """All batches of these clients, in the order in which the oracle takes them."""
    places = [shard.index.numpy() for shard in shards]
    images, labels = shards[0].images, shards[0].labels
    if any(shard.images is not images for shard in shards):  # poisoned shards have images of their own
        images = torch.cat([shard.images[shard.index] for shard in shards])
        labels = torch.cat([shard.labels[shard.index] for shard in shards])
        ends = np.cumsum([0, *map(len, shards)])
        places = [np.arange(start, end) for start, end in pairwise(ends)]
    steps, within = local.step_count(len(shards[0])), np.arange(width)
    index = np.zeros((steps, len(shards), width), dtype=np.int64)
    counts = np.zeros((steps, len(shards)), dtype=np.int64)
    draws = torch.zeros(steps, len(shards), width, 3, dtype=torch.int64) if augment else torch.empty(0)
    for i, (place, stream) in enumerate(zip(places, streams, strict=True)):
        order = list(batches(stream, len(place), local))
        sizes = np.array([len(batch) for batch in order])
        rows = place[np.concatenate(order)]
        real = within < sizes[:, None]
        mine = index[: len(order), i]
        mine[:] = rows[sizes.cumsum() - sizes][:, None]
        mine[real] = rows
        counts[: len(order), i] = sizes
        if augment:
            drawn = torch.cat(augment.draws(stream.of("augment"), sizes.tolist()))
            draws[: len(order), i][torch.from_numpy(real)] = drawn
    return Batches(images, labels, torch.from_numpy(index), torch.from_numpy(counts), augment, draws)


def _aligned(size: int) -> int:
    """The next multiple of 16: every slot then starts on a cache line, for products may round by alignment."""
    return -(-size // 16) * 16


def _step(
    layers: list[Linear],
    nets: Tensor,
    inputs: Tensor,
    wanted: Tensor,
    share: Tensor,
    taken: Descent,
) -> None:
    """Hand `taken` the gradient of every net [K, d] on its batch.

    `inputs` [K, B, ·]; one-hot `wanted` [K, B, C]; `share` [K, B, 1], a sample's part in the loss: 1 over the batch's
    size for the mean, 1 for the sum, 0 for padding.
    """
    k = len(nets)
    weights = [nets[:, layer.weight].view(k, layer.outputs, layer.inputs) for layer in layers]
    activations = [inputs]
    for layer, weight in zip(layers, weights, strict=True):
        if layer.bias is None:
            output = torch.bmm(activations[-1], weight.transpose(1, 2))
        else:
            output = torch.baddbmm(nets[:, layer.bias].unsqueeze(1), activations[-1], weight.transpose(1, 2))
        activations.append(output.relu_() if layer.rectified else output)
    delta = torch.softmax(activations.pop(), dim=2).sub_(wanted).mul_(share)
    ones = torch.ones_like(share).transpose(1, 2)
    for depth in reversed(range(len(layers))):
        layer, weight, entered = layers[depth], weights[depth], activations[depth]
        below = torch.bmm(delta, weight) if depth else None  # before the weight moves
        taken.take(layer.weight, delta.transpose(1, 2), entered)
        if layer.bias is not None:
            taken.take(layer.bias, ones, delta)
        if below is not None:
            delta = torch.ops.aten.threshold_backward(below, entered, 0) if layers[depth - 1].rectified else below
