"""A Little Is Enough."""

import math

import torch

from fedpoison.contract.registry import update_attack
from fedpoison.linalg.blocks import by_columns
from fedpoison.types import Crafted, Real, Update, Updates


def largest_hidden_z(n: int, f: int) -> float:
    """z = Φ⁻¹((n − f − s) / (n − f)) with s = ⌊n/2 + 1⌋ − f: how far a majority of honest clients still reaches.

    Baruch et al. 2019; not finite or negative when f is too large for it.
    """
    if n == f:
        return math.nan
    s = n // 2 + 1 - f
    return float(torch.special.ndtri(torch.tensor((n - f - s) / (n - f), dtype=torch.float64)))


def _harmless(n: int, n_malicious: int, benign: int, *, z: Real | None) -> str | None:
    usual = largest_hidden_z(n, n_malicious)
    if z is None and not 0 < usual < math.inf:
        said = f"z = {usual:.4g} for n = {n}, {n_malicious} malicious, so 0 is used"
        return f"{said} and all send the honest mean; set z to choose one"
    return "they know a single honest update, which has no deviation, and all send it" if benign == 1 else None


@update_attack(
    paper="arXiv:1902.06156",
    source="secondary: code of later papers; z as its published values settle it",
    evidence="tests/attacks/test_update_attacks.py::test_alie_equals_the_papers_numbers",
    harmless=_harmless,
)
def alie(benign: Updates, n_malicious: int, n: int, *, z: Real | None = None) -> Crafted:
    """A Little Is Enough: all sit z standard deviations below the honest mean of each coordinate.

    Baruch et al. 2019: mean − z · std with the population's standard deviation; z from n and
    the number of attackers unless given. Where that z is not positive and finite, as for two attackers of any even n
    and for one of any n, 0 is taken, which is the honest mean, and said. Updates are minus gradients: this is below the
    mean of updates, above that of gradients; z < 0 is on the other side.
    Must win: with z = 3 against the mean, with full knowledge, by accuracy; with a z near its own it is
    meant to be hard to see, and costs little.
    """
    usual = largest_hidden_z(n, n_malicious)
    shift = z if z is not None else usual if 0 < usual < math.inf else 0.0

    def below(block: Updates) -> Update:
        exact = block.double()
        mean = exact.mean(dim=0)
        variance = (exact - mean).square_().mean(dim=0)  # torch.std over columns takes seven times as long
        return (mean - shift * variance.sqrt_()).to(block.dtype)

    return by_columns(below, benign).repeat(n_malicious, 1)
