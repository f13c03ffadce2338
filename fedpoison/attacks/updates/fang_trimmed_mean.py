"""Fang's directed deviation against trimmed mean and median."""

from collections.abc import Callable

import torch

from fedpoison.attacks.updates.directions import mean_of, spread_of
from fedpoison.contract.registry import update_attack
from fedpoison.types import Crafted, Positive, Updates


@update_attack(
    paper="arXiv:1911.11815",
    source="secondary: descriptions of notebooks and codes that implement it",
    evidence="tests/attacks/test_fang.py::test_fang_trimmed_mean_by_hand",
)
def fang_trimmed_mean(
    benign: Updates,
    n_malicious: int,
    full_knowledge: bool,
    rng: torch.Generator,
    say: Callable[[str], None],
    *,
    b: Positive = 2.0,
) -> Crafted:
    """Go beyond the honest in each coordinate, on the side that the mean does not go to.

    Fang et al. 2020, section 4.3. With full knowledge each value is drawn between the honest extreme and `b` times as
    far out: over the largest where the mean is negative, below the smallest elsewhere (a mean of 0 counts as positive).
    Who knows colluders alone draws from 3 to 4 of their deviations, the population's, off their mean.
    Must win: against trimmed mean and median, by the aggregate's way along the honest mean: shorter than under IPM,
    zeros or ALIE with full knowledge, and shorter than under ALIE without it.
    """
    mean = mean_of(benign)
    up = mean < 0
    share = torch.rand(n_malicious, len(mean), generator=rng, dtype=benign.dtype)
    if full_knowledge:
        edge = torch.where(up, benign.amax(dim=0), benign.amin(dim=0))
        return edge + share * (torch.where(up == (edge > 0), b * edge, edge / b) - edge)
    if len(benign) == 1:
        say("fang_trimmed_mean: one colluder's update has no deviation, and all send it")
    return mean + torch.where(up, 3 + share, -3 - share) * spread_of(benign)
