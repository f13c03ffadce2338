"""Label flipping in all its forms."""

from typing import Literal

import torch
from torch import Tensor

from fedpoison.attacks.data.relabelling import draw, missing
from fedpoison.contract.registry import data_attack
from fedpoison.types import Images, Labels, Share

Source = int | list[int] | Literal["all"]
Target = int | Literal["C-1-y", "random"]


def _check(n_classes: int, *, source: Source, target: Target, share: float) -> list[str]:
    sources = list(range(n_classes)) if source == "all" else source if isinstance(source, list) else [source]
    problems = missing("label_flip", [c for c in (*sources, target) if isinstance(c, int)], n_classes)
    if problems:
        return problems
    if all(_wanted(c, n_classes, target) == c for c in sources):
        return [f"label_flip: with source = {source} and target = {target} nothing would be flipped"]
    return []


def _wanted(label: int, n_classes: int, target: Target) -> int:
    """The label that the attacker gives a class; −1 for any other one."""
    if target == "random":
        return -1
    return n_classes - 1 - label if target == "C-1-y" else target


def _attacked(labels: Labels, n_classes: int, source: Source, target: Target) -> tuple[Tensor, Labels]:
    """Which samples are of a source class and do not have the wanted label already; and the wanted labels."""
    wanted = torch.tensor([_wanted(c, n_classes, target) for c in range(n_classes)])[labels]
    chosen = torch.ones_like(labels, dtype=torch.bool) if source == "all" else torch.isin(labels, torch.tensor(source))
    return chosen & (wanted != labels), wanted


def _aim(
    images: Images, labels: Labels, n_classes: int, *, source: Source, target: Target, share: float
) -> tuple[Images, Labels]:
    attacked, wanted = _attacked(labels, n_classes, source, target)
    return images, torch.where(attacked, wanted, -1)


def _goal(*, source: Source, target: Target, share: float) -> str:
    return "availability" if source == "all" and not isinstance(target, int) else "source_to_target"


@data_attack(
    paper="arXiv:2007.08432",
    source="secondary: the authors' code (source to target)",
    evidence="tests/attacks/test_data_attacks.py::test_label_flip_flips_just_the_source",
    goal=_goal,
    aim=_aim,
    check=_check,
)
def label_flip(
    images: Images,
    labels: Labels,
    n_classes: int,
    rng: torch.Generator,
    *,
    source: Source = "all",
    target: Target = "C-1-y",
    share: Share = 1.0,
) -> tuple[Images, Labels]:
    """Give samples of the source class the target's label; the images stay as they are.

    Tolpegin et al. 2020 (source to target). `source`: a class, a list or
    "all". `target`: a class, "C-1-y" (the mirrored label) or "random" (another class, uniformly). `share` of
    the attacked samples, rounded half up.
    """
    attacked, wanted = _attacked(labels, n_classes, source, target)
    chosen = draw(attacked, share, rng)
    flipped = labels.clone()
    if target == "random":
        shift = torch.randint(1, n_classes, (len(chosen),), generator=rng)
        flipped[chosen] = (labels[chosen] + shift) % n_classes
    else:
        flipped[chosen] = wanted[chosen]
    return images, flipped
