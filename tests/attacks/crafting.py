"""Honest updates, and what a rule makes of them and of what is crafted beside them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import fedpoison
from fedpoison.types import Verdict


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def honest(count: int, d: int = 200, seed: int = 0, spread: float = 1.0) -> Tensor:
    """Updates about a common mean of .3 a coordinate or so, in float64; coordinates spread unlike."""
    of = drawn(seed)
    mean = 0.3 * torch.randn(d, generator=of, dtype=torch.float64)
    deviations = spread * (0.5 + torch.rand(d, generator=of, dtype=torch.float64))
    return mean + deviations * torch.randn(count, d, generator=of, dtype=torch.float64)


def under(rule: str, f: int, **given: Any) -> Callable[[Tensor], Verdict]:
    """A rule that is told f, as attackers try it out."""
    return lambda updates: fedpoison.aggregate(rule, updates, f=f, **given)


def crafted(attack: str, f: int, benign: Tensor, **given: Any) -> Tensor:
    """What f attackers send; of an attack with memory, in its first round."""
    made = fedpoison.craft(attack, n_malicious=f, benign=benign, params=torch.zeros_like(benign[0]), **given)
    return made[0] if isinstance(made, tuple) else made


def aggregate(rule: str, f: int, benign: Tensor, malicious: Tensor, **given: Any) -> Tensor:
    """The aggregate of the honest and then the crafted."""
    return under(rule, f, **given)(torch.cat([benign, malicious])).update


def damage(rule: str, attack: str, f: int, benign: Tensor, **given: Any) -> float:
    """How far the aggregate is from the honest mean."""
    made = crafted(attack, f, benign, defend=under(rule, f), **given)
    return float((aggregate(rule, f, benign, made) - benign.mean(dim=0)).norm())


def against(rule: str, attack: str, f: int, benign: Tensor, **given: Any) -> float:
    """How far the aggregate goes along the honest mean; below 0 it goes against it."""
    mean = benign.mean(dim=0)
    made = crafted(attack, f, benign, defend=under(rule, f), **given)
    return float(aggregate(rule, f, benign, made) @ mean / mean.norm())
