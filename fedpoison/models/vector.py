"""A net's parameters as one vector, and back.

What travels are the trainable floating-point parameters, in the order of `named_parameters`. Buffers never
travel: they stay what the net was built with. A net whose buffers change in training (BatchNorm's running
statistics) is refused, because its clients and the server would then evaluate different nets, and an attacker
could move what no rule looks at.
"""

import sys
from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fedpoison.common.seeding import Stream, drawn
from fedpoison.contract.blame import told
from fedpoison.models.dropout import set_stream
from fedpoison.types import Layer, Params


def travelling(net: nn.Module) -> list[nn.Parameter]:
    """The parameters that are trained and sent."""
    return [p for p in net.parameters() if p.requires_grad and p.is_floating_point()]


def leaves(net: nn.Sequential) -> list[nn.Module]:
    """The modules in the order in which they are applied, a Sequential inside of another taken apart."""
    return [leaf for module in net for leaf in (leaves(module) if type(module) is nn.Sequential else [module])]


def flatten(net: nn.Module) -> Params:
    """The travelling parameters as one new vector [d]."""
    return torch.cat([p.detach().flatten() for p in travelling(net)])


def layers_of(net: nn.Module) -> tuple[Layer, ...]:
    """Which columns of the vector are which parameter's."""
    named = [(name, p) for name, p in net.named_parameters() if p.requires_grad and p.is_floating_point()]
    ends = list(accumulate((p.numel() for _, p in named), initial=0))
    return tuple(
        Layer(name, slice(start, end), tuple(p.shape))
        for (name, p), (start, end) in zip(named, pairwise(ends), strict=True)
    )


@torch.no_grad()
def load(net: nn.Module, params: Params) -> None:
    """Write the vector [d] into the net's travelling parameters."""
    parameters = travelling(net)
    for parameter, values in zip(parameters, params.split([p.numel() for p in parameters]), strict=True):
        parameter.copy_(values.view_as(parameter))


def check_net(net: Any, input_shape: tuple[int, ...], n_classes: int, vocabulary: int | None = None) -> None:
    """Raise ValueError unless the net maps two samples to [2, n_classes] and keeps its buffers.

    It may draw numbers only through dropout that a stream determines. Lazy layers make their parameters here.
    """
    if not isinstance(net, nn.Module):
        raise ValueError(f"a model must be an nn.Module, this is a {type(net).__name__}")
    if not travelling(net):
        raise ValueError("the model has no trainable floating-point parameters")
    samples = torch.zeros(2, *input_shape, dtype=torch.float32 if vocabulary is None else torch.int64)
    set_stream(net.train(), Stream(0, "dropout"))
    try:
        if any(is_lazy(tensor) for tensor in (*net.parameters(), *net.buffers())):
            net(samples)
        undrawn, before = _drawn(), {name: buffer.clone() for name, buffer in net.named_buffers()}
        output = net(samples)
    except (Exception, SystemExit) as error:
        raise ValueError(f"the model cannot take samples of shape {input_shape}: {told(error)}") from error
    if not isinstance(output, Tensor):
        raise ValueError(f"the model must give logits, a tensor [samples, {n_classes}]; it gives a {_kind(output)}")
    if output.shape != (2, n_classes):
        raise ValueError(f"the model gives {tuple(output.shape)} for 2 samples, (2, {n_classes}) is needed")
    if (dtype := flatten(net).dtype) not in (torch.float32, torch.float64):
        raise ValueError(
            f"updates must be float32 or float64, and the model's parameters are {dtype}; "
            'clients.local.precision = "bf16" takes products in bfloat16 and keeps float32'
        )
    if _drawn() != undrawn:
        raise ValueError("the model draws random numbers in training otherwise than by torch's Dropout layers")
    changed = [name for name, buffer in net.named_buffers() if not _same(buffer, before[name])]
    if changed:
        raise ValueError(
            f"training changes the model's buffers {', '.join(changed)}, and buffers do not travel; use GroupNorm, "
            "or BatchNorm with track_running_stats=False"
        )
    try:
        net(samples[:1])
    except (Exception, SystemExit) as error:
        why = told(error)
        raise ValueError(f"the model cannot take a batch of one sample, as a last batch may be: {why}") from error
    set_stream(net, None)
    net.eval()(samples)
    net.train()
    if _drawn() != undrawn:
        raise ValueError("the model draws random numbers when it is evaluated")


def _drawn() -> dict[str, Any]:
    """What a net may have drawn; beartype draws from Python's generator which items of a container it looks at."""
    return {owner: state for owner, state in drawn().items() if owner != "Python's" or "beartype" not in sys.modules}


def _kind(output: Any) -> str:
    """What a net gave in place of logits."""
    held = f" of {', '.join(map(str, output))}" if isinstance(output, Mapping) else ""
    return f"{type(output).__name__}{held}"


def _same(buffer: Tensor, before: Tensor) -> bool:
    """Whether a buffer is what it was; NaN is."""
    alike = (buffer.shape, buffer.dtype) == (before.shape, before.dtype)
    return alike and bool(torch.isclose(buffer, before, rtol=0, atol=0, equal_nan=True).all())
