"""Attacks that try the defence in use and send what it lets through that does the most damage."""

from collections.abc import Callable

import torch
from torch import Tensor

from fedpoison.attacks.updates.directions import Direction, mean_of, spread_of, step_of
from fedpoison.attacks.updates.searching import GRID, Defend, Trial, strongest
from fedpoison.contract.registry import update_attack
from fedpoison.types import Crafted, Updates

Say = Callable[[str], None]


@update_attack(
    paper="Shejwalkar and Houmansadr, NDSS 2021",
    source="secondary: descriptions of the authors' notebooks and of later codes",
    evidence="tests/attacks/test_tailored.py::test_tailored_does_more_damage_than_attacks_that_do_not_know_the_rule",
)
def tailored(
    benign: Updates, n_malicious: int, malicious: Tensor, defend: Defend, say: Say, *, direction: Direction = "std"
) -> Crafted:
    """All sit γ steps off the honest mean, γ being what moves the aggregate of the defence in use the most.

    Shejwalkar and Houmansadr 2021, AGR-tailored; for `direction` see min_max. Damage is the way of the aggregate along
    the step. The paper takes the distance from the honest mean for rules of coordinates, and for those that choose
    clients whether attackers are chosen; this is one measure for both, and a chosen honest client is none.
    Where attackers do not know all honest updates, the others' are drawn about their mean. γ is sought on a grid
    of powers of 2 and then between them. Must win: against Krum, Multi-Krum, Bulyan, trimmed mean and median, with
    full knowledge and the defence, by the aggregate's distance from the honest mean: no less than ALIE's, Min-Max's,
    Min-Sum's and Fang's, but for 3 % where all of them reach what a row can do.
    """
    mean, step = mean_of(benign), step_of(benign, direction)
    length, spread = step.norm(), spread_of(benign).norm()
    unit = float(spread / length) if length > 0 and spread > 0 else 1.0
    gamma, way = strongest(Trial(benign, malicious, defend), mean, mean, step, unit * GRID)
    say(f"tailored: gamma = {gamma:.3g} moves the aggregate by {way:.3g}")
    return (mean + gamma * step).repeat(n_malicious, 1)


@update_attack(
    paper="arXiv:1902.06156",
    source="secondary: descriptions of later papers' codes, which search for the factor",
    evidence="tests/attacks/test_tailored.py::test_opt_alie_and_opt_ipm_are_the_best_alie_and_ipm",
)
def opt_alie(benign: Updates, n_malicious: int, malicious: Tensor, defend: Defend, say: Say) -> Crafted:
    """A Little Is Enough with the z, on either side of the mean, that does the most damage under the defence in use.

    Damage and search are those of `tailored`, which has one side. Must win: against the defence in use, by damage: no
    less than ALIE with its own z.
    """
    mean, step = mean_of(benign), -spread_of(benign)
    z, way = strongest(Trial(benign, malicious, defend), mean, mean, step, torch.cat([GRID, -GRID]))
    say(f"opt_alie: z = {z:.3g} moves the aggregate by {way:.3g}")
    return (mean + z * step).repeat(n_malicious, 1)


@update_attack(
    paper="arXiv:1903.03936",
    source="secondary: descriptions of later papers' codes, which search for the factor",
    evidence="tests/attacks/test_tailored.py::test_opt_alie_and_opt_ipm_are_the_best_alie_and_ipm",
)
def opt_ipm(benign: Updates, n_malicious: int, malicious: Tensor, defend: Defend, say: Say) -> Crafted:
    """Inner-product manipulation with the epsilon that does the most damage under the defence in use.

    Damage, the way of the aggregate against the honest mean, and search are those of `tailored`. Must win: against the
    defence in use, by damage: no less than IPM with .5.
    """
    mean = mean_of(benign)
    epsilon, way = strongest(Trial(benign, malicious, defend), mean, torch.zeros_like(mean), -mean, GRID)
    say(f"opt_ipm: epsilon = {epsilon:.3g} moves the aggregate by {way:.3g}")
    return (-epsilon * mean).repeat(n_malicious, 1)
