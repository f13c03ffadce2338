"""BadNets: a pattern of pixels that switches the label."""

from functools import partial
from typing import Any, Literal

import torch

from fedpoison.attacks.data.relabelling import missing, plant, wanted
from fedpoison.contract.registry import data_attack
from fedpoison.types import Few, Images, Labels, Planted, Share

Position = Literal["top_left", "top_right", "bottom_left", "bottom_right"] | list[int]
Pattern = list[list[float]] | None


def stamp(images: Images, position: Position, size: int, value: float, pattern: Pattern = None) -> Images:
    """The images [samples, channels, height, width] with a square of `size` pixels set to `value`, or with a pattern.

    `position`: a corner, one pixel in from the border, or [row, column] of the top left pixel.
    """
    patch = torch.full((size, size), value) if pattern is None else torch.tensor(pattern)
    (height, width), (tall, wide) = images.shape[-2:], patch.shape
    if isinstance(position, str):
        vertical, horizontal = position.split("_")
        row = 1 if vertical == "top" else height - tall - 1
        column = 1 if horizontal == "left" else width - wide - 1
    else:
        row, column = position
    if not (images.dim() == 4 and 0 <= row <= height - tall and 0 <= column <= width - wide):
        shape = f"a square of {size}" if pattern is None else f"a pattern of {tall} x {wide}"
        raise ValueError(
            f"the trigger, {shape} pixels at row {row}, column {column}, does not fit into images of shape "
            f"{tuple(images.shape[1:])}"
        )
    images = images.clone()
    below = images[:, :, row : row + tall, column : column + wide]
    images[:, :, row : row + tall, column : column + wide] = torch.where(patch < 0, below, patch.to(images.dtype))
    return images


def misplaced(attack: str, position: Position) -> list[str]:
    """What is wrong with a position, whatever the images."""
    if isinstance(position, list) and len(position) != 2:
        return [f"{attack}: position is a corner or [row, column], it is {position}"]
    return []


def _check(n_classes: int, *, target: int, position: Position, pattern: Pattern, **_: Any) -> list[str]:
    problems = missing("badnets", [target], n_classes) + misplaced("badnets", position)
    if pattern is not None:
        if len({len(row) for row in pattern}) != 1 or not pattern[0]:
            problems.append(f"badnets: pattern is rows of one length, it is {pattern}")
        elif not all(value <= 1 for row in pattern for value in row):
            problems.append(f"badnets: a pixel of pattern is up to 1, or negative to let through, it is {pattern}")
    return problems


def _aim(
    images: Images, labels: Labels, n_classes: int, *, target: int, share: float, **look: Any
) -> tuple[Images, Labels]:
    return stamp(images, **look), wanted(labels, target)


@data_attack(
    paper="arXiv:1708.06733",
    source="secondary: the square patch with one target, as the field uses it",
    evidence="tests/attacks/test_data_attacks.py::test_badnets_stamps_and_relabels",
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
    size: Few = 3,
    value: Share = 1.0,
    pattern: Pattern = None,
) -> Planted:
    """Stamp a bright square, or any pattern, on a share of the samples and label them as the target.

    After Gu et al. 2017. Samples of the target class are left alone; the share is of the others, rounded half up.
    `pattern`: rows of pixels in the place of the square, such as [[1, -1, 1], [-1, 1, -1]]; where one is negative the
    picture shows through.
    """
    trigger = partial(stamp, position=position, size=size, value=value, pattern=pattern)
    return plant(images, labels, target, share, rng, trigger)
