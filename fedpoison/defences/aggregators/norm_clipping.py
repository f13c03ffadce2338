"""Norm clipping, with noise if wanted: weak differential privacy."""

from collections.abc import Callable

import torch

from fedpoison.contract.registry import aggregator
from fedpoison.defences.clip import left_of, tell
from fedpoison.types import Noisy, Norms, NotNegative, Threshold


@aggregator(
    paper="arXiv:1911.07963",
    source="secondary: the clipped mean with Gaussian noise, as libraries have it; they differ in the noise's scale",
    evidence="tests/defences/test_composite_rules.py::test_norm_clipping_equals_its_definition",
    references=("origin",),
    claims=("permutation", "rotation"),
)
def norm_clipping(
    norms: Norms, say: Callable[[str], None], *, threshold: Threshold = "median", noise: NotNegative = 0.0
) -> Noisy:
    """Average the updates, each scaled down to at most `threshold` in norm, and add Gaussian noise.

    Sun et al. 2019, who choose the threshold for their data; "median" is that of the round's norms. `noise` is the
    standard deviation in each coordinate of the average, in the units of the updates, like the threshold; with some it
    is their weak differential privacy, too little of it to promise any. A client adds at most threshold/n; one whose
    update is shorter than the threshold counts in full.
    """
    left = left_of(norms, threshold)
    tell(say, left, "threshold", threshold)
    shares = left / len(norms)
    return Noisy(torch.cat([shares, 1 - shares.sum(dim=0, keepdim=True)]), noise)
