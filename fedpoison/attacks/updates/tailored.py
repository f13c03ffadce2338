"""Attacks that try the defence in use and send what it lets through that does the most damage."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from fedpoison.attacks.updates.directions import Direction, mean_of, spread_of, step_of
from fedpoison.contract.registry import update_attack
from fedpoison.types import Crafted, Honest, Update, Updates, Verdict

Defend = Callable[[Tensor], Verdict]
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
    step = step_of(benign, direction)
    length, spread = step.norm(), spread_of(benign).norm()
    unit = float(spread / length) if length > 0 and spread > 0 else 1.0
    return _strongest(
        benign, n_malicious, malicious, defend, say, mean_of(benign), step, unit * _GRID, "tailored: gamma"
    )


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
    return _strongest(
        benign, n_malicious, malicious, defend, say, mean, step, torch.cat([_GRID, -_GRID]), "opt_alie: z"
    )


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
    return _strongest(
        benign, n_malicious, malicious, defend, say, torch.zeros_like(mean), -mean, _GRID, "opt_ipm: epsilon"
    )


_GRID = 2.0 ** torch.arange(-4, 7)
_HALVINGS = 4


def _strongest(
    benign: Updates,
    n_malicious: int,
    malicious: Tensor,
    defend: Defend,
    say: Say,
    start: Update,
    step: Update,
    grid: Tensor,
    name: str,
) -> Crafted:
    """`start` and so many steps, as many as do the most damage of those that are tried."""
    rows = benign.new_empty(len(malicious), benign.shape[1])
    rows[~malicious] = _all_honest(benign, int((~malicious).sum()))
    mean, towards = mean_of(benign).double(), step.double()
    towards = towards / torch.linalg.vector_norm(towards).clamp(min=torch.finfo(torch.float64).tiny)
    found: dict[float, float] = {}

    def attempt(strengths: Iterable[float]) -> float:
        for strength in strengths:
            rows[malicious] = (start + strength * step).to(rows.dtype)
            damage = float((defend(rows).update - mean) @ towards) * (1 if strength > 0 else -1)
            found.setdefault(strength, damage if damage == damage else -torch.inf)
        return max(found, key=lambda strength: found[strength])  # the first of equals, which is the smallest

    best = attempt(grid.tolist())
    for turn in range(1, _HALVINGS + 1):
        best = attempt([best * 2 ** (-(0.5**turn)), best * 2 ** (0.5**turn)])
    say(f"{name} = {best:.3g} moves the aggregate by {found[best]:.3g}")
    return (start + best * step).repeat(n_malicious, 1)


def _all_honest(benign: Updates, count: int) -> Honest:
    """So many honest updates: those that are known, and others of the same mean and covariance for those that are not.

    These are the mean and the known deviations from it, with random signs, over the root of their number.
    """
    missing = count - len(benign)
    if missing <= 0:
        return benign[:count]
    signs = torch.randint(2, (missing, len(benign)), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    mean = mean_of(benign)
    return torch.cat([benign, mean + (signs.to(benign.dtype) @ (benign - mean)) / len(benign) ** 0.5])
