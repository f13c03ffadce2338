"""What attacks with clean labels want of test samples: one of them, or nothing."""

from typing import Annotated, Any

import torch
from annotated_types import Ge

from fedpoison.attacks.data.relabelling import missing
from fedpoison.types import Images, Labels

Place = Annotated[int, Ge(0)]
"""Which one, counted from 0."""


def aim_at_one(
    images: Images, labels: Labels, n_classes: int, *, source: int, target: int, victim: int, **others: Any
) -> tuple[Images, Labels]:
    """Want the test sample number `victim` of class `source` taken for class `target`, shown as it is."""
    places = (labels == source).nonzero().flatten()
    if victim >= len(places):
        raise ValueError(
            f"victim = {victim} counts test samples of class {source} from 0, and there are {len(places)} of them"
        )
    wanted = torch.full_like(labels, -1)
    wanted[places[victim]] = target
    return images, wanted


def aim_at_nothing(images: Images, labels: Labels, n_classes: int, **options: Any) -> tuple[Images, Labels]:
    """Want no class of any test sample: what is measured is the accuracy that is lost."""
    return images, torch.full_like(labels, -1)


def check_classes(attack: str, n_classes: int, *, source: int, target: int, **others: Any) -> list[str]:
    """What is wrong with going from class `source` to class `target`."""
    same = [f"{attack}: source = target = {source}, nothing would be gained"] if source == target else []
    return missing(attack, [source, target], n_classes) or same
