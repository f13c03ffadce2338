"""Every rule against its paper's definition, written out in float64; then the field's mistakes, one by one."""

import math
import re
from functools import partial
from typing import Any

import making
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from making import draws
from torch import Tensor

from fedpoison import aggregate
from fedpoison.defences.aggregators.centered_clipping import centered_clipping
from fedpoison.defences.aggregators.krum import krum, krum_scores, multi_krum
from fedpoison.defences.aggregators.median import median
from fedpoison.defences.aggregators.trimmed_mean import trimmed_mean

RULES = ("mean", "krum", "multi_krum", "trimmed_mean", "median", "geometric_median", "centered_clipping")
LARGE = (1e3, 1e6, 1e12, 1e30)
SIZES = ((3, 0), (4, 0), (5, 1), (6, 1), (11, 4), (24, 5), (25, 11))
"""(n, f) that every rule here can take, odd and even."""
seeds = draws(8, 25)


rows = partial(making.rows, dtype=torch.float32)


def attacked(n: int, f: int, large: float, seed: int) -> tuple[Tensor, list[int]]:
    """Rows of which f, at random indices, are huge; and the indices of the others."""
    matrix = rows(n, seed=seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed + 1)).tolist()
    matrix[order[:f]] *= large
    return matrix, sorted(order[f:])


def hard(n: int, f: int, seed: int) -> list[Tensor]:
    """Ordinary rows, rows far from the origin, and rows of which f are huge (another size for each seed < 4)."""
    return [rows(n, seed=seed), rows(n, seed=seed) + 10.0 ** (seed + 1), attacked(n, f, LARGE[seed], seed)[0]]


def scores_by_definition(matrix: Tensor, neighbours: int, power: int = 2, itself: bool = False) -> list[float]:
    points, scores = matrix.double(), []
    for i, point in enumerate(points):
        lengths = (points - point).square().sum(dim=1).pow(power / 2).tolist()
        others = lengths if itself else lengths[:i] + lengths[i + 1 :]
        scores.append(math.fsum(sorted(others)[:neighbours]))
    return scores


def the_lowest(scores: list[float], count: int = 1) -> list[int]:
    return sorted(sorted(range(len(scores)), key=lambda i: (scores[i], i))[:count])


def weights_of(rule: str, matrix: Tensor, **options: Any) -> Tensor:
    weights = aggregate(rule, matrix, **options).weights
    assert weights is not None
    return weights


def assert_close(result: Tensor, expected: Tensor, within: float = 1e-5) -> None:
    torch.testing.assert_close(result.double(), expected.double(), rtol=within, atol=within)


# ---- each against its definition


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "f"), [(1, 0), (2, 0), *SIZES])
def test_mean_is_the_average(n: int, f: int, dtype: torch.dtype) -> None:
    for seed in range(3):
        matrix, sizes = rows(n, seed=seed, dtype=dtype), torch.arange(1.0, n + 1)
        columns = matrix.double().T.tolist()
        expected = torch.tensor([math.fsum(column) / n for column in columns], dtype=torch.float64)
        assert_close(aggregate("mean", matrix, f=f).update, expected)
        assert_close(aggregate("mean", matrix, f=f, sizes=sizes).update, expected)
        weighted = [sum((i + 1) * v for i, v in enumerate(column)) / (n * (n + 1) / 2) for column in columns]
        verdict = aggregate("mean", matrix, f=f, sizes=sizes, weighting="sizes")
        assert_close(verdict.update, torch.tensor(weighted))
        assert verdict.weights is not None
        assert_close(verdict.weights, sizes / sizes.sum())


@pytest.mark.parametrize(("n", "f"), SIZES)
def test_krum_equals_its_definition(n: int, f: int) -> None:
    for seed in range(4):
        for matrix in hard(n, f, seed):
            verdict = aggregate("krum", matrix, f=f)
            chosen = the_lowest(scores_by_definition(matrix, n - f - 2))[0]
            assert verdict.weights is not None
            assert verdict.weights.tolist() == [float(i == chosen) for i in range(n)]
            assert torch.equal(verdict.update, matrix[chosen])


