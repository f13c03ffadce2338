"""Minimum-diameter averaging."""

from bisect import bisect_left

import numpy as np
import torch

from fedpoison.contract.registry import aggregator
from fedpoison.types import SquaredDistances, Weights

Bits = int
"""A set of rows: bit i stands for row i."""


@aggregator(
    paper="arXiv:1802.07927",
    source="secondary: the definition as the library of the authors' laboratory documents it",
    evidence="tests/defences/test_subset_rules.py::test_mda_equals_its_definition",
    needs="n > 2*f; f <= 40",
    decides=True,
    claims=("unanimity", "translation", "scale", "rotation"),
    kappa="8*f**2/(n - f)",
    kappa_source="proved: tests/defences/test_theory.py",
)
def mda(squared_distances: SquaredDistances, f: int) -> Weights:
    """Average the n − f updates whose two farthest lie closest together.

    El Mhamdi et al. 2018. One pair makes a diameter, so several sets often share the smallest: the first in
    lexicographic order is taken, and the clients' order matters. Not all sets are tried. The smallest diameter is one
    of the distances, and whether n − f updates lie that close to each other is a vertex cover of at most f among the
    pairs that do not. That takes milliseconds for updates of any usual kind; the attackers can make it search, at
    f = 50 for ten seconds and more, so f is bounded.
    """
    n = len(squared_distances)
    everybody, keep = (1 << n) - 1, n - f
    diameters = squared_distances.unique()
    smallest = bisect_left(
        range(len(diameters)), True, key=lambda k: _holds(_far(squared_distances, diameters[k]), everybody, keep)
    )
    far, left = _far(squared_distances, diameters[smallest]), everybody
    for row in range(n):  # whoever can be among the chosen is, the lower index first
        if left >> row & 1:
            beside = left & ~far[row]
            left = beside if _holds(far, beside, keep) else left & ~(1 << row)
    weights = torch.zeros(n, dtype=torch.float64)
    weights[[row for row in range(n) if left >> row & 1][:keep]] = 1 / keep
    return weights


def _far(squared_distances: SquaredDistances, diameter: torch.Tensor) -> list[Bits]:
    """For each row, the rows farther from it than `diameter` (squared)."""
    packed = np.packbits((squared_distances > diameter).numpy(), axis=1, bitorder="little")
    return [int.from_bytes(row.tobytes(), "little") for row in packed]


def _holds(far: list[Bits], left: Bits, keep: int) -> bool:
    """Whether `keep` of the rows `left` are pairwise near. Branch and bound, at most 1.47^f branches.

    Of two rows that are far from each other one must go: either a row or all that are far from it.
    """
    while True:
        spare = left.bit_count() - keep
        partners = {row: far[row] & left for row in range(len(far)) if left >> row & 1 and far[row] & left}
        if not partners or spare < 0:
            return spare >= 0
        counts = {row: others.bit_count() for row, others in partners.items()}
        worst = max(counts, key=counts.__getitem__)
        if sum(counts.values()) > 2 * spare * counts[worst]:  # nobody settles more pairs than the worst row does
            return False
        lone = next((row for row, count in counts.items() if count == 1), None)
        if lone is not None:  # its partner may as well go as the row itself
            left &= ~partners[lone]
        else:
            rings = counts[worst] == 2  # every row has two partners: any row will do to start with
            if not rings and _holds(far, left & ~partners[worst], keep):
                return True
            left &= ~(1 << worst)
