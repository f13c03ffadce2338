"""Norm clipping, with noise if wanted: weak differential privacy."""

import torch

from fedpoison.contract.registry import aggregator
from fedpoison.types import Noisy, Norms, NotNegative, Positive


@aggregator(
    paper="arXiv:1911.07963",
    source="secondary: the clipped mean with Gaussian noise, as libraries have it; they differ in the noise's scale",
    evidence="tests/defences/test_composite_rules.py::test_norm_clipping_equals_its_definition",
    references=("origin",),
    claims=("permutation", "rotation"),
)
def norm_clipping(norms: Norms, *, threshold: Positive = 1.0, noise: NotNegative = 0.0) -> Noisy:
    """Average the updates, each scaled down to at most `threshold` in norm, and add Gaussian noise.

    Sun et al. 2019. `noise` is the standard deviation in each coordinate of the average, in the units of the updates,
    like the threshold; with some it is their weak differential privacy, too little of it to promise any. A client adds
    at most threshold/n, and one whose update is shorter than the threshold counts in full.
    """
    shares = (threshold / norms).clamp(max=1) / len(norms)
    return Noisy(torch.cat([shares, 1 - shares.sum(dim=0, keepdim=True)]), noise)
