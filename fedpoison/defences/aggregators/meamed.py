"""The mean around the median."""

import torch

from fedpoison.contract.registry import aggregator
from fedpoison.linalg.sorting import middle_row, sort_columns
from fedpoison.types import Update, Updates


def mean_around_median(updates: Updates, keep: int) -> Update:
    """The mean of each coordinate's `keep` values closest to its median; of two as close, the smaller."""
    values, n = sort_columns(updates), len(updates)
    middle = middle_row(values)
    # the closest values lie side by side: their window moves up while it drops a farther value than it gains
    drop, gain = values[: n - keep], values[keep:]
    first = (middle - drop > gain - middle).sum(dim=0)
    place = torch.arange(n).unsqueeze(1)
    kept = torch.where((place >= first) & (place < first + keep), values, 0)
    return (kept.sum(dim=0, dtype=torch.float64) / keep).to(updates.dtype)


@aggregator(
    paper="arXiv:1802.10116",
    source="secondary: libraries and later papers, which agree",
    evidence="tests/defences/test_more_rules.py::test_meamed_equals_its_definition",
    needs="n > 2*f",
    coordinatewise=True,
    claims=("permutation", "unanimity", "translation", "scale"),
)
def meamed(updates: Updates, f: int) -> Update:
    """Average the n − f values of each coordinate that are closest to its median.

    Xie et al. 2018, mean around median.
    """
    return mean_around_median(updates, len(updates) - f)
