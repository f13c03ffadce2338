"""DBA: each attacker plants a part of the trigger, and the whole is shown to the model."""

from functools import partial
from typing import Annotated, Any

import torch
from annotated_types import Interval

from fedpoison.attacks.data.relabelling import missing, plant, wanted
from fedpoison.contract.registry import data_attack
from fedpoison.types import Few, Images, Labels, Planted, Share

Distance = Annotated[int, Interval(ge=0, le=1000)]
PARTS = (0, 1, 2, 3)


def stamp(images: Images, parts: tuple[int, ...], size: int, gap: int, shift: int, value: float) -> Images:
    """The images with some of the trigger's four bars, 1 × `size` pixels each, two above two."""
    if images.shape[-1] < shift + 2 * size + gap or images.shape[-2] < shift + gap + 2:
        raise ValueError(
            f"dba: bars of {size} pixels with gap {gap} and shift {shift} do not fit into images of shape "
            f"{tuple(images.shape[1:])}"
        )
    images = images.clone()
    for part in parts:
        row, column = shift + part // 2 * (1 + gap), shift + part % 2 * (size + gap)
        images[:, :, row, column : column + size] = value
    return images


def _check(n_classes: int, *, target: int, **_: Any) -> list[str]:
    return missing("dba", [target], n_classes)


def _aim(
    images: Images, labels: Labels, n_classes: int, *, target: int, share: float, **look: Any
) -> tuple[Images, Labels]:
    return stamp(images, PARTS, **look), wanted(labels, target)


@data_attack(
    paper="Xie et al. 2020, DBA: Distributed Backdoor Attacks against Federated Learning, ICLR",
    source="secondary: the authors' code (image_helper.py, utils/mnist_params.yaml)",
    evidence="tests/attacks/test_backdoors.py::test_dba_gives_each_attacker_a_bar_and_shows_all_four",
    goal="backdoor",
    samples=("pictures",),
    aim=_aim,
    check=_check,
)
def dba(
    images: Images,
    labels: Labels,
    attacker: int,
    rng: torch.Generator,
    *,
    target: int = 0,
    share: Share = 0.3125,
    size: Few = 4,
    gap: Distance = 2,
    shift: Distance = 0,
    value: Share = 1.0,
) -> Planted:
    """Stamp one of four bars, the attacker's own, on a share of the samples and label them as the target.

    Xie et al. 2020: attacker i has part i mod 4; success is measured with all four. `size`: a bar's length, `gap`:
    pixels between bars, `shift`: pixels above and left of the first; these and the share (20 samples in a batch of 64)
    are the authors' for MNIST. They also scale the updates: add update = "model_replacement".
    """
    trigger = partial(stamp, parts=(PARTS[attacker % 4],), size=size, gap=gap, shift=shift, value=value)
    return plant(images, labels, target, share, rng, trigger)
