"""Comparative gradient elimination."""

import torch

from fedpoison.contract.registry import aggregator
from fedpoison.types import Norms, Weights


@aggregator(
    paper="arXiv:2008.04699",
    source="secondary: a library of the field",
    evidence="tests/defences/test_more_rules.py::test_cge_equals_its_definition",
    needs="n > f",
    decides=True,
    scores=lambda norms: norms,
    claims=("permutation", "unanimity", "scale", "rotation"),
)
def cge(norms: Norms, f: int) -> Weights:
    """Average the n − f updates with the smallest norms.

    Gupta et al. 2020, who sum where this averages. It stops what is large and nothing else: a small
    attacker counts in full. Ties go to the lower index.
    """
    keep = len(norms) - f
    weights = torch.zeros_like(norms)
    weights[norms.argsort(stable=True)[:keep]] = 1 / keep
    return weights
