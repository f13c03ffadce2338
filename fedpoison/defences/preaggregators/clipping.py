"""Static norm clipping."""

from collections.abc import Callable

import torch

from fedpoison.contract.registry import preaggregator
from fedpoison.defences.clip import left_of, tell
from fedpoison.types import Mixing, Norms, Threshold


@preaggregator(
    paper="arXiv:1911.07963",
    source="secondary: the scaling form, min(1, threshold/norm), as libraries have it",
    evidence="tests/defences/test_preaggregators.py::test_clipping_equals_its_definition",
    keeps_clients=True,
    references=("origin",),
)
def clipping(norms: Norms, say: Callable[[str], None], *, threshold: Threshold = "median") -> Mixing:
    """Scale each update down to at most `threshold` in Euclidean norm.

    Sun et al. 2019, who choose the threshold for their data: it is in the units of the updates, or "median", that of
    the round's norms.
    """
    left = left_of(norms, threshold)
    tell(say, left, "threshold", threshold)
    return torch.diag(left)
