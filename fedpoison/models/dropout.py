"""Dropout whose masks come from a task's own stream, so that no thread or neighbour changes them."""

import torch
from torch import Tensor, nn

from fedpoison.common.seeding import Stream

_KINDS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


class StreamDropout(nn.Module):
    """Inverted dropout: in training each entry (or each channel) is 0 with chance p, and else divided by 1 − p."""

    def __init__(self, p: float, channels: bool) -> None:
        super().__init__()
        self.p, self.channels = p, channels
        self.generator: torch.Generator | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        """The inputs with some entries or channels dropped; as they are in evaluation."""
        if not self.training or self.p == 0:
            return inputs
        if self.generator is None:
            raise RuntimeError("no stream was set for the dropout")
        shape = (*inputs.shape[:2], *[1] * (inputs.dim() - 2)) if self.channels else inputs.shape
        kept = torch.rand(shape, generator=self.generator) >= self.p
        return inputs * (kept.to(inputs) / (1 - self.p) if self.p < 1 else 0.0)


def with_streams(net: nn.Module) -> nn.Module:
    """The net with each of torch's dropout layers replaced by one that a stream determines."""
    if isinstance(net, _KINDS):
        return StreamDropout(float(net.p), type(net) is not nn.Dropout)
    for name, child in net.named_children():
        setattr(net, name, with_streams(child))
    return net


def set_stream(net: nn.Module, stream: Stream | None) -> None:
    """Let all dropout layers of the net draw from the start of this stream, in the order in which they are reached."""
    layers = [module for module in net.modules() if isinstance(module, StreamDropout)]
    generator = stream.torch() if stream and layers else None
    for layer in layers:
        layer.generator = generator
