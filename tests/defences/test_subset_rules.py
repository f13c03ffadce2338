"""MDA, SMEA and CAF against their definitions written out, and what they are made for and do not see."""

import itertools
import math

import making
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from making import draws
from torch import Tensor

from fedpoison import aggregate
from fedpoison.defences.aggregators.caf import caf
from fedpoison.defences.aggregators.mda import mda

seeds = draws(6, 20)
SIZES = ((1, 0), (3, 0), (3, 1), (4, 1), (7, 2), (8, 3), (11, 2), (11, 5), (12, 4))


def rows(n: int, d: int = 6, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return making.rows(n, d, seed, dtype)


def squared_distances(matrix: Tensor) -> Tensor:
    return torch.stack([((matrix - row) ** 2).sum(dim=1) for row in matrix.double()])


def kept(rule: str, matrix: Tensor, f: int) -> list[int]:
    """Who is not flagged; everybody who is kept must count the same."""
    verdict = aggregate(rule, matrix, f=f)
    assert verdict.flagged is not None
    chosen: list[int] = (~verdict.flagged).nonzero().flatten().tolist()
    torch.testing.assert_close(verdict.update, matrix[chosen].double().mean(dim=0).to(matrix.dtype))
    return chosen


def shifted(n: int, f: int, d: int, by: float, seed: int) -> tuple[Tensor, list[int]]:
    """Standard normal rows; f colluders at random places send the honest mean moved in one direction."""
    matrix = rows(n, d, seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    matrix[order[:f]] = matrix[order[f:]].mean(dim=0)
    matrix[order[:f], 0] += by
    return matrix, sorted(order[:f])


# ---- mda


def mda_by_definition(distances: Tensor, f: int) -> list[int]:
    lengths, n = distances.tolist(), len(distances)
    subsets = list(itertools.combinations(range(n), n - f))
    return list(min(subsets, key=lambda subset: max(lengths[i][j] for i in subset for j in subset)))


@pytest.mark.parametrize(("n", "f"), SIZES)
@given(seed=st.integers(0, 999))
@seeds
def test_mda_equals_its_definition(n: int, f: int, seed: int) -> None:
    matrix = rows(n, seed=seed)
    assert kept("mda", matrix, f) == mda_by_definition(squared_distances(matrix), f)


@pytest.mark.parametrize(("n", "f"), SIZES)
@given(seed=st.integers(0, 999), largest=st.integers(1, 9))
@seeds
def test_mda_takes_the_lowest_of_equals_whatever_the_distances(n: int, f: int, seed: int, largest: int) -> None:
    drawn = torch.randint(1, largest + 1, (n, n), generator=torch.Generator().manual_seed(seed))
    distances = torch.triu(drawn, 1).double()
    distances = distances + distances.T
    assert mda(distances, f).nonzero().flatten().tolist() == mda_by_definition(distances, f)


def test_mda_searches_where_every_pair_that_is_far_looks_alike() -> None:
    """The Petersen graph: ten rows, each far from three, of which four at most are pairwise near."""
    ring = range(5)
    pairs = [(i, (i + 1) % 5) for i in ring] + [(i, i + 5) for i in ring] + [(i + 5, (i + 2) % 5 + 5) for i in ring]
    distances = torch.ones(13, 13, dtype=torch.float64).fill_diagonal_(0)
    for i, j in pairs:
        distances[i + 2, j + 2] = distances[j + 2, i + 2] = 4.0
    for f, near in ((6, True), (5, False)):
        chosen = mda(distances, f).nonzero().flatten().tolist()
        assert chosen == mda_by_definition(distances, f)
        assert (distances[chosen][:, chosen].max() == 1) == near


def test_mda_keeps_the_row_that_is_far_from_most_where_that_is_right() -> None:
    # Row 0 is far from rows 1 to 4, each of rows 5 to 8 from three of those: these five are near, those four may go.
    distances = torch.ones(9, 9, dtype=torch.float64).fill_diagonal_(0)
    for row in (0, 5, 6, 7, 8):
        for other in range(1, 5):
            if other != row - 4:
                distances[row, other] = distances[other, row] = 4.0
    assert mda(distances, 4).nonzero().flatten().tolist() == [0, 5, 6, 7, 8] == mda_by_definition(distances, 4)


def test_mda_by_hand() -> None:
    line = torch.tensor([[10.0], [0.0], [2.0], [1.0]])
    assert aggregate("mda", line, f=1).update.tolist() == [1.0]
    assert kept("mda", torch.tensor([[0.0], [1.0], [2.0]]), 1) == [0, 1]  # {1, 2} is as close, {0, 1} comes first
    assert kept("mda", torch.tensor([[5.0], [1.0], [0.0], [4.0], [6.0]]), 2) == [0, 3, 4]
    assert kept("mda", torch.zeros(5, 2), 2) == [0, 1, 2]


def test_mda_depends_on_the_order_where_sets_share_a_diameter() -> None:
    # 0 and 4 are in, and either of two rows that are too far from each other, not from anybody else.
    matrix = torch.tensor([[0.0, 0.0], [4.0, 0.0], [2.0, 2.5], [2.0, -2.5]])
    assert kept("mda", matrix, 1) == [0, 1, 2]
    assert aggregate("mda", matrix, f=1).update[1] == -aggregate("mda", matrix[[0, 1, 3, 2]], f=1).update[1] > 0


def test_mda_finds_many_attackers_among_many_clients() -> None:
    for large in (30.0, 1e6, 1e30):  # 100 choose 40 is 1e28
        matrix = rows(100, 20, seed=3, dtype=torch.float32)
        attackers = list(range(5, 85, 2))
        matrix[attackers] += large * torch.sign(matrix[attackers])
        assert kept("mda", matrix, 40) == sorted(set(range(100)) - set(attackers))


def test_mda_keeps_who_is_no_farther_than_the_honest_are_apart() -> None:
    matrix, attackers = shifted(20, 4, 10, 5.0, seed=1)
    assert set(attackers) <= set(kept("mda", matrix, 4))


# ---- smea


def smea_by_definition(matrix: Tensor, f: int) -> list[int]:
    points, n = matrix.double().numpy(), len(matrix)
    best: tuple[float, list[int]] = (math.inf, [])
    for subset in itertools.combinations(range(n), n - f):
        middle = sum(points[i] for i in subset) / (n - f)
        covariance = sum(np.outer(points[i] - middle, points[i] - middle) for i in subset) / (n - f)
        largest = float(np.linalg.eigvalsh(covariance).max())
        if largest < best[0]:
            best = largest, list(subset)
    return best[1]


@pytest.mark.parametrize(("n", "f"), SIZES)
@given(seed=st.integers(0, 99))
@draws(3, 6)
def test_smea_equals_its_definition(n: int, f: int, seed: int) -> None:
    matrix = rows(n, seed=seed) * torch.tensor([3.0, 1, 1, 1, 0.5, 0]) + 7
    assert kept("smea", matrix, f) == (smea_by_definition(matrix, f) if n > 1 else [0])


def test_smea_by_hand() -> None:
    # A square of side 2 has variance 1 in every direction and diameter 2.83. A corner of it and three rows 2.7 away
    # have a smaller diameter and a larger variance: 2.7² · 3/16.
    matrix = torch.tensor([[4.7, 2.0], [4.7, 2.0], [4.7, 2.0], [0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
    assert kept("mda", matrix, 3) == [0, 1, 2, 6]
    assert kept("smea", matrix, 3) == [3, 4, 5, 6]
    assert kept("smea", torch.tensor([[3.0], [0.0], [0.0], [3.0]]), 1) == [0, 1, 2]  # of equals the first


def test_colluders_no_farther_than_the_honest_are_apart_are_found_by_the_direction_they_share() -> None:
    for seed in range(5):
        matrix, attackers = shifted(16, 4, 1000, 28.0, seed)
        honest = [i for i in range(16) if i not in attackers]
        assert (
            squared_distances(matrix)[attackers][:, honest].max() < squared_distances(matrix)[honest][:, honest].max()
        )
        middle = matrix[honest, 0].mean()
        moved = {
            rule: float(aggregate(rule, matrix, f=4).update[0] - middle) for rule in ("mean", "mda", "smea", "caf")
        }
        assert moved["mean"] == pytest.approx(7)
        assert moved["mda"] > 9  # it keeps all four
        assert len(set(kept("smea", matrix, 4)) & set(attackers)) == 1  # alone it spreads no more than the honest do
        assert moved["smea"] < 2.5
        assert abs(moved["caf"]) < 0.2


@pytest.mark.parametrize("rule", ["smea", "caf"])
def test_colluders_within_the_honest_spread_are_not_found(rule: str) -> None:
    matrix, attackers = shifted(20, 4, 10, 1.0, seed=0)
    weights = aggregate(rule, matrix, f=4).weights
    assert weights is not None
    assert weights[attackers].sum() >= 4 / 20


@pytest.mark.parametrize(
    ("rule", "n", "f", "sentence"),
    [
        ("mda", 6, 3, r"mda needs n > 2\*f: n = 6, f = 3"),
        ("mda", 90, 41, "mda needs f <= 40: n = 90, f = 41"),
        ("smea", 6, 3, r"smea needs n > 2\*f: n = 6, f = 3"),
        ("smea", 30, 5, r"smea needs comb\(n, f\) \* \(n - f\)\*\*2 <= 60_000_000: n = 30, f = 5"),
        ("caf", 6, 3, r"caf needs n > 2\*f: n = 6, f = 3"),
        ("smea", 5, -1, "f must be at least 0, it is -1"),
    ],
)
def test_what_cannot_be_taken_is_refused_with_the_bound(rule: str, n: int, f: int, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}"):
        aggregate(rule, rows(n), f=f)


# ---- caf


def caf_by_definition(matrix: Tensor, f: int) -> list[float]:
    points, n = matrix.double().numpy(), len(matrix)
    c = [1.0] * n
    best, smallest = [1 / n] * n, math.inf
    turns = 0
    while sum(c) > n - 2 * f:
        turns += 1
        total = sum(c)
        middle = sum(c[i] * points[i] for i in range(n)) / total
        covariance = sum(c[i] * np.outer(points[i] - middle, points[i] - middle) for i in range(n)) / total
        values, vectors = np.linalg.eigh(covariance)
        if values[-1] < smallest:
            best, smallest = [weight / total for weight in c], values[-1]
        tau = [float((points[i] - middle) @ vectors[:, -1]) ** 2 for i in range(n)]
        most = max(tau[i] for i in range(n) if c[i] > 0)
        c = [c[i] * (1 - tau[i] / most) if c[i] > 0 else 0.0 for i in range(n)]
    assert turns <= 2 * f
    return best


@pytest.mark.parametrize(("n", "f"), SIZES)
@given(seed=st.integers(0, 999))
@seeds
def test_caf_equals_its_definition(n: int, f: int, seed: int) -> None:
    matrix = rows(n, seed=seed) * torch.tensor([3.0, 1, 1, 1, 0.5, 0]) + 7
    matrix[: f // 2] += 4.0
    verdict = aggregate("caf", matrix, f=f)
    assert verdict.weights is not None
    assert verdict.flagged is None
    assert verdict.weights.tolist() == pytest.approx(caf_by_definition(matrix, f), abs=1e-9)


def test_caf_by_hand() -> None:
    # About the mean, 2, τ = 4, 1, 1, 1, 25: the last row is out, the others keep 21/25 and 24/25. Of these 3.72 more
    # than 3 is left, so their mean counts, and its variance is smaller; after that turn less than 3 is left.
    line = torch.tensor([[0.0], [1.0], [1.0], [1.0], [7.0]])
    weights = aggregate("caf", line, f=1).weights
    assert weights is not None
    assert weights.tolist() == pytest.approx([21 / 93, 24 / 93, 24 / 93, 24 / 93, 0])


def test_caf_keeps_the_tightest_mean_not_the_last() -> None:
    # Variances 18/7 and 16/7; without the first two rows 16/5, so that the second turn's mean is not better.
    cross = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 2.0], [0.0, -2.0], [0.0, 2.0], [0.0, -2.0], [0.0, 0.0]])
    weights = aggregate("caf", cross, f=2).weights
    assert weights is not None
    assert weights.tolist() == pytest.approx([1 / 7] * 7)


@pytest.mark.parametrize("large", [10.0, 1e6, 1e30])
def test_caf_is_not_held_up_by_rows_that_are_out(large: float) -> None:
    for seed in range(5):
        matrix = rows(12, 40, seed, torch.float32)
        matrix[:2] = large * rows(2, 40, seed + 50)
        verdict = aggregate("caf", matrix, f=2)
        assert verdict.weights is not None
        assert verdict.weights[:2].sum() < 1e-6
        assert verdict.weights[2:].min() > 0.03


def test_caf_of_equal_rows_is_their_mean() -> None:
    assert caf(torch.zeros(5, 5, dtype=torch.float64), 2).tolist() == [0.2] * 5
    matrix = torch.zeros(5, 3, dtype=torch.float64)
    matrix[4] = 1e30
    assert aggregate("caf", matrix, f=1).update.tolist() == [0, 0, 0]
    assert aggregate("caf", matrix, f=0).weights.tolist() == [0.2] * 5  # type: ignore[union-attr]
