"""How a stack of nets [K, d] takes its steps, given the gradient of each layer's parameters."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fedpoison.clients.drills import within
from fedpoison.clients.training import Local
from fedpoison.types import Drill

Gradient = tuple[Tensor, Tensor] | Tensor
"""Of some parameters of the first k nets: [k, ·], or two factors [k, rows, batch] and [k, batch, columns]."""

_TORCH_CLIPS_WITH = 1e-6
"""What torch's clip_grad_norm_ adds to the norm before it divides by it."""


def descent(moved: Tensor, start: Tensor, local: Local, drills: Sequence[Drill | None]) -> "Descent":
    """The cheapest way of stepping that these settings allow.

    All nets begin at `start` [d]; `moved` [K, d] gets how far they come. `drills`: what holds each of them, or none.
    """
    if held := [drill for drill in drills if drill and drill.holds]:
        return Held(moved, start, local, held)
    if local.optimizer == "adam" or local.clip_norm:
        return Stored(moved, start, local)
    # by the settings alone: a client with a single batch must step as it would in any other stack
    return Once(moved, start, local) if local.steps == 1 else Fused(moved, start, local)


class Once:
    """A single step of SGD: all nets are the global one, and the gradient is formed where the update belongs.

    Momentum has no past to count and the proximal term is 0 at the start.
    """

    def __init__(self, moved: Tensor, start: Tensor, local: Local) -> None:
        self.nets = start.expand(len(moved), -1)
        self._moved, self._start, self._local = moved, start, local

    def take(self, place: slice, gradient: Gradient) -> None:
        """Write the step with this gradient of the parameters at `place`."""
        local, moved = self._local, self._moved[:, place]
        _add(moved, gradient, 0.0, -local.lr)
        if local.weight_decay:
            moved.add_(self._start[place], alpha=-local.lr * local.weight_decay)

    def end(self, active: int) -> None:
        """Nothing is left to do after the last layer."""

    def finish(self) -> None:
        """Nothing is left to do after the last step."""


class Fused:
    """SGD whose step is folded into the product that forms the gradient: no gradient is ever stored."""

    def __init__(self, moved: Tensor, start: Tensor, local: Local) -> None:
        self.nets = moved.copy_(start)
        self._start, self._local = start, local
        self._velocity = _zeros_like(moved) if local.momentum else None

    def take(self, place: slice, gradient: Gradient) -> None:
        """Step with this gradient of the parameters at `place` of the first nets."""
        local, k = self._local, _nets(gradient)
        weight, start = self.nets[:k, place], self._start[place]
        decay = local.weight_decay + local.prox
        if self._velocity is None:
            _add(weight, gradient, 1 - local.lr * decay, -local.lr)
            if local.prox:
                weight.add_(start, alpha=local.lr * local.prox)
            return
        velocity = self._velocity[:k, place]
        _add(velocity, gradient, local.momentum, 1.0)
        if decay:
            velocity.add_(weight, alpha=decay)
        if local.prox:
            velocity.add_(start, alpha=-local.prox)
        weight.add_(velocity, alpha=-local.lr)

    def end(self, active: int) -> None:
        """Nothing is left to do after the last layer."""

    def finish(self) -> None:
        """Turn where the nets are into how far they came."""
        self.nets.sub_(self._start)


