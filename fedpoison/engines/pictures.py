"""Stacked layers on pictures: [B, slots · channels, height, width] with channels innermost in memory.

A net's channels are a group of a grouped convolution. Such a convolution rounds by how many groups there are but not
by where in them a net is, so pictures always have the stack's full number of slots; what a slot without a net holds
is nobody's.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedpoison.engines.layers import Pass

aten = torch.ops.aten


@dataclass(frozen=True)
class Convolution:
    """A convolution of pictures; each net's is a group of a grouped one, or several."""

    weight: slice
    bias: slice | None
    shape: tuple[int, ...]
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int
    slots: int

    def forward(self, entered: Tensor, now: Pass) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One grouped convolution."""
        weight = _in_slots(now.nets[:, self.weight], self.slots).view(-1, *self.shape[1:])
        weight = now.operand(weight.contiguous(memory_format=torch.channels_last))
        entered = now.operand(entered)
        bias = None if self.bias is None else _in_slots(now.nets[:, self.bias], self.slots).flatten()
        groups = self.slots * self.groups
        bias = None if bias is None else now.operand(bias)
        left = torch.conv2d(entered, weight, bias, self.stride, self.padding, self.dilation, groups)
        return left.float(), (entered, weight)

    def backward(self, delta: Tensor, kept: tuple[Tensor, Tensor], now: Pass, below: bool) -> Tensor | None:
        """The gradients of a grouped convolution."""
        entered, weight = kept
        k, biases = len(now.nets), None if self.bias is None else [len(weight)]
        geometry = biases, self.stride, self.padding, self.dilation, False, [0, 0], self.slots * self.groups
        wanted = [below, True, self.bias is not None]
        lower, by_weight, by_bias = aten.convolution_backward(now.operand(delta), entered, weight, *geometry, wanted)
        now.taken.take(self.weight, by_weight.reshape(self.slots, -1)[:k].float())
        if self.bias is not None:
            now.taken.take(self.bias, by_bias.view(self.slots, -1)[:k].float())
        return lower.float() if below else None


@dataclass(frozen=True)
class MaxPool:
    """The largest value of each window of a picture."""

    geometry: tuple[Any, ...]

    def forward(self, entered: Tensor, now: Pass) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Torch's own, which also says where the largest is."""
        pooled, places = aten.max_pool2d_with_indices(entered, *self.geometry)
        return pooled, (entered, places)

    def backward(self, delta: Tensor, kept: tuple[Tensor, Tensor], now: Pass, below: bool) -> Tensor:
        """The gradient at those places."""
        entered, places = kept
        lower: Tensor = aten.max_pool2d_with_indices_backward(delta, entered, *self.geometry, places)
        return lower


@dataclass(frozen=True)
class AveragePool:
    """The mean of each window of a picture; of as many windows as `sizes` says if it is given."""

    geometry: tuple[Any, ...] = ()
    sizes: Any = None

    def forward(self, entered: Tensor, now: Pass) -> tuple[Tensor, Tensor]:
        """Torch's own."""
        if self.sizes is None:
            pooled: Tensor = aten.avg_pool2d(entered, *self.geometry)
            return pooled, entered
        return nn.functional.adaptive_avg_pool2d(entered, self.sizes), entered

    def backward(self, delta: Tensor, kept: Tensor, now: Pass, below: bool) -> Tensor:
        """The gradient shared out over each window."""
        lower: Tensor
        if self.sizes is None:
            lower = aten.avg_pool2d_backward(delta, kept, *self.geometry)
            return lower
        if delta.shape[2:] == (1, 1):
            return (delta / kept[0, 0].numel()).expand_as(kept).contiguous(memory_format=torch.channels_last)
        lower = aten._adaptive_avg_pool2d_backward(delta, kept)
        return lower


@dataclass(frozen=True)
class PictureNorm:
    """Group normalisation of pictures: a net's groups are some of all the groups."""

    affine: tuple[slice, slice] | None
    groups: int
    eps: float
    slots: int

    def forward(self, entered: Tensor, now: Pass) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Torch's own, over the groups of all nets."""
        scale, shift = self._affine(now)
        left, mean, deviation = aten.native_group_norm(entered, scale, shift, *self._sizes(entered), self.eps)
        return left, (entered, mean, deviation)

    def backward(self, delta: Tensor, kept: tuple[Tensor, ...], now: Pass, below: bool) -> Tensor | None:
        """Torch's own gradients."""
        scale, _ = self._affine(now)
        wanted = [True, self.affine is not None, self.affine is not None]  # torch crashes without the first
        delta = delta.contiguous(memory_format=torch.channels_last)
        lower, *gradients = aten.native_group_norm_backward(delta, *kept, scale, *self._sizes(delta), wanted)
        for place, gradient in zip(self.affine or (), gradients, strict=False):
            now.taken.take(place, gradient.view(self.slots, -1)[: len(now.nets)])
        return lower if below else None

    def _affine(self, now: Pass) -> tuple[Tensor | None, Tensor | None]:
        if self.affine is None:
            return None, None
        scale, shift = (_in_slots(now.nets[:, place], self.slots).flatten() for place in self.affine)
        return scale, shift

    def _sizes(self, pictures: Tensor) -> tuple[int, int, int, int]:
        batch, channels, height, width = pictures.shape
        return batch, channels, height * width, self.slots * self.groups


@dataclass(frozen=True)
class ToPictures:
    """Rows to pictures of this shape (channels, height, width)."""

    shape: tuple[int, ...]
    slots: int

    def forward(self, entered: Tensor, now: Pass) -> tuple[Tensor, None]:
        """Put the nets side by side, channels innermost."""
        k, batch, _ = entered.shape
        channels, height, width = self.shape
        make = entered.new_empty if k == self.slots else entered.new_zeros
        pictures = make((batch, height, width, self.slots, channels))
        pictures.permute(3, 0, 4, 1, 2)[:k] = entered.view(k, batch, *self.shape)
        return pictures.flatten(3).permute(0, 3, 1, 2), None

    def backward(self, delta: Tensor, kept: None, now: Pass, below: bool) -> Tensor:
        """The way back."""
        return ToRows(self.slots).forward(delta, now)[0]


@dataclass(frozen=True)
class ToRows:
    """Pictures to rows of their pixels, channel by channel."""

    slots: int

    def forward(self, entered: Tensor, now: Pass) -> tuple[Tensor, tuple[int, ...]]:
        """Take the nets apart."""
        apart = entered.unflatten(1, (self.slots, -1))[:, : len(now.nets)].transpose(0, 1)
        return apart.flatten(2).contiguous(), tuple(apart.shape[2:])

    def backward(self, delta: Tensor, kept: tuple[int, ...], now: Pass, below: bool) -> Tensor:
        """The way back."""
        return ToPictures(kept, self.slots).forward(delta, now)[0]


def _in_slots(values: Tensor, slots: int) -> Tensor:
    """Values [k, ·] in as many slots, 0 where there is no net."""
    if len(values) == slots:
        return values.contiguous()
    filled = values.new_zeros(slots, values.shape[1])
    filled[: len(values)] = values
    return filled
