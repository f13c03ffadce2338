"""Relocated orthogonal perturbation."""

import math
from collections.abc import Callable

import torch

from fedpoison.attacks.updates.alie import largest_hidden_z
from fedpoison.attacks.updates.directions import mean_of
from fedpoison.contract.registry import update_attack
from fedpoison.types import Crafted, Positive, Share, Update, Updates


@update_attack(
    paper="arXiv:2208.09894",
    source="secondary: a description of code by the authors' group, FL-Byzantine-Library",
    evidence="tests/attacks/test_memorious_attacks.py::test_rop_by_hand",
)
def rop(
    benign: Updates,
    n_malicious: int,
    n: int,
    previous: Update,
    say: Callable[[str], None],
    *,
    length: Positive | None = None,
    relocation: Share = 1.0,
    reference: Share = 0.9,
    angle: float = 270.0,
) -> Crafted:
    """Send the last aggregate and a step across it, so that clipping about that aggregate cuts nothing off.

    Özfatura et al. 2024. The step lies at `angle` degrees to `reference` · last aggregate + the rest · honest mean, in
    the plane of it and of the vector of ones, and begins at `relocation` · last aggregate + the rest · honest mean. In
    the first round the honest mean stands in for the aggregate in the reference. `length` is in units of an update, not
    of their spread: ALIE's z if none is given, or 1 where that is not positive and finite.
    Must win: against centered clipping, with full knowledge and a length of its tau, by the distance of the aggregate
    from the honest mean over rounds: more than ALIE. Much shorter than that, as ALIE's z may be, it does little.
    """
    mean, last = mean_of(benign).double(), previous.double()
    about = reference * last + (1 - reference) * mean if last.any() else mean
    ones = torch.ones_like(about)
    if about.any():
        about = about / torch.linalg.vector_norm(about)
    across = ones - (ones @ about) * about
    if not about.any() or torch.linalg.vector_norm(across) < 1e-6 * math.sqrt(len(ones)):
        say("rop: nothing lies across a reference of zeros or of equal numbers, and they send it without a step")
        across = torch.zeros_like(ones)
    else:
        across /= torch.linalg.vector_norm(across)
    turned = math.radians(angle)
    usual = largest_hidden_z(n, n_malicious)
    far = length if length is not None else usual if 0 < usual < math.inf else 1.0
    step = math.sin(turned) * across + math.cos(turned) * about
    crafted = relocation * last + (1 - relocation) * mean + far * step
    return crafted.to(benign.dtype).repeat(n_malicious, 1)
