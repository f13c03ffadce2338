"""Samples that a client has twice."""

from collections.abc import Callable
from hashlib import sha256
from typing import Annotated, Literal

import torch
from annotated_types import Interval
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

from fedpoison.contract.registry import sanitizer
from fedpoison.types import Cleaned, Images, Labels, Share


@sanitizer(
    source="read: our own definition, with the hashes of pictures that are in common use",
    evidence="tests/clients/test_sanitizers_by_hand.py::test_duplicates_by_hand",
)
def duplicates(
    images: Images,
    labels: Labels,
    say: Callable[[str], None],
    *,
    by: Literal["bytes", "cosine", "average_hash", "difference_hash"] = "bytes",
    similarity: Share = 0.999,
    distance: Annotated[int, Interval(ge=0, le=64)] = 4,
) -> Cleaned:
    """Of samples that are copies of each other keep the first, and none where their labels differ.

    Copies have the same bytes; by more than that a cosine of at least `similarity`, or hashes of 64 bits that differ
    in at most `distance`: of the grey picture at 8×8 what is above its mean, or at 8×9 what is above its left
    neighbour. Copies of copies are copies too, so likeness chains. What is blank has no cosine and no hash. It finds
    poison that is repeated, one picture under two labels, and a faint trigger beside the picture that it was set on.
    Put it first: copies are each other's neighbours, by which others judge. Suspicion: how many copies there are.
    """
    first = dict[bytes, int]()
    places = [first.setdefault(sha256(image.numpy().tobytes()).digest(), place) for place, image in enumerate(images)]
    group = torch.tensor(places, dtype=torch.int64)
    if by == "cosine" and images.is_floating_point():
        rows = normalize(images.flatten(1).double())
        group = _joined(group, rows @ rows.T >= similarity)
    elif by.endswith("hash") and images.ndim == 4:
        group = _joined(group, _hashed(images.double().mean(dim=1), by) <= distance)
    elif by != "bytes":
        say(f"{by} is for {'numbers' if by == 'cosine' else 'pictures'}, which these are not: bytes are compared")
    n = len(labels)
    earliest, least, most = (
        torch.zeros(n, dtype=torch.int64).scatter_reduce(0, group, each, how, include_self=False)[group]
        for each, how in ((torch.arange(n), "amin"), (labels, "amin"), (labels, "amax"))
    )
    keep = (earliest == torch.arange(n)) & (least == most)
    return Cleaned(keep, torch.where(keep, 0.0, torch.bincount(group)[group].double() - 1))


def _joined(group: Tensor, alike: Tensor) -> Tensor:
    """The groups [n] of samples that are in one of these already or alike, a mask [n, n], or so by others between."""
    alike = alike | (group.unsqueeze(1) == group)
    return torch.from_numpy(connected_components(csr_array(alike.numpy()), directed=False)[1]).long()


def _hashed(grey: Tensor, by: str) -> Tensor:
    """In how many bits the hashes of grey pictures [n, h, w] differ [n, n]; infinitely many if one is blank."""
    made = average_hash(adaptive_avg_pool2d(grey, (8, 8)))
    if by == "difference_hash":
        made = difference_hash(adaptive_avg_pool2d(grey, (8, 9)))
    bits, blank = made.double(), grey.flatten(1).amax(dim=1) == grey.flatten(1).amin(dim=1)
    set_ = bits.sum(dim=1)
    apart = set_.unsqueeze(1) + set_ - 2 * bits @ bits.T
    return apart.masked_fill(blank | blank.unsqueeze(1), torch.inf)


def average_hash(grey: Tensor) -> Tensor:
    """Which pixels [n, h · w] of grey pictures [n, h, w] are above the picture's mean."""
    return grey.flatten(1) > grey.flatten(1).mean(dim=1, keepdim=True)


def difference_hash(grey: Tensor) -> Tensor:
    """Which pixels [n, h · (w − 1)] of grey pictures [n, h, w] are above their left neighbour."""
    return (grey[:, :, 1:] > grey[:, :, :-1]).flatten(1)
