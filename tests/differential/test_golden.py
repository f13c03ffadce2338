"""What byzfl, krum and byzpy gave against ours: the same, or a difference that comparisons.py lists and explains."""

import pytest
import torch
from differential.comparisons import COMPARISONS, FINDINGS, FLOWER, text
from differential.peers import HERE, Comparison, Finding, flower_tests, inputs, library, listed, outcomes

from fedpoison import aggregate

REGISTERED = [comparison for comparison in COMPARISONS if comparison.registered]


def named(comparison: Comparison) -> str:
    return f"{comparison.library}-{comparison.function}"


@pytest.mark.parametrize("comparison", REGISTERED, ids=named)
def test_they_differ_exactly_where_it_is_listed(comparison: Comparison) -> None:
    found = outcomes(comparison)
    assert {name for name, same in found.items() if not same} == set(listed(comparison, found))


@pytest.mark.parametrize("comparison", COMPARISONS, ids=named)
def test_each_listed_difference_is_what_it_is_said_to_be(comparison: Comparison) -> None:
    theirs = library(comparison.library)
    names = outcomes(comparison) if comparison.registered else theirs.inputs_of(comparison.function)
    for name, difference in listed(comparison, names).items():
        assert difference.shown(theirs, comparison.function, name), (name, difference.why)


@pytest.mark.parametrize("finding", FINDINGS, ids=lambda finding: f"{finding.library}-{finding.call}")
def test_the_findings_are_in_what_they_gave(finding: Finding) -> None:
    assert finding.holds()


def test_every_function_that_was_recorded_is_compared_or_shows_a_finding() -> None:
    evidence = {"caf_again", "smea_again", "clipping_spoils", "arc_spoils", "centered_clipping_from_a_vector"}
    for name in ("byzfl", "krum", "byzpy"):
        recorded = {key.split("/")[0] for key in library(name).results.keys() | library(name).errors.keys()}
        assert recorded - evidence == {c.function for c in COMPARISONS if c.library == name}


@pytest.mark.parametrize("name", ["byzfl", "krum", "byzpy"])
def test_nobodys_geometric_median_has_a_smaller_sum_of_distances(name: str) -> None:
    for key, result in library(name).results.items():
        rows = inputs()[key.split("/")[1]].double()
        if key.startswith("geometric_median") and result.isfinite().all() and rows.isfinite().all():
            ours = aggregate("geometric_median", rows.float()).update
            theirs = (rows - result).norm(dim=1).sum()
            assert (rows - ours).norm(dim=1).sum() <= theirs * (1 + 1e-6)


def test_the_shifted_rows_were_moved_back_without_an_error() -> None:
    for name, rows in inputs().items():
        if name.startswith("back"):
            assert torch.equal(rows + 1e4, inputs()[name.replace("back", "shifted")])
            assert torch.equal(rows.double() + 1e4, inputs()[name.replace("back", "shifted")].double())


def test_flower_s_rows_name_tests_that_there_are() -> None:
    assert {row[3] for row in FLOWER} <= flower_tests()


def test_the_readme_is_the_table() -> None:
    assert (HERE / "README.md").read_text() == text()