@pytest.mark.parametrize(("n", "f"), SIZES)
def test_multi_krum_equals_its_definition(n: int, f: int) -> None:
    for seed, m in enumerate((None, None, 2, n)):
        for matrix in hard(n, f, seed):
            scores = scores_by_definition(matrix, n - f - 2)
            chosen = the_lowest(scores, n - f if m is None else m)
            verdict = aggregate("multi_krum", matrix, f=f, m=m)
            assert_close(verdict.update, matrix[chosen].double().mean(dim=0))
            assert verdict.weights is not None
            assert verdict.weights.nonzero().flatten().tolist() == chosen
            assert verdict.weights[chosen].tolist() == [1 / len(chosen)] * len(chosen)
            assert verdict.flagged is not None
            assert verdict.flagged.tolist() == [i not in chosen for i in range(n)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "f"), [(1, 0), (2, 0), (3, 1), (4, 1), *SIZES])
def test_trimmed_mean_equals_its_definition(n: int, f: int, dtype: torch.dtype) -> None:
    for seed in range(4):
        for matrix in (rows(n, seed=seed, dtype=dtype), attacked(n, f, LARGE[seed], seed)[0].to(dtype)):
            kept = [sorted(column)[f : n - f] for column in matrix.double().T.tolist()]
            expected = torch.tensor([math.fsum(column) / len(column) for column in kept], dtype=torch.float64)
            assert_close(aggregate("trimmed_mean", matrix, f=f).update, expected)
            assert_close(trimmed_mean(matrix, f), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "f"), [(1, 0), (2, 0), (3, 1), (4, 1), *SIZES])
