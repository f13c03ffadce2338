"""WaNet: a smooth warp that nobody sees, told apart from other warps."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from fedpoison.attacks.data.relabelling import draw, missing, plant, wanted
from fedpoison.common.rounding import half_up
from fedpoison.contract.registry import data_attack
from fedpoison.types import Few, Images, Labels, NotNegative, Planted, Seed, Share, Stamp


def field(height: int, width: int, k: int, s: float, field_seed: int) -> Tensor:
    """Where each pixel is taken from, [1, height, width, 2] as (x, y) in [−1, 1].

    A k × k grid of uniform displacements of mean size 1 is upsampled, and moves the identity by s/height.
    """
    drawn = torch.rand(1, 2, k, k, generator=torch.Generator().manual_seed(field_seed)) * 2 - 1
    flow = interpolate(drawn / drawn.abs().mean(), size=(height, width), mode="bicubic", align_corners=True)
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return (torch.stack([x, y], dim=-1) + s * flow.permute(0, 2, 3, 1) / height).clamp(-1, 1)


def warp(images: Images, off: Tensor | None = None, *, k: int, s: float, field_seed: int) -> Images:
    """The images taken through the field; each through its own where that is `off` [samples, height, width, 2].

    Off by 1 is off by 1/height.
    """
    height, width = images.shape[-2:]
    grid = field(height, width, k, s, field_seed).expand(len(images), -1, -1, -1)
    if off is not None:
        grid = (grid + off / height).clamp(-1, 1)
    return grid_sample(images, grid.to(images.dtype), align_corners=True).clamp(0, 1)


def _check(n_classes: int, *, target: int, **_: Any) -> list[str]:
    return missing("wanet", [target], n_classes)


def _aim(
    images: Images, labels: Labels, n_classes: int, *, target: int, share: float, cross_ratio: float, **look: Any
) -> tuple[Images, Labels]:
    return warp(images, **look), wanted(labels, target)


@data_attack(
    paper="arXiv:2102.10369",
    source="secondary: the authors' code (train.py, config.py)",
    evidence="tests/attacks/test_backdoors.py::test_wanet_takes_each_pixel_from_where_the_field_says",
    goal="backdoor",
    samples=("pictures",),
    aim=_aim,
    check=_check,
)
def wanet(
    images: Images,
    labels: Labels,
    rng: torch.Generator,
    *,
    target: int = 0,
    share: Share = 0.1,
    cross_ratio: NotNegative = 2.0,
    k: Few = 4,
    s: NotNegative = 0.5,
    field_seed: Seed = 0,
) -> Planted:
    """Warp a share of the samples and label them as the target; warp others otherwise and let them keep their labels.

    Nguyen and Tran 2021. `share` (ρ_a) is of the other classes' samples. Noise mode: `cross_ratio` (ρ_n/ρ_a) times as
    many of the rest, as far as there are, get a warp with noise, so that the model learns this field and not warps.
    The field, a `k` × `k` grid of strength `s`, comes from `field_seed` alone. The authors draw who is warped at each
    step anew and turn and crop pictures; here it is drawn once.
    """
    trigger = partial(warp, k=k, s=s, field_seed=field_seed)
    planted = plant(images, labels, target, share, rng, trigger)
    relabelled = planted[1]
    rest = relabelled == labels
    noisy = draw(rest, 1.0, rng)[: half_up(cross_ratio * int((~rest).sum()))]
    off = torch.rand(len(noisy), *images.shape[-2:], 2, generator=rng) * 2 - 1
    return Planted(images, relabelled, *planted.stamps, Stamp(noisy, trigger, off))
