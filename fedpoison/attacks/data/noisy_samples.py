"""Noise over the samples, their labels kept."""

import torch

from fedpoison.attacks.data.relabelling import draw
from fedpoison.attacks.data.victims import aim_at_nothing
from fedpoison.contract.registry import data_attack
from fedpoison.types import Images, Labels, NotNegative, Share


@data_attack(
    paper="arXiv:1909.05125",
    source="secondary: recalled, its noisy clients",
    evidence="tests/attacks/test_clean_label.py::test_noise_is_uniform_and_cut_off",
    goal="availability",
    samples=("pictures",),
    aim=aim_at_nothing,
)
def noisy_samples(
    images: Images, labels: Labels, rng: torch.Generator, *, share: Share = 1.0, amplitude: NotNegative = 0.7
) -> tuple[Images, Labels]:
    """Add uniform noise to every pixel of a share of the samples and cut off what leaves [0, 1].

    After the noisy clients of Muñoz-González et al. 2019: noise from −1.4 to 1.4 on pixels from −1 to 1, which is an
    `amplitude` of .7 here. The larger it is, the nearer a pixel is to a coin of black and white.
    """
    chosen = draw(torch.ones_like(labels, dtype=torch.bool), share, rng)
    noise = amplitude * (2 * torch.rand(images[chosen].shape, generator=rng) - 1)
    poisoned = images.clone()
    poisoned[chosen] = (images[chosen] + noise).clamp(0, 1)
    return poisoned, labels.clone()
