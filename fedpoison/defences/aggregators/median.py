"""Coordinate-wise median."""

from fedpoison.contract.registry import aggregator
from fedpoison.linalg.sorting import column_medians
from fedpoison.types import Update, Updates


@aggregator(
    paper="arXiv:1803.01498",
    source="secondary: Definition 1 as an extract gives it",
    evidence="tests/defences/test_aggregators.py::test_median_equals_its_definition",
    coordinatewise=True,
    claims=("permutation", "unanimity", "translation", "scale"),
    kappa="((n - 1)//2)/(n - f - (n - 1)//2)",
    kappa_source="proved: tests/defences/test_theory.py, which reaches it",
)
def median(updates: Updates) -> Update:
    """The middle value of each coordinate; of an even number of values, the mean of the middle two.

    Yin et al. 2018, Definition 1.
    """
    return column_medians(updates)
