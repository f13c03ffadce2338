"""Configurations that nobody wrote work or are refused in a sentence; scripts/fuzz-configs has the whole of it."""

import fuzzing
import pytest


@pytest.mark.parametrize(("cases", "rounds"), [(40, 5), pytest.param(10_000, 1_000, marks=pytest.mark.exhaustive)])
def test_a_configuration_that_nobody_wrote_works_or_is_refused(cases: int, rounds: int) -> None:
    outcome = fuzzing.fuzz(0, range(cases), rounds)
    assert not outcome.failures, "\n".join(outcome.failures)
    assert outcome.counts["refused"] > cases / 10  # which they are depends on what is registered
    assert outcome.counts["valid"] > cases / 20
    assert outcome.counts["played"] > 0


def test_a_case_is_the_same_each_time() -> None:
    assert repr(fuzzing.mutated(0, 5)) == repr(fuzzing.mutated(0, 5)) != repr(fuzzing.mutated(0, 6))
