"""A net of which only the last layers are trained: what is frozen is applied to each sample once."""

import hashlib
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor, nn

from fedpoison.common.parallel import in_parallel
from fedpoison.data import Dataset
from fedpoison.models.vector import leaves, travelling

_CHUNK = 500


def split(net: nn.Module, trained: int) -> tuple[nn.Sequential, nn.Sequential]:
    """The front of a Sequential, frozen, and its end, which has its last `trained` layers with parameters.

    With `trained` = 1 the front gives the features that the last layer sees. ValueError if nothing would be frozen.
    """
    if type(net) is not nn.Sequential:
        raise ValueError(f"only an nn.Sequential can be frozen in part, this net is a {type(net).__name__}")
    modules = leaves(net)
    places = [place for place, module in enumerate(modules) if travelling(module)]
    if trained >= len(places):
        raise ValueError(f"the net has {len(places)} layers with parameters: train_last = {trained} leaves none frozen")
    cut = places[-trained]
    return nn.Sequential(*modules[:cut]).eval().requires_grad_(False), nn.Sequential(*modules[cut:])


@torch.no_grad()
def apply(front: nn.Module, samples: Tensor) -> Tensor:
    """What a frozen front makes of samples [N, ...], in pieces of a fixed size."""
    return torch.cat(list(in_parallel(lambda part: front(part.clone()), samples.split(_CHUNK))))  # it may write to them


def seen_through(front: nn.Module, dataset: Dataset) -> Dataset:
    """The data set as what comes after a frozen front sees it; the last one is kept, for the next run of a sweep."""
    return _seen(_Known(front), dataset)


class _Known:
    """A front by what it is and holds, not by which object; with a module of the user's it is equal to none.

    Torch's modules show their settings when they are printed, a user's need not.
    """

    def __init__(self, front: nn.Module) -> None:
        self.front, self._digest = front, b""
        if all(type(module).__module__.startswith(("torch.nn.", "fedpoison.")) for module in front.modules()):
            digest = hashlib.sha256(repr(front).encode())
            for tensor in (*front.parameters(), *front.buffers()):
                digest.update(tensor.detach().numpy().tobytes())
            self._digest = digest.digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Known) and self._digest == other._digest != b""

    def __hash__(self) -> int:
        return hash(self._digest)


@lru_cache(maxsize=1)
def _seen(known: _Known, dataset: Dataset) -> Dataset:
    train, test = (apply(known.front, images) for images in (dataset.train_images, dataset.test_images))
    return replace(dataset, train_images=train, test_images=test, vocabulary=None, seen_through=True)
