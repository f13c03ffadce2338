"""Projected gradient ascent."""

from collections.abc import Callable

import torch
from torch import Tensor

from fedpoison.attacks.updates.searching import Defend, Trial
from fedpoison.contract.registry import update_attack
from fedpoison.linalg.blocks import row_norms
from fedpoison.types import Malicious, Updates

_COARSE, _FINE, _MOST = 0.5, 0.05, 5.0


@update_attack(
    paper="arXiv:2108.10241",
    source="secondary: a description of one public code, which does it on parameters",
    evidence="tests/attacks/test_tailored.py::test_pga_sends_the_length_that_moves_the_aggregate_most",
)
def pga(benign: Updates, own: Malicious, malicious: Tensor, defend: Defend, say: Callable[[str], None]) -> Malicious:
    """Send the way up the own loss, as long as what moves the aggregate of the defence in use the most.

    Shejwalkar et al. 2022. The paper ascends the loss on the attackers' data step by step; here each sends minus what
    its training gives, which is ascent to first order and stays finite. All are made as long as the mean honest update,
    times γ up to 5: that with the farthest aggregate from the one of a round in which attackers send what they trained,
    in steps of .5 and then of .05 about the best. Must win: against trimmed mean, median and Multi-Krum, with full
    knowledge and the defence, by that distance: no less than sign_flip.
    """
    trial, norms = Trial(benign, malicious, defend), row_norms(own).unsqueeze(1)
    turned = (-row_norms(benign).mean() * own / norms.clamp(min=torch.finfo(torch.float64).tiny)).to(own.dtype)
    usual = trial(own)
    found: dict[float, float] = {}

    def attempt(first: float, last: float, width: float) -> float:
        for turn in range(round((last - first) / width) + 1):
            gamma = round(first + turn * width, 2)
            found[gamma] = float((trial(gamma * turned) - usual).norm().nan_to_num(nan=-1))
        return max(found, key=lambda gamma: found[gamma])

    best = attempt(0.0, _MOST, _COARSE)
    best = attempt(max(0.0, best - _COARSE + _FINE), min(_MOST, best + _COARSE - _FINE), _FINE)
    say(f"pga: gamma = {best:.3g} moves the aggregate by {found[best]:.3g}")
    return best * turned
