"""What rules remember of each client, and cosines, against plain loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedpoison.common import parallel
from fedpoison.defences.memory import recall, remember
from fedpoison.linalg.angles import cosines, cosines_to

searched = settings(derandomize=True, deadline=None, max_examples=40)
cohorts = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6, unique=True), min_size=1, max_size=6)


@given(cohorts, st.sampled_from([(3,), (), (2, 2)]))
@searched
def test_each_client_s_last_row_is_remembered_whatever_the_cohorts(rounds: list[list[int]], shape: tuple[int]) -> None:
    state: dict[str, Tensor] = {"another": torch.ones(1)}
    expected: dict[int, Tensor] = {}
    for number, cohort in enumerate(rounds):
        ids, rows = (
            torch.tensor(cohort),
            torch.randn(len(cohort), *shape, generator=torch.Generator().manual_seed(number)),
        )
        before = {name: tensor.clone() for name, tensor in state.items()}
        found = recall(state, "m", ids, rows)
        assert torch.equal(found, torch.stack([expected.get(i, torch.zeros(shape)) for i in cohort]))
        after = remember(state, "m", ids, rows)
        expected |= dict(zip(cohort, rows, strict=True))
        assert all(torch.equal(state[name], before[name]) for name in before)
        assert state.keys() == before.keys()
        state = after
        assert all(isinstance(tensor, Tensor) for tensor in state.values())
        assert state["m.ids"].tolist() == sorted(expected)
        assert torch.equal(state["m.rows"], torch.stack([expected[i] for i in sorted(expected)]))
    assert state["another"].tolist() == [1]


def test_memories_of_two_names_are_kept_apart_and_have_their_rows_type() -> None:
    state = remember({}, "a", torch.tensor([4, 1]), torch.tensor([[4.0], [1.0]], dtype=torch.float64))
    state = remember(state, "b", torch.tensor([1]), torch.tensor([[7.0]]))
    assert recall(state, "a", torch.tensor([1, 2, 4]), torch.zeros(3, 1).double()).tolist() == [[1], [0], [4]]
    assert recall(state, "b", torch.tensor([4, 1]), torch.zeros(2, 1)).tolist() == [[0], [7]]
    assert state["a.rows"].dtype == torch.float64
    assert state["b.rows"].dtype == torch.float32


def test_what_is_recalled_is_a_copy() -> None:
    state = remember({}, "a", torch.tensor([1]), torch.ones(1, 2))
    recall(state, "a", torch.tensor([1]), torch.zeros(1, 2)).add_(1)
    assert state["a.rows"].tolist() == [[1, 1]]


def cosine(one: list[float], other: list[float]) -> float:
    a, b = math.hypot(*one), math.hypot(*other)
    return math.fsum(x / a * y / b for x, y in zip(one, other, strict=True)) if a and b else 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("large", [1.0, 1e-30, 1e30])
def test_cosines_equal_their_definition_however_long_the_rows(dtype: torch.dtype, large: float) -> None:
    rows = torch.randn(7, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    rows[2], rows[5] = 0, rows[1]
    rows[[1, 3, 4]] *= large  # of seven, the three may be most of those that are not zero
    lists = rows.double().tolist()
    expected = torch.tensor([[cosine(a, b) for b in lists] for a in lists], dtype=torch.float64)
    torch.testing.assert_close(cosines(rows), expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(cosines_to(rows[3], rows), expected[3], rtol=0, atol=1e-14)
    assert cosines_to(rows[2], rows).tolist() == [0.0] * 7


def test_rows_that_differ_by_less_than_float32_shows_are_told_apart() -> None:
    direction, aside = torch.zeros(100, dtype=torch.float64), torch.zeros(100, dtype=torch.float64)
    direction[0], aside[1] = 1, 1
    rows = torch.stack([direction, direction + 1e-5 * aside, direction + 3e-5 * aside])
    assert (1 - cosines(rows))[0].tolist() == pytest.approx([0, 0.5e-10, 4.5e-10], abs=1e-14)


def test_cosines_have_the_same_bits_for_any_number_of_workers_and_the_largest_numbers() -> None:
    rows = torch.randn(5, 150_000, generator=torch.Generator().manual_seed(2))
    rows[0] = torch.finfo(torch.float32).max
    first = cosines(rows)
    assert first.isfinite().all()
    assert first[0, 0] == pytest.approx(1)
    for count in (1, 3):
        with parallel.using(count):
            assert torch.equal(cosines(rows), first)
    equal = cosines_to(rows[1], rows[2:3].repeat(4, 1))
    assert len(set(equal.tolist())) == 1
