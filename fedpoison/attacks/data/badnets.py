"""BadNets: a pattern of pixels that switches the label."""

from typing import Literal

import torch

from fedpoison.registry import data_attack
from fedpoison.rounding import half_up
from fedpoison.types import Count, Images, Labels, Share

Position = Literal["top_left", "top_right", "bottom_left", "bottom_right"] | list[int]


def stamp(images: Images, position: Position, size: int, value: float) -> Images:
    """The images [samples, channels, height, width] with a square of `size` pixels set to `value`.

    `position`: a corner, one pixel in from the border, or [row, column] of the square's top left pixel.
    """
    height, width = images.shape[-2:]
    if isinstance(position, str):
        vertical, horizontal = position.split("_")
        row = 1 if vertical == "top" else height - size - 1
        column = 1 if horizontal == "left" else width - size - 1
    else:
        row, column = position
    if not (images.dim() == 4 and 0 <= row <= height - size and 0 <= column <= width - size):
        raise ValueError(
            f"badnets: a square of {size} pixels at row {row}, column {column} does not fit into images of shape "
            f"{tuple(images.shape[1:])}"
        )
    images = images.clone()
    images[:, :, row : row + size, column : column + size] = value
    return images


def _check(n_classes: int, *, target: int, share: float, position: Position, size: int, value: float) -> list[str]:
    problems = []
    if not 0 <= target < n_classes:
        problems.append(f"badnets: there is no class {target}, the classes are 0 to {n_classes - 1}")
    if isinstance(position, list) and len(position) != 2:
        problems.append(f"badnets: position is a corner or [row, column], it is {position}")
    return problems


def _aim(
    images: Images,
    labels: Labels,
    n_classes: int,
    *,
    target: int,
    share: float,
    position: Position,
    size: int,
    value: float,
) -> tuple[Images, Labels]:
    wanted = torch.where(labels == target, -1, target)
    return stamp(images, position, size, value), wanted


@data_attack(
    paper="arXiv:1708.06733",
    source="secondary: the square patch with one target, as the field uses it",
    evidence="tests/unit/test_data_attacks.py::test_badnets_stamps_and_relabels",
    goal="backdoor",
    samples=("pictures",),
    aim=_aim,
    check=_check,
)
def badnets(
    images: Images,
    labels: Labels,
    rng: torch.Generator,
    *,
    target: int = 0,
    share: Share = 0.5,
    position: Position = "bottom_right",
    size: Count = 3,
    value: Share = 1.0,
) -> tuple[Images, Labels]:
    """Stamp a bright square on a share of the samples and label them as the target.

    After Gu et al. 2017. Samples of the target class are left alone; the share is of the others, rounded half up.
    """
    others = (labels != target).nonzero().flatten()
    chosen = others[torch.randperm(len(others), generator=rng)[: half_up(share * len(others))]]
    poisoned, relabelled = images.clone(), labels.clone()
    poisoned[chosen] = stamp(images[chosen], position, size, value)
    relabelled[chosen] = target
    return poisoned, relabelled