def test_median_equals_its_definition(n: int, f: int, dtype: torch.dtype) -> None:
    for seed in range(4):
        for matrix in (rows(n, seed=seed, dtype=dtype), attacked(n, f, LARGE[seed], seed)[0].to(dtype)):
            ordered = [sorted(column) for column in matrix.double().T.tolist()]
            expected = torch.tensor([(c[(n - 1) // 2] + c[n // 2]) / 2 for c in ordered], dtype=torch.float64)
            assert_close(aggregate("median", matrix, f=f).update, expected)
            assert_close(median(matrix), expected)


def geometric_median_by_weiszfeld(matrix: Tensor) -> Tensor:
    points = matrix.double().numpy()
    here = np.median(points, axis=0)
    for _ in range(2000):
        pull = 1 / np.linalg.norm(points - here, axis=1).clip(min=1e-12)
        there = (pull / pull.sum()) @ points
        if np.abs(there - here).max() < 1e-11:
            break
        here = there
    return torch.from_numpy(there)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "f"), [(1, 0), (2, 0), *SIZES])
def test_geometric_median_minimises_the_sum_of_distances(n: int, f: int, dtype: torch.dtype) -> None:
    within = 1e-5 if dtype == torch.float32 else 1e-8
    for d in (1, 30):
        for seed in range(2):
            matrix = rows(n, d, seed, dtype=dtype)
            verdict = aggregate("geometric_median", matrix, f=f)
            assert verdict.weights is not None
            assert (verdict.weights >= 0).all()
            assert_close(verdict.weights.sum(), torch.tensor(1.0), 1e-12)

            points, best = matrix.double(), geometric_median_by_weiszfeld(matrix)
            length = min((points - p).norm(dim=1).sum() for p in (best, *points))
            assert (points - verdict.update.double()).norm(dim=1).sum() <= length * (1 + within)


@pytest.mark.parametrize(("n", "f"), [(4, 1), (5, 2), (10, 2), (10, 4), (11, 5), (25, 7), (25, 12)])
def test_geometric_median_stays_where_it_is_among_huge_rows(n: int, f: int) -> None:
    for large in LARGE:
        for seed in range(2):
            matrix, honest = attacked(n, f, large, seed)
            expected = geometric_median_by_weiszfeld(matrix)
            spread = (matrix[honest] - matrix[honest].mean(dim=0)).norm(dim=1).max()
            error = (aggregate("geometric_median", matrix, f=f).update.double() - expected).norm()
            assert error <= 1e-3 * spread, f"{large:.0e}: {error:.1e} away"


@pytest.mark.parametrize("n", [5, 6, 11])
def test_geometric_median_of_rows_far_from_the_origin(n: int) -> None:
    for seed in range(5):
        matrix = rows(n, seed=seed) + 1e4
        expected = geometric_median_by_weiszfeld(matrix)
        assert (aggregate("geometric_median", matrix).update.double() - expected).norm() <= 1e-2  # float32 steps: 1e-3


def test_geometric_median_of_rows_that_are_themselves_the_minimum() -> None:
    star = torch.tensor([[1.0, 0], [-1, 0], [0, 0], [0, 1], [0, -1]])
    assert aggregate("geometric_median", star).update.tolist() == [0, 0]
    most = torch.tensor([[9.0, 9], [1, 2], [1, 2], [1, 2], [-7, 3]])  # more than half of the rows
    assert aggregate("geometric_median", most).update.tolist() == [1, 2]
    obtuse = torch.tensor([[0.0, 0], [-4, 1], [4, 1]])  # the angle at row 0 is over 120°
    assert aggregate("geometric_median", obtuse).update.tolist() == [0, 0]


def test_a_client_of_three_samples_counts_as_three_clients_in_the_geometric_median() -> None:
    drawn = [rows(n, seed=n, dtype=torch.float64) for n in (3, 6, 11)]
    vertex = torch.tensor([[9.0, 9], [1, 2], [-7, 3], [0, 4], [2, 2]], dtype=torch.float64)
    for matrix in (*drawn, vertex):
        sizes = torch.tensor([1, 3, 1, 2, 1, 1, 2, 1, 1, 1, 3])[: len(matrix)]
        repeated = matrix.repeat_interleave(sizes, dim=0)
        for more in ({}, {"iterations": 3}, {"variant": "rfa"}):
            ours = aggregate("geometric_median", matrix, sizes=sizes, weighting="sizes", **more)
            assert_close(ours.update, aggregate("geometric_median", repeated, **more).update, 1e-6)
            assert not torch.allclose(ours.update, aggregate("geometric_median", matrix, **more).update)
    sizes = torch.tensor([1, 9, 1, 1, 1])
    assert aggregate("geometric_median", vertex, sizes=sizes, weighting="sizes").update.tolist() == [1, 2]


def rfa(points: Tensor, alphas: Tensor, smoothing: float, iterations: int) -> Tensor:
    """Algorithm 2 of Pillutla et al. (arXiv:1912.13445) from the weighted mean, as the authors' code has it."""
    centre = alphas @ points / alphas.sum()
    for _ in range(iterations):
        betas = alphas / (points - centre).norm(dim=1).clamp(min=smoothing)
        centre = betas @ points / betas.sum()
    return centre


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
def test_rfa_equals_its_algorithm_on_any_scale(scale: float) -> None:
    for n, seed in ((5, 0), (10, 1), (25, 2)):
        matrix = scale * rows(n, seed=seed, dtype=torch.float64)
        sizes = torch.arange(1.0, n + 1, dtype=torch.float64)
        for smoothing, iterations in ((1e-6, 4), (1.0, 1), (1e-5, 7)):
            found = aggregate(
                *("geometric_median", matrix),
                sizes=sizes,
                variant="rfa",
                weighting="sizes",
                smoothing=smoothing,
                **({} if iterations == 4 else {"iterations": iterations}),
            )
            assert_close(found.update / scale, rfa(matrix, sizes, smoothing, iterations) / scale, 1e-9)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e6])
