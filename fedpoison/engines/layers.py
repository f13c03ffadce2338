"""The layers that a stack of nets can be made of, each with its forward and its backward pass for all nets at once.

Between layers the samples of the k nets that still train are "rows" [k, B, features], "tokens" [k, B, length],
"sequences" [k, B, length, features], or pictures, for which see pictures.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from fedpoison.engines.descent import Descent

aten = torch.ops.aten


@dataclass(frozen=True)
class Pass:
    """What the layers need to know of one step.

    `nets` [k, d]: the nets that still train; `taken`: where gradients go; `counts`: each net's samples without
    padding; `drawn`: each net's stream of dropout; `half`: whether products are of bfloat16.
    """

    nets: Tensor
    taken: Descent
    counts: list[int]
    drawn: list[torch.Generator]
    half: bool

    def operand(self, values: Tensor) -> Tensor:
        """The values as a product takes them."""
        return values.bfloat16() if self.half else values


@runtime_checkable
class Layer(Protocol):
    """One layer of all nets of a stack."""

    def forward(self, entered: Tensor, now: Pass) -> tuple[Tensor, Any]:
        """What leaves the layer, and what its backward pass will need."""
        ...

    def backward(self, delta: Tensor, kept: Any, now: Pass, below: bool) -> Tensor | None:
        """Hand over the parameters' gradients for this gradient of the output; the input's gradient if wanted."""
        ...


@dataclass(frozen=True)
class Linear:
    """x · Wᵀ + b, on rows."""

    weight: slice
    bias: slice | None
    outputs: int

    def forward(self, entered: Tensor, now: Pass) -> tuple[Tensor, Tensor]:
        """One batched product."""
        entered, weight = now.operand(entered), now.operand(self._weight(now)).transpose(1, 2)
        if now.half or self.bias is None:
            product = torch.bmm(entered, weight).float()
            return product if self.bias is None else product.add_(now.nets[:, self.bias].unsqueeze(1)), entered
        return torch.baddbmm(now.nets[:, self.bias].unsqueeze(1), entered, weight), entered

    def backward(self, delta: Tensor, kept: Tensor, now: Pass, below: bool) -> Tensor | None:
        """The input's gradient before the weight moves, then the weight's as the two factors of a product."""
        factor = now.operand(delta)
        lower = torch.bmm(factor, now.operand(self._weight(now))).float() if below else None
        now.taken.take(self.weight, (factor.transpose(1, 2), kept))
        if self.bias is not None:
            now.taken.take(self.bias, _column_sums(delta))
        return lower

    def _weight(self, now: Pass) -> Tensor:
        return now.nets[:, self.weight].view(len(now.nets), self.outputs, -1)


class ReLU:
    """max(x, 0), in place: what comes before needs either not its output or only its signs."""

    def forward(self, entered: Tensor, now: Pass) -> tuple[Tensor, Tensor]:
        """Rectify in place."""
        return entered.relu_(), entered

    def backward(self, delta: Tensor, kept: Tensor, now: Pass, below: bool) -> Tensor:
        """The gradient where the output is positive."""
        lower: Tensor = aten.threshold_backward.grad_input(delta, kept, 0, grad_input=delta)
        return lower


class Tanh:
    """The hyperbolic tangent."""

    def forward(self, entered: Tensor, now: Pass) -> tuple[Tensor, Tensor]:
        """Torch's own."""
        left = _evenly(torch.tanh, entered)
        return left, left

    def backward(self, delta: Tensor, kept: Tensor, now: Pass, below: bool) -> Tensor:
        """The gradient from the output."""
        return _evenly(aten.tanh_backward, delta, kept)


@dataclass(frozen=True)
class GELU:
    """x · Φ(x), or its approximation by tanh."""

    approximate: str

    def forward(self, entered: Tensor, now: Pass) -> tuple[Tensor, Tensor]:
        """Torch's own."""
        return _evenly(lambda x: aten.gelu(x, approximate=self.approximate), entered), entered

    def backward(self, delta: Tensor, kept: Tensor, now: Pass, below: bool) -> Tensor:
        """The gradient from the input."""
        return _evenly(lambda d, x: aten.gelu_backward(d, x, approximate=self.approximate), delta, kept)