class Stored:
    """SGD or Adam on gradients [K, d] that are formed first, for what needs the whole gradient."""

    def __init__(self, moved: Tensor, start: Tensor, local: Local) -> None:
        self.nets = moved.copy_(start)
        self._start, self._local = start, local
        self._gradients, self._steps = _zeros_like(moved), 0
        adam = local.optimizer == "adam"
        self._first = _zeros_like(moved) if adam or local.momentum else None
        self._second = _zeros_like(moved) if adam else None

    def take(self, place: slice, gradient: Gradient) -> None:
        """Form this gradient of the parameters at `place` of the first nets."""
        _add(self._gradients[: _nets(gradient), place], gradient, 0.0, 1.0)

    def end(self, active: int) -> None:
        """Step with the whole gradients of the first `active` nets."""
        local, weights, gradients = self._local, self.nets[:active], self._gradients[:active]
        self._steps += 1
        if local.prox:
            gradients.add_(weights - self._start, alpha=local.prox)
        if local.clip_norm:
            norms = torch.stack([torch.linalg.vector_norm(row) for row in gradients])  # a row's bits are its own
            gradients.mul_((local.clip_norm / (norms + _TORCH_CLIPS_WITH)).clamp(max=1).unsqueeze(1))
        if local.weight_decay:
            gradients.add_(weights, alpha=local.weight_decay)
        if self._first is None:
            weights.add_(gradients, alpha=-local.lr)
        elif self._second is None:
            weights.add_(self._first[:active].mul_(local.momentum).add_(gradients), alpha=-local.lr)
        else:
            self._adam(weights, gradients, self._first[:active], self._second[:active])

    def finish(self) -> None:
        """Turn where the nets are into how far they came."""
        self.nets.sub_(self._start)

    def _adam(self, weights: Tensor, gradients: Tensor, first: Tensor, second: Tensor) -> None:
        local, (beta1, beta2) = self._local, self._local.betas
        first.lerp_(gradients, 1 - beta1)
        second.mul_(beta2).addcmul_(gradients, gradients, value=1 - beta2)
        scale = second.sqrt().div_(math.sqrt(1 - beta2**self._steps)).add_(local.eps)
        weights.addcdiv_(first, scale, value=-local.lr / (1 - beta1**self._steps))


class Held(Stored):
    """The same on nets that drills [K] hold where they began, or near."""

    def __init__(self, moved: Tensor, start: Tensor, local: Local, drills: Sequence[Drill]) -> None:
        super().__init__(moved, start, local)
        self._drills, self._count = drills, 0
        free = torch.ones(len(start), dtype=torch.bool)
        masks = [free if drill.mask is None else drill.mask for drill in drills]
        self._frozen = None if all(mask is free for mask in masks) else ~torch.stack(masks).to(start.device)

    def end(self, active: int) -> None:
        """Step with the gradients of what may move, and put back what has moved and may not."""
        self._count += 1
        if self._frozen is not None:
            self._gradients[:active].masked_fill_(self._frozen[:active], 0)
        super().end(active)
        if self._frozen is not None:
            torch.where(self._frozen[:active], self._start, self.nets[:active], out=self.nets[:active])
        for net, drill in zip(self.nets[:active], self._drills, strict=False):
            if drill.radius and drill.every and self._count % drill.every == 0:
                net.copy_(self._start + within(net - self._start, drill.radius))

    def finish(self) -> None:
        """Turn where the nets are into how far they came, which is no further than a drill allows."""
        super().finish()
        for net, drill in zip(self.nets, self._drills, strict=True):
            if drill.radius:
                net.copy_(within(net, drill.radius))


Descent = Once | Fused | Stored


def _nets(gradient: Gradient) -> int:
    return len(gradient) if isinstance(gradient, Tensor) else len(gradient[0])


def _add(values: Tensor, gradient: Gradient, beta: float, alpha: float) -> None:
    """values [k, ·] ← beta · values + alpha · gradient; what was there before does not count if beta is 0."""
    if isinstance(gradient, tuple) and gradient[0].dtype != values.dtype:
        gradient = torch.bmm(*gradient).flatten(1).to(values.dtype)
    if isinstance(gradient, tuple):
        left, right = gradient
        values.view(len(left), left.shape[1], right.shape[2]).baddbmm_(left, right, beta=beta, alpha=alpha)
    elif beta == 0:
        torch.mul(gradient, alpha, out=values)
    else:
        (values if beta == 1 else values.mul_(beta)).add_(gradient, alpha=alpha)


def _zeros_like(nets: Tensor) -> Tensor:
    """Zeros in the same layout, rows that start on a cache line included."""
    return nets.new_zeros(len(nets), nets.stride(0))[:, : nets.shape[1]]