def test_geometric_median_is_as_exact_for_small_updates_as_for_large(scale: float) -> None:
    for n in (5, 6, 11):
        matrix = rows(n, seed=n, dtype=torch.float64)
        expected = geometric_median_by_weiszfeld(matrix)
        assert_close(aggregate("geometric_median", matrix * scale).update / scale, expected, 1e-6)
        few = aggregate("geometric_median", matrix, iterations=3).update
        assert_close(aggregate("geometric_median", matrix * scale, iterations=3).update / scale, few, 1e-9)


@pytest.mark.parametrize("n", [1, 2, 11])
def test_geometric_median_with_iterations_of_equal_rows_is_that_row(n: int) -> None:
    row = rows(1, 5, 0)[0]
    assert_close(aggregate("geometric_median", row.repeat(n, 1), iterations=3).update, row, 1e-12)


def test_geometric_median_with_iterations_is_rfa() -> None:
    matrix = rows(9, seed=3)
    points = matrix.double()
    here, weights = points.mean(dim=0), torch.full((9,), 1 / 9, dtype=torch.float64)
    for iterations in (1, 2, 5):
        here, weights = points.mean(dim=0), torch.full((9,), 1 / 9, dtype=torch.float64)
        for _ in range(iterations):
            weights = 1 / (points - here).norm(dim=1)
            weights /= weights.sum()
            here = weights @ points
        verdict = aggregate("geometric_median", matrix, iterations=iterations)
        assert_close(verdict.update, here)
        assert verdict.weights is not None
        assert_close(verdict.weights, weights)


def centered_clipping_by_definition(matrix: Tensor, previous: Tensor, tau: float, iterations: int) -> Tensor:
    points, here = matrix.double(), previous.double()
    for _ in range(iterations):
        step = torch.zeros_like(here)
        for point in points:
            length = (point - here).norm().item()
            step += (point - here) * (min(1.0, tau / length) if length else 1.0)
        here = here + step / len(points)
    return here


@pytest.mark.parametrize(("n", "f"), [(1, 0), (2, 0), *SIZES])
def test_centered_clipping_equals_its_definition(n: int, f: int) -> None:
    for seed, (tau, iterations) in enumerate([(10.0, 1), (0.5, 1), (3.0, 3), (5.0, 20)]):
        for matrix, previous in ((rows(n, seed=seed), None), (attacked(n, f, 1e3, seed)[0], rows(1, seed=99)[0])):
            start = torch.zeros(30) if previous is None else previous
            verdict = aggregate("centered_clipping", matrix, f=f, previous=previous, tau=tau, iterations=iterations)
            assert_close(verdict.update, centered_clipping_by_definition(matrix, start, tau, iterations), 1e-4)


@pytest.mark.parametrize("large", LARGE)
def test_centered_clipping_of_huge_rows(large: float) -> None:
    for attacker in (0, 3, 6):
        matrix, previous = rows(7, seed=1), rows(1, seed=2)[0]
        matrix[attacker] *= large
        verdict = aggregate("centered_clipping", matrix, previous=previous, tau=4.0, iterations=2)
        assert_close(verdict.update, centered_clipping_by_definition(matrix, previous, 4.0, 2), 1e-4)


# ---- ties: the lower index wins


def test_krum_takes_the_lower_index_of_equal_scores() -> None:
    square = torch.tensor([[0.0, 0], [0, 2], [2, 0], [2, 2]])
    assert weights_of("krum", square).tolist() == [1, 0, 0, 0]
    mirrored = torch.tensor([[9.0], [-1], [1], [0], [-9], [1], [-1]])  # 1 and −1, twice each, lie alike
    scores = scores_by_definition(mirrored, 4)
    assert scores[1] == scores[2] == scores[5] == scores[6]
    assert weights_of("multi_krum", mirrored, f=1, m=2).nonzero().flatten().tolist() == the_lowest(scores, 2)
    assert weights_of("multi_krum", mirrored, f=1, m=4).nonzero().flatten().tolist() == the_lowest(scores, 4)


