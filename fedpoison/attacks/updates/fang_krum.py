"""Fang's directed deviation against Krum."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fedpoison.attacks.updates.directions import mean_of
from fedpoison.common.parallel import in_parallel
from fedpoison.contract.registry import update_attack
from fedpoison.linalg.blocks import column_blocks, row_norms
from fedpoison.linalg.gram import geometry
from fedpoison.types import Crafted, NotNegative, Updates

_LEAST = 1e-5
"""The λ below which the paper stops."""


@update_attack(
    paper="arXiv:1911.11815",
    source="secondary: descriptions of notebooks and codes that implement it",
    evidence="tests/attacks/test_fang.py::test_krum_picks_what_fang_sends_it_and_would_not_pick_twice_as_much",
)
def fang_krum(
    benign: Updates,
    n_malicious: int,
    full_knowledge: bool,
    rng: torch.Generator,
    say: Callable[[str], None],
    *,
    epsilon: NotNegative = 0.01,
) -> Crafted:
    """Send −λ times the signs of where the model would go, the longest of halved λ that Krum still picks.

    Fang et al. 2020, section 4.2: the signs are those of the update that Krum picks of the honest alone; λ begins at
    the paper's bound. The first attacker sends this, the others lie within `epsilon` of it, in random directions.
    Who knows colluders alone takes the signs of their mean and tries Krum on their updates with one crafted copy, then
    two, … until one is picked. Must win: against Krum, either knowledge, by the aggregate's way against the mean.
    """
    distances = geometry(benign)[1]
    sign = (benign[int(_scores(distances, len(benign) - 2).argmin())] if full_knowledge else mean_of(benign)).sign()
    size, norms = float(sign.abs().sum()), row_norms(benign).square()
    parts = in_parallel(lambda block: benign[:, block].double() @ sign[block].double(), column_blocks(len(sign)))
    along = torch.stack(list(parts)).sum(dim=0)
    near = max(1, len(benign) - 2)  # n − f − 2, whoever f is: the honest are n − f

    def picked(length: float, copies: int) -> bool:
        gaps = norms + 2 * length * along + length**2 * size
        rows = torch.cat([distances, gaps.unsqueeze(1).expand(-1, copies)], dim=1)
        own = gaps.sort().values[: max(0, near - copies + 1)].sum()
        return bool(own < _scores(rows, near).min())

    def longest(copies: int) -> float:
        spans = distances.sqrt().sort(dim=1).values[:, 1 : near + 1].sum(dim=1)
        length = float(spans.min()) / max(1, len(benign) - copies - 1) + float(norms.max().sqrt())
        length /= math.sqrt(len(sign))
        while length >= _LEAST and not picked(length, copies):
            length /= 2
        return length

    tried = [n_malicious] if full_knowledge else range(1, n_malicious + 1)
    length = next((found for found in map(longest, tried) if found >= _LEAST), 0.0)
    say(f"fang_krum: lambda = {length:.3g}" if length else "fang_krum: Krum picks none of theirs, and they send zeros")
    apart = torch.randn(n_malicious, len(sign), generator=rng, dtype=torch.float64)
    apart *= epsilon * torch.rand(n_malicious, 1, generator=rng, dtype=torch.float64) / apart.norm(dim=1, keepdim=True)
    apart[0] = 0
    return (apart - length * sign).to(benign.dtype)


def _scores(distances: Tensor, near: int) -> Tensor:
    """Krum's: the sum of each of these rows' squared distances [rows, all] to its nearest others, itself not."""
    return distances.sort(dim=1).values[:, 1 : max(1, near) + 1].sum(dim=1)
