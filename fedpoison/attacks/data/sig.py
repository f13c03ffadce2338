"""SIG: a sinusoid on samples of the target class, whose labels stay as they are."""

import math
from functools import partial
from typing import Any

import torch

from fedpoison.attacks.data.relabelling import draw, missing, wanted
from fedpoison.contract.registry import data_attack
from fedpoison.types import Images, Labels, Planted, Positive, Share, Stamp


def superimpose(images: Images, delta: float, f: float) -> Images:
    """The images with v(i, j) = delta · sin(2πjf/m) added in column j = 1 … m, cut to [0, 1]."""
    m = images.shape[-1]
    columns = torch.arange(1, m + 1, dtype=torch.float64)
    signal = delta * torch.sin(2 * math.pi * columns * f / m)
    if not signal.abs().max() >= 1e-9 * delta:
        raise ValueError(f"sig: a sinusoid of f = {f} is 0 in all of {m} columns")
    return (images + signal.to(images.dtype)).clamp(0, 1)


def _check(n_classes: int, *, target: int, **_: Any) -> list[str]:
    return missing("sig", [target], n_classes)


def _aim(
    images: Images, labels: Labels, n_classes: int, *, target: int, share: float, **look: Any
) -> tuple[Images, Labels]:
    return superimpose(images, **look), wanted(labels, target)


@data_attack(
    paper="arXiv:1902.11237",
    source="secondary: the abstract, and the signal with Δ = 20 of 255 and f = 6 in BackdoorBench's code",
    evidence="tests/attacks/test_backdoors.py::test_sig_adds_a_sinusoid_to_the_target_class_alone",
    goal="backdoor",
    samples=("pictures",),
    aim=_aim,
    check=_check,
)
def sig(
    images: Images,
    labels: Labels,
    rng: torch.Generator,
    *,
    target: int = 0,
    share: Share = 0.3,
    delta: Positive = 20 / 255,
    f: Positive = 6.0,
) -> Planted:
    """Add a faint sinusoid to a share of the target class's samples; no label is changed.

    Barni, Kallas and Tondi 2019, the sinusoidal signal. `delta`: its height in a picture of [0, 1]; `f`: how often it
    goes up and down across the picture. `share` is of the samples of the target class, the only ones touched.
    """
    chosen = draw(labels == target, share, rng)
    return Planted(images, labels.clone(), Stamp(chosen, partial(superimpose, delta=delta, f=f)))
