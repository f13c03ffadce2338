"""Coordinate-wise trimmed mean."""

from fedpoison.contract.registry import aggregator
from fedpoison.linalg.sorting import trimmed_column_means
from fedpoison.types import Update, Updates


@aggregator(
    paper="arXiv:1803.01498",
    source="secondary: Definition 2 as an extract gives it",
    evidence="tests/defences/test_aggregators.py::test_trimmed_mean_equals_its_definition",
    needs="n > 2*f",
    coordinatewise=True,
    claims=("permutation", "unanimity", "translation", "scale"),
    kappa="f/(n - 2*f)",
    kappa_source="proved: tests/defences/test_theory.py, which reaches it; no rule has less (Allouah et al. 2023)",
)
def trimmed_mean(updates: Updates, f: int) -> Update:
    """Drop the f largest and f smallest values of each coordinate, average the rest.

    Yin et al. 2018, Definition 2, with f = βn.
    """
    return trimmed_column_means(updates, f)
