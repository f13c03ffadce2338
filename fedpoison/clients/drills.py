"""What a drill does to a client's training, and what it is made from: the plain version."""

import copy

import torch
from torch import Tensor, nn

from fedpoison.clients.criterion import Criterion
from fedpoison.clients.federation import Federation
from fedpoison.models.vector import flatten, load, travelling
from fedpoison.types import Drill, Params, Update


class Held:
    """A net whose parameters a drill holds where they began, or near."""

    def __init__(self, net: nn.Module, params: Params, drill: Drill) -> None:
        self._net, self._params, self._drill = net, params, drill
        self._mask = None if drill.mask is None else drill.mask.to(params.device)

    def mask_gradients(self) -> None:
        """Let the gradient of what may not move count as 0, whatever it is."""
        if self._mask is None:
            return
        weights = travelling(self._net)
        for weight, mask in zip(weights, self._mask.split([w.numel() for w in weights]), strict=True):
            if weight.grad is not None:
                weight.grad.masked_fill_(~mask.view_as(weight), 0)

    def hold(self, step: int) -> None:
        """Put back what has moved and may not after so many steps; weight decay and momentum move it too."""
        now, params = flatten(self._net), self._params
        if self._mask is not None:
            now = torch.where(self._mask, now, params)
        if self._drill.radius and self._drill.every and step % self._drill.every == 0:
            now = params + within(now - params, self._drill.radius)
        load(self._net, now)


def within(moved: Tensor, radius: float) -> Tensor:
    """A vector [d], shortened to the radius if it is longer."""
    norm = torch.linalg.vector_norm(moved)
    return moved * (radius / norm) if norm > radius else moved


class Gradients:
    """The gradient of the mean loss over a client's clean samples, at given parameters and without dropout."""

    def __init__(self, net: nn.Module, federation: Federation, criterion: Criterion) -> None:
        self._net, self._federation, self._criterion = net, federation, criterion

    def __call__(self, params: Params, client: int) -> Update:
        """The gradient [d]."""
        net, shard = copy.deepcopy(self._net).eval(), self._federation.shard(client)
        load(net, params)
        net.zero_grad()
        for index in shard.index.split(_AT_ONCE):
            losses = self._criterion(net(shard.images[index]), shard.labels[index])
            (losses.sum() / len(shard)).backward()
        nothing = torch.zeros_like
        return torch.cat([(nothing(w) if w.grad is None else w.grad).flatten() for w in travelling(net)]).detach()


_AT_ONCE = 256
"""Samples of which the gradient is taken at once."""
