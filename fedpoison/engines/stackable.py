"""Which nets can be stacked, and as what layers."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedpoison.engines import layers as stacked
from fedpoison.engines import pictures
from fedpoison.engines.layers import Layer
from fedpoison.models.dropout import StreamDropout
from fedpoison.models.inputs import Normalise
from fedpoison.models.vector import leaves


@dataclass(frozen=True)
class Net:
    """A net as layers for a stack; `lowest`: the first layer that has parameters."""

    normalise: Normalise | None
    layers: list[Layer]
    lowest: int

    @property
    def draws(self) -> bool:
        """Whether some layer draws random numbers."""
        return any(isinstance(layer, stacked.Dropout) for layer in self.layers)

    @property
    def has_pictures(self) -> bool:
        """Whether samples are pictures somewhere, and stacks so have to be full."""
        return any(isinstance(layer, pictures.ToPictures) for layer in self.layers)


def net_of(model: nn.Module, input_shape: tuple[int, ...], tokens: bool, slots: int) -> Net | None:
    """The layers of an nn.Sequential for stacks of at most `slots` nets; None if it has others than those known here.

    `tokens`: whether samples are sequences of token ids.
    """
    modules = leaves(model) if type(model) is nn.Sequential else []
    parameters = [p for m in modules for p in m.parameters()]
    plain = not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())
    if not plain or len({id(p) for p in parameters}) < len(parameters):
        return None
    if not all(p.requires_grad and p.dtype == torch.float32 for p in parameters):
        return None
    first = modules[0] if modules else None
    normalise = first if isinstance(first, Normalise) else None
    building = _Building(input_shape, "tokens" if tokens else "samples", slots)
    try:
        building.add(modules[1:] if normalise else modules)
    except _UnknownError:
        return None
    return building.net(normalise)


@torch.no_grad()
def convolution_work(model: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Multiplications of the convolutions of a Sequential in a forward pass of one sample; 0 if it has none."""
    work, sample = 0, torch.zeros(1, *input_shape)
    modules = leaves(model) if type(model) is nn.Sequential else []
    convolutions = [place for place, leaf in enumerate(modules) if isinstance(leaf, nn.Conv2d)]
    for leaf in modules[: convolutions[-1] + 1 if convolutions else 0]:
        if not isinstance(leaf, StreamDropout):
            sample = leaf(sample)
        if isinstance(leaf, nn.Conv2d):
            work += leaf.weight.numel() * sample[0, 0].numel()
    return work


class _UnknownError(Exception):
    """There is no stacked layer for a module."""