@dataclass(frozen=True)
class Dropout:
    """Inverted dropout with each net's own draws, the same as `StreamDropout` makes for it alone."""

    p: float
    channels: bool
    slots: int

    def forward(self, entered: Tensor, now: Pass) -> tuple[Tensor, Tensor | None]:
        """Multiply by a mask of 0 and 1 / (1 − p)."""
        if self.p == 0:
            return entered, None
        if entered.dim() == 3:
            mask = torch.zeros_like(entered)
            places = list(mask)
        else:
            sizes = (1, 1) if self.channels else entered.shape[2:]
            mask = entered.new_zeros(len(entered), *sizes, entered.shape[1]).permute(0, 3, 1, 2)
            places = list(mask.unflatten(1, (self.slots, -1)).unbind(1))
        for place, count, generator in zip(places, now.counts, now.drawn, strict=False):  # a slot may have no net
            kept = torch.rand((count, *place.shape[1:]), generator=generator) >= self.p
            place[:count] = kept.to(entered.dtype) / (1 - self.p) if self.p < 1 else 0.0
        return entered * mask, mask

    def backward(self, delta: Tensor, kept: Tensor | None, now: Pass, below: bool) -> Tensor:
        """The gradient through what was kept."""
        return delta if kept is None else delta * kept


@dataclass(frozen=True)
class RowNorm:
    """Layer normalisation of rows, or group normalisation if there are several groups."""

    affine: tuple[slice, slice | None] | None
    groups: int
    eps: float

    def forward(self, entered: Tensor, now: Pass) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Torch's own, then each net's scale and shift."""
        plain, mean, deviation = aten.native_group_norm(
            entered.flatten(0, 1), None, None, *self._sizes(entered), self.eps
        )
        left = plain = plain.view_as(entered)
        if self.affine:
            scale, shift = self.affine
            left = plain * now.nets[:, None, scale]
            left = left if shift is None else left + now.nets[:, None, shift]
        return left, (entered, plain, mean, deviation)

    def backward(self, delta: Tensor, kept: tuple[Tensor, ...], now: Pass, below: bool) -> Tensor | None:
        """The gradients of scale and shift, summed over the batch, and the input's by torch's own."""
        entered, plain, mean, deviation = kept
        through = delta
        if self.affine:
            scale, shift = self.affine
            through = delta * now.nets[:, None, scale]
            now.taken.take(scale, _column_sums(delta * plain))
            if shift is not None:
                now.taken.take(shift, _column_sums(delta))
        if not below:
            return None
        flat, sizes = entered.flatten(0, 1), self._sizes(entered)
        wanted = [True, False, False]
        lower, _, _ = aten.native_group_norm_backward(
            through.flatten(0, 1).contiguous(), flat, mean, deviation, None, *sizes, wanted
        )
        return cast(Tensor, lower).view_as(entered)

    def _sizes(self, rows: Tensor) -> tuple[int, int, int, int]:
        return rows.shape[0] * rows.shape[1], rows.shape[2], 1, self.groups


@dataclass(frozen=True)
class Embedding:
    """Tokens to rows: their vectors one after the other."""

    weight: slice
    rows: int
    padding: int

    def forward(self, entered: Tensor, now: Pass) -> tuple[Tensor, Tensor]:
        """Look the vectors up."""
        tables = now.nets[:, self.weight].view(len(now.nets), self.rows, -1)
        return torch.stack([table[ids] for table, ids in zip(tables, entered, strict=True)]).flatten(2), entered

    def backward(self, delta: Tensor, kept: Tensor, now: Pass, below: bool) -> None:
        """Each vector's gradient is the sum over where it stands."""
        shaped = delta.unflatten(2, (kept.shape[2], -1))
        sums = [
            aten.embedding_dense_backward(gradient, ids, self.rows, self.padding, False).flatten()
            for gradient, ids in zip(shaped, kept, strict=True)
        ]
        now.taken.take(self.weight, torch.stack(sums))


def _column_sums(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The sum over the batch of [k, B, ·], as the factors of a product: the same bits wherever a net is."""
    return rows.new_ones(len(rows), 1, rows.shape[1]), rows


_LANES = 64
"""A multiple of all numbers of floats that a vector instruction takes."""


def _evenly(function: Callable[..., Tensor], *given: Tensor) -> Tensor:
    """An elementwise function without a remainder, which would be rounded in another way than the vectors before it."""
    first = given[0]
    if first.numel() % _LANES == 0:
        return function(*given)
    order = sorted(range(first.dim()), key=first.stride, reverse=True)
    flat = [nn.functional.pad(tensor.permute(order).flatten(), (0, -first.numel() % _LANES)) for tensor in given]
    result = function(*flat)[: first.numel()].view([first.shape[axis] for axis in order])
    return result.permute([order.index(axis) for axis in range(first.dim())])
