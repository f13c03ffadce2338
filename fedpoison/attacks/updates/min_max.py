"""Min-Max and Min-Sum: as far from the honest mean as an honest update may be from the others."""

import torch

from fedpoison.attacks.updates.directions import Direction, mean_of, step_of
from fedpoison.common.parallel import in_parallel
from fedpoison.contract.registry import update_attack
from fedpoison.linalg.blocks import column_blocks
from fedpoison.linalg.gram import geometry
from fedpoison.types import Crafted, Update, Updates


def _harmless(n: int, n_malicious: int, benign: int, *, direction: Direction) -> str | None:
    return "they know a single honest update, which is far from no other, and all send it" if benign == 1 else None


@update_attack(
    paper="Shejwalkar and Houmansadr, NDSS 2021",
    source="secondary: later papers, which agree",
    evidence="tests/attacks/test_update_attacks.py::test_min_max_goes_as_far_as_its_bound_lets_it",
    harmless=_harmless,
)
def min_max(benign: Updates, n_malicious: int, *, direction: Direction = "std") -> Crafted:
    """All sit γ steps off the honest mean, no farther from any honest update than two of those are apart.

    Shejwalkar and Houmansadr 2021, AGR-agnostic: the mean plus γ times minus the coordinates' standard deviation
    ("std", the population's), minus the mean's direction ("unit") or its signs ("sign"). γ is the largest that the
    bound allows, from a quadratic equation for each honest update, where the paper halves intervals. Updates are minus
    gradients: "std" sits below the mean of updates, so above that of gradients; "unit" and "sign" turn back towards 0
    and beyond, which is the same side of both. Must win: against Krum, Multi-Krum, trimmed mean and median, with full
    knowledge, by the aggregate's distance from the honest mean: more than ALIE and IPM with their own strengths.
    """
    mean, step = mean_of(benign), step_of(benign, direction)
    square, along, apart = _moments(benign, mean, step)
    if square == 0:
        return mean.repeat(n_malicious, 1)
    room = (geometry(benign)[1].max() - apart).clamp(min=0)  # the farthest is within the diameter
    gamma = float(((along.square() + square * room).sqrt() - along).min() / square)
    return (mean + gamma * step).repeat(n_malicious, 1)


@update_attack(
    paper="Shejwalkar and Houmansadr, NDSS 2021",
    source="secondary: later papers, which agree",
    evidence="tests/attacks/test_update_attacks.py::test_min_sum_goes_as_far_as_its_bound_lets_it",
    harmless=_harmless,
)
def min_sum(benign: Updates, n_malicious: int, *, direction: Direction = "std") -> Crafted:
    """As min_max, the sum of squared distances to the honest updates no larger than that of any of these.

    Shejwalkar and Houmansadr 2021. About the mean the cross terms cancel, so γ has one equation. It sits on the
    side of the mean on which min_max sits. Must win: against the same rules, by the same measure.
    """
    mean, step = mean_of(benign), step_of(benign, direction)
    square, _, apart = _moments(benign, mean, step)
    if square == 0:
        return mean.repeat(n_malicious, 1)
    room = (geometry(benign)[1].sum(dim=1).max() - apart.sum()).clamp(min=0)
    gamma = float((room / (len(benign) * square)).sqrt())
    return (mean + gamma * step).repeat(n_malicious, 1)


def _moments(benign: Updates, mean: Update, step: Update) -> tuple[float, torch.Tensor, torch.Tensor]:
    """‖step‖², and for each honest update x: step · (mean − x) and ‖mean − x‖²; in float64."""

    def one(block: slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        gaps, part = mean[block].double() - benign[:, block], step[block].double()
        return part @ part, gaps @ part, gaps.square().sum(dim=1)

    parts = list(in_parallel(one, column_blocks(benign.shape[1])))
    square, along, apart = (torch.stack(kind).sum(dim=0) for kind in zip(*parts, strict=True))
    return float(square), along, apart