@pytest.mark.parametrize("shift", [0.0, 1024.0])
@pytest.mark.parametrize(("n", "f"), [(4, 0), (7, 2), (8, 2), (12, 4)])
def test_ties_among_small_integers_go_to_the_lower_index(n: int, f: int, shift: float) -> None:
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        matrix = torch.randint(-2, 3, (n, 3), generator=generator).float() + shift  # every sum of squares is exact
        scores = [
            sum(sorted(int(((a - b) ** 2).sum()) for j, b in enumerate(matrix) if j != i)[: n - f - 2])
            for i, a in enumerate(matrix)
        ]
        assert weights_of("krum", matrix, f=f).argmax() == the_lowest([float(s) for s in scores])[0]
        for m in (2, n - f):
            chosen = weights_of("multi_krum", matrix, f=f, m=m).nonzero().flatten().tolist()
            assert chosen == the_lowest([float(s) for s in scores], m)


def test_the_closest_two_of_three_tie_and_the_first_wins() -> None:
    for seed in range(60):
        matrix = rows(3, 10, seed)
        assert weights_of("krum", matrix).argmax() == the_lowest(scores_by_definition(matrix, 1))[0]


def test_the_first_of_identical_rows_wins() -> None:
    matrix = rows(9, 100, seed=4)
    matrix[[2, 5, 7]] = matrix[:9].mean(dim=0)
    assert weights_of("krum", matrix, f=2).argmax() == 2
    for large in (0.0, 1.0, 1e30):
        everyone_alike = large * rows(1, 100).repeat(7, 1)
        assert weights_of("krum", everyone_alike, f=2).argmax() == 0
        assert weights_of("multi_krum", everyone_alike, f=2).nonzero().flatten().tolist() == [0, 1, 2, 3, 4]


# ---- the field's mistakes


def line(*values: float) -> Tensor:
    return torch.tensor([[v] for v in values], dtype=torch.float32)


def test_krum_counts_n_minus_f_minus_2_neighbours() -> None:
    matrix = line(4, 9, 3, 10, 1)
    right, one_more = scores_by_definition(matrix, 2), scores_by_definition(matrix, 3)
    assert the_lowest(right) == [2]
    assert the_lowest(one_more) == [0]
    assert weights_of("krum", matrix, f=1).argmax() == 2


def test_krum_does_not_count_a_row_as_its_own_neighbour() -> None:
    matrix = line(1, 9, 3, 9, 9, 5, 4)
    assert the_lowest(scores_by_definition(matrix, 4)) == [6]
    assert the_lowest(scores_by_definition(matrix, 4, itself=True)) == [2]
    assert weights_of("krum", matrix, f=1).argmax() == 6


def test_krum_squares_its_distances() -> None:
    matrix = line(7, 8, 0, 2, 9, 3, 1)
    assert the_lowest(scores_by_definition(matrix, 4)) == [5]
    assert the_lowest(scores_by_definition(matrix, 4, power=1)) == [3]
    assert weights_of("krum", matrix, f=1).argmax() == 5


def test_krum_squares_its_distances_once() -> None:
    matrix = line(1, 9, 3, 9, 9, 5, 4)
    assert the_lowest(scores_by_definition(matrix, 4)) == [6]
    assert the_lowest(scores_by_definition(matrix, 4, power=4)) == [5]
    assert weights_of("krum", matrix, f=1).argmax() == 6


def test_krum_scores_are_the_definition_s_numbers() -> None:
    matrix = line(4, 9, 3, 10, 1)
    distances = (matrix - matrix.T).double() ** 2
    assert krum_scores(distances, 1).tolist() == scores_by_definition(matrix, 2)
    assert krum_scores(distances, 0).tolist() == scores_by_definition(matrix, 3)
    assert distances.diagonal().tolist() == [0] * 5  # read, not written


