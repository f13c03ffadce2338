"""Adaptive robust clipping."""

import torch

from fedpoison.contract.registry import preaggregator
from fedpoison.types import Mixing, Norms


@preaggregator(
    paper="arXiv:2405.14432",
    source="secondary: the definition as the library of the authors' laboratory documents it, and later notes",
    evidence="tests/defences/test_preaggregators.py::test_arc_equals_its_definition",
    needs="n > 2*f",
    keeps_clients=True,
    references=("origin",),
    kappa="kappa + 2*f/(n - 2*f)",
    kappa_source="secondary: Theorem 3.2 of the paper, as later notes state it",
)
def arc(norms: Norms, f: int) -> Mixing:
    """Scale the k = ⌊2(f/n)(n − f)⌋ longest updates down to the length of the next.

    Allouah et al. 2025. At least f are clipped, so whatever the attackers send, no update is longer afterwards than the
    longest of any n − f.
    """
    k = 2 * f * (len(norms) - f) // len(norms)  # in integers: 2 * (f / n) * (n − f) may round to just below one
    threshold = norms.sort(descending=True).values[k]
    return torch.diag(torch.where(norms > threshold, threshold / norms, 1.0))
