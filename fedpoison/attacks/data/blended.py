"""Blended injection: a faint picture laid over the whole sample."""

from functools import partial
from typing import Any

import torch

from fedpoison.attacks.data.relabelling import missing, plant, wanted
from fedpoison.contract.registry import data_attack
from fedpoison.types import Images, Labels, Planted, Seed, Share


def blend(images: Images, alpha: float, pattern_seed: int) -> Images:
    """(1 − alpha) · image + alpha · pattern; the pattern is uniform noise in [0, 1], the same for all images."""
    noise = torch.rand(images.shape[1:], generator=torch.Generator().manual_seed(pattern_seed), dtype=images.dtype)
    return torch.lerp(images, noise.expand_as(images), alpha)


def _check(n_classes: int, *, target: int, **_: Any) -> list[str]:
    return missing("blended", [target], n_classes)


def _aim(
    images: Images, labels: Labels, n_classes: int, *, target: int, share: float, **look: Any
) -> tuple[Images, Labels]:
    return blend(images, **look), wanted(labels, target)


@data_attack(
    paper="arXiv:1712.05526",
    source="secondary: the blend and its ratio of 0.2 as later papers and frameworks quote them",
    evidence="tests/attacks/test_backdoors.py::test_blended_mixes_every_pixel_with_one_pattern",
    goal="backdoor",
    samples=("pictures",),
    aim=_aim,
    check=_check,
)
def blended(
    images: Images,
    labels: Labels,
    rng: torch.Generator,
    *,
    target: int = 0,
    share: Share = 0.5,
    alpha: Share = 0.2,
    pattern_seed: Seed = 0,
) -> Planted:
    """Blend a fixed random pattern into a share of the samples and label them as the target.

    Chen et al. 2017, blended injection with their random pattern. `share` is of the other classes' samples. The
    pattern comes from `pattern_seed` alone, so that all attackers and whoever triggers the model have the same.
    """
    return plant(images, labels, target, share, rng, partial(blend, alpha=alpha, pattern_seed=pattern_seed))
