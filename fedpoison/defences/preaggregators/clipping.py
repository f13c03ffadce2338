"""Static norm clipping."""

import torch

from fedpoison.contract.registry import preaggregator
from fedpoison.types import Mixing, Norms, Positive


@preaggregator(
    paper="arXiv:1911.07963",
    source="secondary: the scaling form, min(1, threshold/norm), as libraries have it",
    evidence="tests/defences/test_preaggregators.py::test_clipping_equals_its_definition",
    keeps_clients=True,
    references=("origin",),
)
def clipping(norms: Norms, *, threshold: Positive = 1.0) -> Mixing:
    """Scale each update down to at most `threshold` in Euclidean norm.

    Sun et al. 2019. The threshold is in the units of the updates.
    """
    return torch.diag((threshold / norms).clamp(max=1))
