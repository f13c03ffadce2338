"""The linear algebra against its definitions in float64, on rows that were made to spoil it."""

from collections.abc import Callable
from functools import partial

import making
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedpoison.common.parallel import using
from fedpoison.linalg import gram as gram_module
from fedpoison.linalg import kernels
from fedpoison.linalg.blocks import GROUP, WIDTH, by_columns, column_blocks, mixed_rows, row_norms, weighted_sum
from fedpoison.linalg.gram import distances_of, geometry, inner_products
from fedpoison.linalg.sorting import column_medians, mean_rows, sort_columns

CLOSE = 1e-4
"""Relative error allowed of a squared distance between float32 rows; what was measured is below 2e-5."""
LARGE = (1e3, 1e6, 1e12, 1e30)


@pytest.fixture(autouse=True, params=[False, True], ids=["plain", "kernels"])
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything here holds for the plain routes, and for the kernels in C where there are any."""
    if not request.param:
        monkeypatch.setattr(kernels, "level", lambda: 0)
    elif kernels.level() == 0:
        pytest.skip("the kernels were not built here")


rows = partial(making.rows, dtype=torch.float32)


def distances_by_differences(matrix: Tensor) -> Tensor:
    exact = matrix.double()
    return torch.stack([((exact - row) ** 2).sum(dim=1) for row in exact])


def gram_about(matrix: Tensor, centre: int) -> Tensor:
    exact = matrix.double() - matrix[centre].double()
    return (exact.unsqueeze(1) * exact).sum(dim=2)


def assert_distances_are_right(matrix: Tensor, within: float = CLOSE) -> None:
    gram, distances = geometry(matrix)
    assert distances.dtype == gram.dtype == torch.float64
    torch.testing.assert_close(distances, distances_by_differences(matrix), rtol=within, atol=0)


# ---- distances and inner products


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [1, 7, 64, 100, WIDTH, WIDTH + 1, 5000])
@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_distances_of_ordinary_rows(n: int, d: int, dtype: torch.dtype) -> None:
    assert_distances_are_right(rows(n, d, dtype=dtype), CLOSE if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("n", [3, 5, 11])
def test_distances_are_symmetric_to_the_bit(n: int) -> None:
    # Two rows that are each other's nearest have the same Krum score: that tie must not be decided by rounding.
    for d in (10, 3000):
        for seed in range(20):
            _, distances = geometry(rows(n, d, seed))
            assert torch.equal(distances, distances.T)


@pytest.mark.parametrize("d", [gram_module._GROUP + 1, 2 * gram_module._GROUP + 100])
def test_distances_over_several_groups_of_blocks(d: int) -> None:
    assert_distances_are_right(rows(4, d))


@pytest.mark.parametrize("large", LARGE)
@pytest.mark.parametrize("n", [3, 10, 11])
def test_one_huge_row_at_any_index_spoils_no_other_pair(n: int, large: float) -> None:
    for attacker in range(n):
        matrix = rows(n, 100, seed=attacker)
        matrix[attacker] *= large
        assert_distances_are_right(matrix)


@pytest.mark.parametrize("large", LARGE)
@pytest.mark.parametrize("first", range(4))
def test_several_huge_rows_spoil_no_other_pair(first: int, large: float) -> None:
    matrix = rows(11, 100, seed=first)
    matrix[first::3] *= large
    assert_distances_are_right(matrix)


@pytest.mark.parametrize("shift", [1.0, 100.0, 1e4])
@pytest.mark.parametrize("n", [2, 3, 10, 11])
def test_rows_far_from_the_origin_do_not_cancel(n: int, shift: float) -> None:
    for d in (3, 100, 5000):
        assert_distances_are_right(rows(n, d, seed=d) + shift)
        assert_distances_are_right(rows(n, d, seed=d, dtype=torch.float64) + shift, 1e-9)


@pytest.mark.parametrize("shift", [300.0, 1e4])
@pytest.mark.parametrize("attackers", [(0,), (4,), (9,), (0, 1, 2, 4), (2, 5, 7, 9)])
def test_an_attacker_with_the_median_norm_does_not_become_the_centre(attackers: tuple[int, ...], shift: float) -> None:
    matrix = rows(10, 100, seed=1) + shift
    order = row_norms(matrix).argsort()
    matrix = matrix[order]  # row 4 has the median norm: it would be the centre
    matrix[list(attackers)] *= -1
    assert_distances_are_right(matrix)
    gram, _ = geometry(matrix)  # about one of the honest rows, so that rules may work on it
    honest = [i for i in range(10) if i not in attackers]
    among = distances_of(gram)[honest][:, honest]
    torch.testing.assert_close(among, distances_by_differences(matrix[honest]), rtol=CLOSE, atol=0)


def test_a_huge_row_at_any_index_costs_no_second_product(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*arguments: object) -> Tensor:
        calls.append(1)
        return inner_products(*arguments)

    monkeypatch.setattr(gram_module, "inner_products", counted)
    for attacker in range(11):
        matrix = rows(11, 100, seed=attacker)
        matrix[attacker] *= 1e6
        calls.clear()
        geometry(matrix)
        assert len(calls) == 1


def test_an_attacker_with_the_median_norm_elsewhere_does_not_become_the_centre() -> None:
    matrix = rows(11, 200, seed=2) + 1e4
    matrix[3] = matrix[3].roll(1) * torch.tensor([1.0, -1.0]).repeat(100)  # same length, orthogonal
    matrix[3] *= row_norms(matrix).median().float() / row_norms(matrix)[3].float()
    assert_distances_are_right(matrix)


@pytest.mark.parametrize("close", [1e-2, 1e-4])
@pytest.mark.parametrize("far", [10.0, 1e3, 1e6])
def test_colluders_close_to_each_other_and_far_from_all_keep_their_distances(far: float, close: float) -> None:
    matrix = rows(11, 300, seed=3)
    matrix[4:8] = far + far * close * matrix[4:8]
    assert_distances_are_right(matrix)


def test_two_groups_of_colluders_keep_their_distances() -> None:
    matrix = rows(13, 300, seed=4)
    matrix[:3] = 1e3 + 1e-2 * matrix[:3]
    matrix[3:6] = -1e5 + matrix[3:6]
    assert_distances_are_right(matrix)


def test_two_tight_halves_far_apart_come_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    # About a row of either half the other half cancels, so each half looks like the better centre.
    calls = []

    def counted(*arguments: object) -> Tensor:
        calls.append(1)
        assert len(calls) < 50, "the search for a centre goes round in circles"
        return inner_products(*arguments)

    monkeypatch.setattr(gram_module, "inner_products", counted)
    assert_distances_are_right(torch.tensor([[1.0], [0.0], [9997.0], [9999.0]]))
    for n in (4, 6, 10):
        for seed in range(5):
            calls.clear()
            matrix = rows(n, 100, seed=seed)
            matrix[n // 2 :] += 1e4
            assert_distances_are_right(matrix)


def test_equal_rows_have_distance_zero_and_equal_distances_to_all_others() -> None:
    matrix = rows(9, 3000, seed=5)
    for twins, value in (((0, 4), matrix[0]), ((1, 5, 7), 1e6 * matrix[1]), ((2, 8), matrix[2] + 1e4)):
        for twin in twins:
            matrix[twin] = value
    gram, distances = geometry(matrix)
    for twins in ((0, 4), (1, 5, 7), (2, 8)):
        for twin in twins[1:]:
            assert distances[twins[0], twin] == 0
            assert torch.equal(distances[twins[0]], distances[twin])
            assert torch.equal(gram[twins[0]], gram[twin])
    torch.testing.assert_close(distances, distances_by_differences(matrix), rtol=CLOSE, atol=0)


def test_all_rows_equal() -> None:
    for row in (torch.zeros(70), rows(1, 70)[0], rows(1, 70)[0] * 1e30):
        gram, distances = geometry(row.repeat(5, 1))
        assert not gram.any()
        assert not distances.any()


def test_zero_rows_among_others() -> None:
    matrix = rows(6, 50)
    matrix[[1, 4]] = 0
    assert_distances_are_right(matrix)


def test_small_rows() -> None:
    assert_distances_are_right(rows(7, 100) * 1e-30)


@pytest.mark.parametrize("large", [1.0, *LARGE])
def test_inner_products_about_any_centre(large: float) -> None:
    matrix = rows(6, 300, seed=6)
    matrix[2] *= large
    for centre in (0, 1, 5):
        expected = gram_about(matrix, centre)
        size = expected.diagonal().sqrt()
        error = (inner_products(matrix, centre, row_norms(matrix)) - expected).abs()
        assert (error <= 1e-5 * size * size.unsqueeze(1)).all()


def test_geometry_gives_a_gram_matrix_about_a_common_centre() -> None:
    matrix = rows(8, 300, seed=7) + 5
    gram, distances = geometry(matrix)
    torch.testing.assert_close(distances_of(gram), distances, rtol=1e-12, atol=1e-12)
    weights = torch.tensor([0.5, -0.25, 0, 0, 0.75, 0, 0.5, -1.5], dtype=torch.float64)  # sums to 0: no centre matters
    length = (weights @ matrix.double()).square().sum()
    torch.testing.assert_close(weights @ gram @ weights, length, rtol=1e-5, atol=0)


def test_reference_rows_do_not_choose_the_centre() -> None:
    clients = rows(7, 100, seed=8) + 1e4
    matrix = torch.cat([clients, torch.zeros(20, 100)])
    _, distances = geometry(clients, references=matrix[7:])
    torch.testing.assert_close(distances, distances_by_differences(matrix), rtol=CLOSE, atol=0)


@pytest.mark.parametrize("large", [1.0, 1e30])
def test_references_have_the_inner_products_of_rows(large: float) -> None:
    matrix = rows(9, 2 * WIDTH + 30)
    matrix[3], matrix[7] = large * matrix[3], large * matrix[7]
    expected = inner_products(matrix, 2, row_norms(matrix))
    made = inner_products(matrix[:6], 2, row_norms(matrix), matrix[6:])
    lengths = expected.diagonal().sqrt()
    assert ((made - expected).abs() <= 1e-6 * lengths * lengths.unsqueeze(1)).all()


def test_distances_of_clamps_what_rounding_makes_negative() -> None:
    gram = torch.tensor([[1.0, 1.0 + 1e-12], [1.0 + 1e-12, 1.0]], dtype=torch.float64)
    assert not distances_of(gram).any()


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    n=st.integers(1, 9),
    d=st.integers(1, 130),
    seed=st.integers(0, 2**32),
    scales=st.lists(st.sampled_from([0.0, 1e-20, 1.0, 1.0, 1.0, -1.0, 1e3, 1e9, 1e30]), min_size=9, max_size=9),
    shift=st.sampled_from([0.0, 1.0, 1e4]),
)
def test_distances_of_rows_of_any_size(n: int, d: int, seed: int, scales: list[float], shift: float) -> None:
    matrix = (rows(n, d, seed) + shift) * torch.tensor(scales[:n]).unsqueeze(1)
    _, distances = geometry(matrix)
    expected = distances_by_differences(matrix)
    torch.testing.assert_close(distances, expected, rtol=CLOSE, atol=0)


def test_geometry_and_its_pieces_do_not_touch_their_input() -> None:
    matrix = rows(6, 100) + 1e4
    matrix[2] = matrix[1]
    before = matrix.clone()
    geometry(matrix)
    sort_columns(matrix)
    weighted_sum(torch.full((6,), 1 / 6), matrix)
    row_norms(matrix)
    assert torch.equal(matrix, before)


def test_rows_that_do_not_lie_in_one_piece() -> None:
    matrix = rows(100, 9, seed=9).T
    assert not matrix.is_contiguous()
    assert_distances_are_right(matrix)
    assert torch.equal(sort_columns(matrix), matrix.sort(dim=0).values)
    torch.testing.assert_close(row_norms(matrix), matrix.double().norm(dim=1))


# ---- sorting and means


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "d"), [(1, 1), (1, 5), (5, 1), (2, 64), (11, 2050)])
def test_columns_are_sorted(n: int, d: int, dtype: torch.dtype) -> None:
    matrix = rows(n, d, dtype=dtype)
    result = sort_columns(matrix)
    assert result.dtype == dtype
    assert torch.equal(result, matrix.sort(dim=0).values)
    result += 1
    assert torch.equal(matrix, rows(n, d, dtype=dtype))  # what was returned is not the input's memory


def test_sorting_puts_what_is_not_finite_at_the_ends() -> None:
    matrix = torch.tensor([[torch.nan, torch.inf], [1.0, 0.0], [0.0, -torch.inf]])
    result = sort_columns(matrix)
    assert result[:2, 0].tolist() == [0, 1]
    assert result[2, 0].isnan()
    assert result[:, 1].tolist() == [-torch.inf, 0, torch.inf]


def test_means_are_accumulated_in_float64() -> None:
    matrix = torch.tensor([[1e8], [1.0], [-1e8], [1.0]])
    assert mean_rows(matrix).tolist() == [0.5]
    assert mean_rows(torch.full((2, 3), 3e38)).tolist() == torch.full((3,), 3e38).tolist()


# ---- weighted sums


def test_a_weighted_sum_is_accumulated_in_float64() -> None:
    matrix = torch.tensor([[1e8] * 5, [1.0] * 5, [-1e8] * 5, [1.0] * 5])
    assert weighted_sum(torch.full((4,), 0.25), matrix).tolist() == [0.5] * 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [1, 100, WIDTH + 1, 3 * WIDTH, 2 * GROUP + 5])
def test_a_weighted_sum_equals_its_definition(d: int, dtype: torch.dtype) -> None:
    matrix, weights = rows(7, d, dtype=dtype), rows(7, 1, seed=1, dtype=torch.float64).flatten()
    result = weighted_sum(weights, matrix)
    assert result.dtype == dtype
    torch.testing.assert_close(result, (weights @ matrix.double()).to(dtype), rtol=1e-6, atol=1e-12)


def test_a_single_weight_of_one_gives_the_row_itself_but_not_its_memory() -> None:
    matrix = rows(4, 100) * 1e-3
    result = weighted_sum(torch.tensor([0.0, 0, 1, 0]), matrix)
    assert torch.equal(result, matrix[2])
    result += 1
    assert torch.equal(matrix, rows(4, 100) * 1e-3)


@pytest.mark.parametrize("poison", [3e38, torch.inf, torch.nan])
def test_rows_of_weight_zero_are_not_read(poison: float) -> None:
    matrix = rows(5, 100)
    expected = (matrix[0].double() / 2 + matrix[4].double() / 2).float()
    matrix[1:4] = poison
    assert torch.equal(weighted_sum(torch.tensor([0.5, 0, 0, 0, 0.5]), matrix), expected)


def test_no_weight_at_all_gives_zero() -> None:
    assert not weighted_sum(torch.zeros(3), rows(3, 100)).any()


def test_weights_near_a_huge_row_do_not_overflow() -> None:
    matrix = torch.full((2, 10), 3e38)
    assert torch.equal(weighted_sum(torch.tensor([0.5, 0.5]), matrix), matrix[0])


# ---- norms


def test_norms_of_huge_float32_rows_are_finite() -> None:
    matrix = torch.full((3, 100), torch.finfo(torch.float32).max)
    matrix[1] = 1e30
    matrix[2] = -1e30
    torch.testing.assert_close(row_norms(matrix), matrix.double().square().sum(dim=1).sqrt())
    assert row_norms(matrix).isfinite().all()


def test_norms_of_rows_that_are_not_finite_are_not_finite() -> None:
    matrix = rows(5, 5000)
    for row, bad in enumerate((torch.nan, torch.inf, -torch.inf)):
        matrix[row, 4999 - row] = bad
    assert row_norms(matrix).isfinite().tolist() == [False, False, False, True, True]


def test_norms_of_small_and_zero_rows() -> None:
    matrix = torch.stack([torch.zeros(100), torch.full((100,), 1e-30)])
    torch.testing.assert_close(row_norms(matrix), torch.tensor([0, 1e-29], dtype=torch.float64), rtol=1e-6, atol=0)


# ---- columns


@pytest.mark.parametrize("d", [1, 63, 64, WIDTH - 1, WIDTH, WIDTH + 1, 5 * WIDTH])
def test_the_grid_covers_every_column_once(d: int) -> None:
    blocks = column_blocks(d)
    assert [i for block in blocks for i in range(d)[block]] == list(range(d))
    assert all(block.start % 64 == 0 for block in blocks)
    assert max(block.stop - block.start for block in blocks) <= WIDTH


@pytest.mark.parametrize("d", [1, 100, WIDTH + 1, 3 * WIDTH, 2 * GROUP + 5])
def test_a_rule_block_by_block_is_the_rule_on_all_columns(d: int) -> None:
    matrix = rows(6, d)

    def rule(block: Tensor) -> Tensor:
        return block.max(dim=0).values

    assert torch.equal(by_columns(rule, matrix), matrix.max(dim=0).values)
    mixing = torch.softmax(rows(4, 6, seed=1, dtype=torch.float64), dim=1)
    mixed = (mixing @ matrix.double()).max(dim=0).values.float()
    torch.testing.assert_close(by_columns(rule, matrix, mixing), mixed, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mixed_rows_equal_the_matrix_product(dtype: torch.dtype) -> None:
    matrix, mixing = rows(6, GROUP + 5, dtype=dtype), rows(4, 6, seed=1, dtype=torch.float64)
    result = mixed_rows(mixing, matrix)
    assert result.dtype == dtype
    torch.testing.assert_close(result, (mixing @ matrix.double()).to(dtype), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e-20, 1e20, 1e35])
@pytest.mark.parametrize("d", [1, 127, 128, 1000])
def test_norms_are_right_whatever_the_size_of_the_values(scale: float, d: int) -> None:
    matrix = rows(5, d) * scale
    expected = matrix.double().square().sum(dim=1).sqrt()
    torch.testing.assert_close(row_norms(matrix), expected, rtol=1e-7, atol=0)
    assert torch.equal(row_norms(matrix.double()), torch.linalg.vector_norm(matrix.double(), dim=1))


def test_one_huge_value_among_tiny_ones_is_the_norm() -> None:
    row = torch.full((1, 300), 1e-25)
    row[0, 200] = 1e25
    assert row_norms(row)[0] == pytest.approx(1e25, rel=1e-7)


# ---- threads


def with_workers(count: int, work: Callable[[], list[Tensor]]) -> list[Tensor]:
    with using(count):
        return work()


def test_the_number_of_worker_threads_changes_no_bit() -> None:
    matrix = rows(9, gram_module._GROUP + 3 * WIDTH + 77, seed=10)
    matrix[3] *= 1e6
    matrix[5] = matrix[6] + 1e-3 * matrix[7]
    weights = torch.softmax(rows(9, 1, dtype=torch.float64).flatten(), dim=0)
    mixing = torch.softmax(rows(9, 9, seed=1, dtype=torch.float64), dim=1)

    def work() -> list[Tensor]:
        return [
            *geometry(matrix),
            row_norms(matrix),
            weighted_sum(weights, matrix),
            mixed_rows(mixing, matrix),
            by_columns(mean_rows, matrix),
            by_columns(mean_rows, matrix, mixing),
            by_columns(column_medians, matrix),
        ]

    alone = with_workers(1, work)
    for count in (2, 3):
        for expected, result in zip(alone, with_workers(count, work), strict=True):
            assert torch.equal(expected, result)
