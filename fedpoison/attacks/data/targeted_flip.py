"""Flip the labels of the samples that are most like a certain one."""

from functools import partial

import torch

from fedpoison.attacks.data.victims import Place, aim_at_one, check_classes
from fedpoison.common.rounding import half_up
from fedpoison.contract.registry import data_attack
from fedpoison.types import Images, Labels, Share, Victims


@data_attack(
    paper="arXiv:2006.14026",
    source="secondary: label flips on the subpopulation of a chosen sample, as the abstract has them",
    evidence="tests/attacks/test_data_attacks.py::test_targeted_flip_flips_the_nearest_of_the_source",
    goal="targeted",
    samples=("pictures", "rows"),
    aim=aim_at_one,
    check=partial(check_classes, "targeted_flip"),
)
def targeted_flip(
    images: Images,
    labels: Labels,
    victims: Victims,
    *,
    source: int = 1,
    target: int = 0,
    victim: Place = 0,
    share: Share = 0.2,
) -> tuple[Images, Labels]:
    """Give the samples of the source class that are nearest to the victim, a test sample of it, the target's label.

    After Jagielski et al. 2021, whose subpopulations are clusters; here it is what is near the victim in Euclidean
    distance of the samples themselves. `share` of the attacker's samples of the source class, rounded half up. All
    else stays, so the model loses little but the victim and its like.
    """
    places = (labels == source).nonzero().flatten()
    distances = torch.linalg.vector_norm((images[places] - victims).flatten(1), dim=1)
    nearest = places[distances.argsort(stable=True)[: half_up(share * len(places))]]
    flipped = labels.clone()
    flipped[nearest] = target
    return images, flipped
