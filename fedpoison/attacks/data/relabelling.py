"""What backdoor attacks have in common: a share of samples gets the trigger and, mostly, the target's label."""

from collections.abc import Callable

import torch
from torch import Tensor

from fedpoison.common.rounding import half_up
from fedpoison.types import Images, Labels, Planted, Stamp


def draw(eligible: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """The places of a share of the eligible samples, rounded half up, in random order."""
    places = eligible.nonzero().flatten()
    return places[torch.randperm(len(places), generator=rng)[: half_up(share * len(places))]]


def plant(
    images: Images,
    labels: Labels,
    target: int,
    share: float,
    rng: torch.Generator,
    trigger: Callable[[Images], Images],
) -> Planted:
    """Put the trigger on a share of the samples that are not of the target class, and label them as the target."""
    chosen = draw(labels != target, share, rng)
    relabelled = labels.clone()
    relabelled[chosen] = target
    return Planted(images, relabelled, Stamp(chosen, trigger))


def wanted(labels: Labels, target: int) -> Labels:
    """The target for samples of all other classes, −1 for its own."""
    return torch.where(labels == target, -1, target)


def missing(attack: str, classes: list[int], n_classes: int) -> list[str]:
    """A sentence for each class that is not there."""
    last = n_classes - 1
    return [f"{attack}: there is no class {c}, the classes are 0 to {last}" for c in classes if not 0 <= c <= last]