def test_krum_is_right_on_weights_far_from_the_origin() -> None:
    d = 60_000
    for seed in range(3):
        noise = rows(10, d, seed)
        weights = 12 * rows(1, d, seed=1000)[0] / d**0.5  # ‖w‖ = 12, and updates of 0.3 % of it
        matrix = weights + noise * (0.003 * 12 / d**0.5) * torch.linspace(0.97, 1.03, 10).unsqueeze(1)
        assert weights_of("krum", matrix, f=3).argmax() == the_lowest(scores_by_definition(matrix, 5))[0]


def test_multi_krum_keeps_n_minus_f_unless_told() -> None:
    matrix = rows(11)
    assert weights_of("multi_krum", matrix, f=3).count_nonzero() == 8
    assert weights_of("multi_krum", matrix, f=3, m=5).count_nonzero() == 5
    assert torch.equal(weights_of("multi_krum", matrix, f=3, m=1), weights_of("krum", matrix, f=3))


@pytest.mark.parametrize("m", [0, -1])
def test_multi_krum_refuses_to_keep_less_than_one(m: int) -> None:
    with pytest.raises(ValueError, match="m"):
        aggregate("multi_krum", rows(7), f=1, m=m)


def test_a_trim_count_of_zero_is_the_mean() -> None:
    for n in (1, 2, 7):
        matrix = rows(n)
        result = aggregate("trimmed_mean", matrix, f=0).update
        assert result.any()
        assert_close(result, matrix.double().mean(dim=0))


@pytest.mark.parametrize("rule", ["trimmed_mean", "krum", "median"])
def test_a_negative_f_is_refused(rule: str) -> None:
    with pytest.raises(ValueError, match="f"):
        aggregate(rule, rows(7), f=-1)


@pytest.mark.parametrize("bad", [1e8, 1e30, 3e38, -1e30, torch.inf, -torch.inf])
def test_one_bad_row_neither_empties_nor_spoils_the_coordinatewise_rules(bad: float) -> None:
    for attacker in range(5):
        matrix = rows(5)
        matrix[attacker] = bad
        honest = torch.cat([matrix[:attacker], matrix[attacker + 1 :]])
        for result in (trimmed_mean(matrix, 1), median(matrix)):  # as a rule that is called without screening
            assert (honest.min(dim=0).values <= result).all()
            assert (result <= honest.max(dim=0).values).all()
            assert result.any()


def test_an_even_median_averages_the_middle_two() -> None:
    assert aggregate("median", line(4, 1, 2, 100)).update.tolist() == [3]
    assert aggregate("median", line(1, 2)).update.tolist() == [1.5]
    assert aggregate("median", line(3e38, 3e38)).update.tolist() == line(3e38)[0].tolist()  # no overflow on the way


def test_means_are_weighted_by_what_the_server_knows_and_only_when_asked() -> None:
    matrix, sizes = line(0, 0, 9), torch.tensor([10.0, 20, 60])
    assert aggregate("mean", matrix, sizes=sizes).update.tolist() == [3]
    assert aggregate("mean", matrix, sizes=sizes, weighting="sizes").update.tolist() == [6]
    for rule in RULES[1:]:
        one, other = (aggregate(rule, rows(7), f=1, sizes=s) for s in (torch.ones(7), torch.arange(1.0, 8)))
        assert torch.equal(one.update, other.update)


def test_the_mean_of_huge_rows_does_not_overflow() -> None:
    assert aggregate("mean", line(3e38, 3e38, 3e38)).update.isfinite().all()


def test_centered_clipping_without_a_bound_is_the_mean() -> None:
    matrix, previous = rows(7), rows(1, seed=5)[0]
    for tau in (1e6, 1e30):
        result = aggregate("centered_clipping", matrix, previous=previous, tau=tau).update
        assert_close(result, matrix.double().mean(dim=0))