class _Building:
    """The layers so far, and the form in which samples leave the last of them.

    "samples": as the data have them, flat; then "pictures", "rows", or "sequences" of vectors.
    """

    def __init__(self, shape: tuple[int, ...], form: str, slots: int) -> None:
        self._shape, self._form, self._slots = shape, form, slots
        self._layers: list[Layer] = []
        self._place, self._lowest = 0, -1

    def add(self, modules: Iterable[nn.Module]) -> None:
        """Append each module's layer, in order."""
        for module in modules:
            if self._form == "samples" and len(self._shape) == 1:
                self._form = "rows"
            self._one(module)

    def net(self, normalise: Normalise | None) -> Net | None:
        """What was built, if it ends in logits."""
        if self._form != "rows" or self._lowest < 0:
            return None
        return Net(normalise, self._layers, self._lowest)

    def _one(self, module: nn.Module) -> None:
        if type(module) is nn.Flatten:
            self._flatten(module)
        elif type(module) is nn.Embedding:
            self._embedding(module)
        elif type(module) is nn.Linear:
            self._linear(module)
        elif type(module) is nn.LayerNorm or (type(module) is nn.GroupNorm and self._form == "rows"):
            self._row_norm(module)
        elif type(module) in (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.GroupNorm):
            self._on_pictures(module)
        else:
            self._anywhere(module)

    def _flatten(self, module: nn.Flatten) -> None:
        if (module.start_dim, module.end_dim) != (1, -1) or self._form == "tokens":
            raise _UnknownError
        if self._form == "pictures":
            self._layers.append(pictures.ToRows(self._slots))
        self._form = "rows"

    def _embedding(self, module: nn.Embedding) -> None:
        plain = module.max_norm is None and not module.scale_grad_by_freq and not module.sparse
        if self._form != "tokens" or not plain:
            raise _UnknownError
        padding = -1 if module.padding_idx is None else module.padding_idx
        self._append(stacked.Embedding(self._take(module.weight), module.num_embeddings, padding))
        self._form = "sequences"

    def _linear(self, module: nn.Linear) -> None:
        if self._form != "rows":
            raise _UnknownError
        self._append(stacked.Linear(self._take(module.weight), self._take_if(module.bias), module.out_features))

    def _row_norm(self, module: nn.LayerNorm | nn.GroupNorm) -> None:
        if self._form != "rows" or (isinstance(module, nn.LayerNorm) and len(module.normalized_shape) > 1):
            raise _UnknownError
        groups = module.num_groups if isinstance(module, nn.GroupNorm) else 1
        affine = None if module.weight is None else (self._take(module.weight), self._take_if(module.bias))
        self._append(stacked.RowNorm(affine, groups, module.eps), affine is not None)

    def _on_pictures(self, module: nn.Module) -> None:
        self._to_pictures()
        if isinstance(module, nn.Conv2d):
            if module.padding_mode != "zeros" or isinstance(module.padding, str):
                raise _UnknownError
            weight, bias = self._take(module.weight), self._take_if(module.bias)
            geometry = list(module.stride), list(module.padding), list(module.dilation), module.groups
            self._append(pictures.Convolution(weight, bias, tuple(module.weight.shape), *geometry, self._slots))
        elif isinstance(module, nn.GroupNorm):
            affine = (self._take(module.weight), self._take(module.bias)) if module.affine else None
            layer = pictures.PictureNorm(affine, module.num_groups, module.eps, self._slots)
            self._append(layer, affine is not None)
        elif isinstance(module, nn.MaxPool2d) and not module.return_indices:
            window = (_pair(module.kernel_size), _pair(module.stride), _pair(module.padding), _pair(module.dilation))
            pool = pictures.MaxPool((*window, module.ceil_mode))
            rectified = bool(self._layers) and isinstance(self._layers[-1], stacked.ReLU)
            self._layers.insert(len(self._layers) - rectified, pool)  # the same, and fewer values to rectify
        elif isinstance(module, nn.AvgPool2d):
            windows = _pair(module.kernel_size), _pair(module.stride), _pair(module.padding)
            counts = module.ceil_mode, module.count_include_pad, module.divisor_override
            self._layers.append(pictures.AveragePool((*windows, *counts)))
        elif isinstance(module, nn.AdaptiveAvgPool2d):
            self._layers.append(pictures.AveragePool(sizes=module.output_size))
        else:
            raise _UnknownError

    def _anywhere(self, module: nn.Module) -> None:
        if self._form == "samples":
            self._to_pictures()
        if self._form == "tokens":
            raise _UnknownError
        if type(module) is nn.ReLU:
            self._layers.append(stacked.ReLU())
        elif type(module) is nn.Tanh:
            self._layers.append(stacked.Tanh())
        elif type(module) is nn.GELU:
            self._layers.append(stacked.GELU(module.approximate))
        elif isinstance(module, StreamDropout) and self._form != "sequences":
            self._layers.append(stacked.Dropout(module.p, module.channels, self._slots))
        elif type(module) is not nn.Identity:
            raise _UnknownError

    def _to_pictures(self) -> None:
        if self._form == "samples" and len(self._shape) == 3:
            self._layers.append(pictures.ToPictures(self._shape, self._slots))
        elif self._form != "pictures":
            raise _UnknownError
        self._form = "pictures"

    def _take(self, parameter: Tensor) -> slice:
        start = self._place
        self._place += parameter.numel()
        return slice(start, self._place)

    def _take_if(self, parameter: Tensor | None) -> slice | None:
        return None if parameter is None else self._take(parameter)

    def _append(self, layer: Layer, has_parameters: bool = True) -> None:
        self._layers.append(layer)
        if has_parameters and self._lowest < 0:
            self._lowest = len(self._layers) - 1


def _pair(size: int | tuple[int, ...]) -> list[int]:
    return [size, size] if isinstance(size, int) else list(size)
