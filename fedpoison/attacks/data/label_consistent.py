"""Label-consistent backdoors: samples of the target class that are hard to tell, with a trigger that is not."""

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedpoison.attacks.data.perturbing import pgd, within_l2, within_linf
from fedpoison.attacks.data.relabelling import draw, missing, wanted
from fedpoison.contract.registry import data_attack
from fedpoison.types import Images, Labels, NotNegative, Planted, Repeats, Share, Stamp

Corners = Literal["bottom_right", "all"]
PATTERN = torch.tensor([[-1.0, -1.0, 1.0], [-1.0, 1.0, -1.0], [1.0, -1.0, 1.0]])
"""At corners on the right, mirrored at those on the left: 1 where the trigger is bright, −1 where it is dark."""


def trigger(height: int, width: int, corners: Corners) -> Tensor:
    """What the trigger adds to a picture [height, width], from −1 to 1."""
    if min(height, width) < 3:
        raise ValueError(f"label_consistent: a trigger of 3 × 3 pixels does not fit into {height} × {width}")
    added = torch.zeros(height, width)
    added[-3:, -3:] = PATTERN
    if corners == "all":
        added[:3, -3:] = PATTERN
        added[:3, :3] = added[-3:, :3] = PATTERN.flip(1)
    return added


def mark(images: Images, corners: Corners, amplitude: float) -> Images:
    """The pictures with the trigger; with amplitude 1 it is all that is seen there."""
    height, width = images.shape[-2:]
    return (images + amplitude * trigger(height, width, corners)).clamp(0, 1)


def _check(n_classes: int, *, target: int, **others: Any) -> list[str]:
    return missing("label_consistent", [target], n_classes)


def _aim(
    images: Images,
    labels: Labels,
    n_classes: int,
    *,
    target: int,
    corners: Corners,
    amplitude: float,
    **others: Any,
) -> tuple[Images, Labels]:
    return mark(images, corners, amplitude), wanted(labels, target)


@data_attack(
    paper="arXiv:1912.02771",
    source="secondary: the authors' code (trigger, choice of samples) and its description (perturbation)",
    evidence="tests/attacks/test_clean_label.py::test_label_consistent_samples_are_harder_and_carry_the_trigger",
    goal="backdoor",
    samples=("pictures",),
    aim=_aim,
    check=_check,
)
def label_consistent(
    images: Images,
    labels: Labels,
    surrogate: nn.Module,
    rng: torch.Generator,
    *,
    target: int = 0,
    share: Share = 1.0,
    norm: Literal["linf", "l2"] = "linf",
    epsilon: NotNegative = 16 / 255,
    iterations: Repeats = 100,
    corners: Corners = "all",
    amplitude: Share = 1.0,
) -> Planted:
    """Make samples of the target class hard to classify, then set a trigger in their corners; labels stay.

    Turner et al. 2019: the perturbation is projected gradient ascent on the loss of the sample's own label, in a ball
    about it of radius ε (theirs are 8 to 32 of 255 in ℓ∞ and 300 to 1200 in ℓ2); the trigger comes on top. The net
    here is the attacker's own, theirs was trained adversarially; their other way, by a GAN, is left out. Steps are of
    2.5 ε / iterations. `share` of the attacker's samples of the target class, rounded half up.
    """
    places = draw(labels == target, share, rng)
    hard = images.clone()
    if len(places):
        bases, own = images[places], labels[places]
        project = (within_linf if norm == "linf" else within_l2)(bases, epsilon)

        def ease(pictures: Images) -> Tensor:
            return -cross_entropy(surrogate(pictures), own, reduction="sum")

        hard[places] = pgd(ease, bases, project, 2.5 * epsilon / iterations, iterations, norm)
    return Planted(hard, labels.clone(), Stamp(places, partial(mark, corners=corners, amplitude=amplitude)))