def test_an_iteration_of_centered_clipping_moves_at_most_tau() -> None:
    previous = rows(1, seed=6)[0]
    for large in (1.0, *LARGE):
        matrix = torch.full((5, 30), large)
        for tau in (0.1, 1.0, 7.0):
            for iterations in (1, 3):
                moved = (
                    aggregate("centered_clipping", matrix, previous=previous, tau=tau, iterations=iterations).update
                    - previous
                )
                assert moved.norm() <= tau * iterations * (1 + 1e-5)


def test_centered_clipping_stays_when_everybody_sends_the_previous_aggregate() -> None:
    previous = rows(1)[0]
    assert torch.equal(aggregate("centered_clipping", previous.repeat(4, 1), previous=previous).update, previous)


@pytest.mark.parametrize("tau", [0.0, -1.0])
def test_centered_clipping_refuses_a_tau_that_is_not_positive(tau: float) -> None:
    with pytest.raises(ValueError, match="tau"):
        aggregate("centered_clipping", rows(5), tau=tau)


@pytest.mark.parametrize(
    ("rule", "n", "f", "sentence"),
    [
        ("krum", 7, 3, "krum needs n > 2*f + 2: n = 7, f = 3"),
        ("krum", 2, 0, "krum needs n > 2*f + 2: n = 2, f = 0"),
        ("multi_krum", 8, 3, "multi_krum needs n > 2*f + 2: n = 8, f = 3"),
        ("trimmed_mean", 6, 3, "trimmed_mean needs n > 2*f: n = 6, f = 3"),
    ],
)
def test_an_impossible_n_and_f_are_refused_with_the_bound(rule: str, n: int, f: int, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        aggregate(rule, rows(n), f=f)
    assert not aggregate(rule, rows(2 * f + 3), f=f).skipped


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_neither_changes_nor_returns_its_input(rule: str) -> None:
    for n in (3, 6):  # of three rows the median is one of them
        matrix, sizes, previous = rows(n), torch.ones(n, dtype=torch.float64), torch.zeros(30)
        copies = [t.clone() for t in (matrix, sizes, previous)]
        verdict = aggregate(rule, matrix, sizes=sizes, previous=previous)
        for result in (verdict.update, verdict.norms, verdict.weights):
            if result is not None:
                result += 1
        assert all(torch.equal(a, b) for a, b in zip((matrix, sizes, previous), copies, strict=True))


def test_the_functions_themselves_do_not_change_their_input() -> None:
    matrix = rows(7, dtype=torch.float64)
    distances = (matrix.unsqueeze(1) - matrix).square().sum(dim=2)
    gram = torch.cat([matrix, matrix[:1]]) @ torch.cat([matrix, matrix[:1]]).T
    copies = [t.clone() for t in (matrix, distances, gram)]
    krum(distances, 1)
    multi_krum(distances, 1, torch.ones(7))
    trimmed_mean(matrix, 1)
    median(matrix)
    centered_clipping(gram, 7, print)
    assert all(torch.equal(a, b) for a, b in zip((matrix, distances, gram), copies, strict=True))


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_depends_on_no_global_generator_and_leaves_it_alone(rule: str) -> None:
    matrix = rows(9)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = aggregate(rule, matrix, f=2).update
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(one, aggregate(rule, matrix, f=2).update)


@seeds
@given(values=st.lists(st.integers(-1000, 1000), min_size=1, max_size=12), data=st.data())
def test_trimmed_mean_and_median_of_integers_are_exact(values: list[int], data: st.DataObject) -> None:
    n, matrix = len(values), line(*(float(v) for v in values)).double()
    f = data.draw(st.integers(0, (n - 1) // 2))
    ordered = sorted(values)
    kept = ordered[f : n - f]
    assert aggregate("trimmed_mean", matrix, f=f).update.item() == pytest.approx(sum(kept) / len(kept), rel=1e-15)
    assert aggregate("median", matrix).update.item() == (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
