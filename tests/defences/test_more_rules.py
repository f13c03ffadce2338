"""Bulyan, mean around median, CGE, and the rules on signs, each against its definition written out; and its limits."""

import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from making import draws, rows
from torch import Tensor

from fedpoison import aggregate, craft
from fedpoison.common.seeding import Stream

seeds = draws(8, 25)
SIZES = ((3, 0), (4, 1), (7, 1), (8, 3), (11, 2), (12, 5), (25, 5))


def around_the_median(column: list[float], keep: int) -> float:
    middle = statistics.median(column)
    return statistics.fmean(sorted(column, key=lambda value: (abs(value - middle), value))[:keep])


@pytest.mark.parametrize(("n", "f"), SIZES)
@given(seed=st.integers(0, 999))
@seeds
def test_meamed_equals_its_definition(n: int, f: int, seed: int) -> None:
    matrix = rows(n, seed=seed)
    expected = [around_the_median(column, n - f) for column in matrix.T.tolist()]
    assert aggregate("meamed", matrix, f=f).update.tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("large", [1e6, 1e30])
def test_meamed_is_exact_beside_huge_values(large: float) -> None:
    matrix = rows(9, seed=1, dtype=torch.float32)
    matrix[[2, 5]] *= large
    expected = [around_the_median(column, 7) for column in matrix.double().T.tolist()]
    assert aggregate("meamed", matrix, f=2).update.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_meamed_by_hand() -> None:
    matrix = torch.tensor([[0.0, 1.0], [1.0, 2.0], [2.0, 3.0], [3.0, 4.0], [90.0, -50.0]])
    assert aggregate("meamed", matrix, f=1).update.tolist() == [1.5, 2.5]
    assert aggregate("meamed", torch.tensor([[0.0], [1.0], [2.0]]), f=1).update.tolist() == [
        0.5
    ]  # of equals the smaller


def bulyan_by_definition(matrix: Tensor, f: int) -> list[float]:
    points = matrix.double()
    left, chosen = list(range(len(points))), []
    for _ in range(len(points) - 2 * f):
        scores = []
        for i in left:
            lengths = sorted(float((points[i] - points[j]).square().sum()) for j in left if j != i)
            scores.append((sum(lengths[: max(1, len(left) - f - 2)]), sum(lengths)))
        chosen.append(left.pop(min(range(len(left)), key=lambda k: scores[k])))
    keep = len(points) - 4 * f
    return [around_the_median(column, keep) for column in points[chosen].T.tolist()]


@pytest.mark.parametrize(("n", "f"), [(4, 0), (7, 1), (8, 1), (11, 2), (13, 2), (24, 5)])
@given(seed=st.integers(0, 999))
@seeds
def test_bulyan_equals_its_definition(n: int, f: int, seed: int) -> None:
    matrix = rows(n, seed=seed)
    assert aggregate("bulyan", matrix, f=f).update.tolist() == pytest.approx(bulyan_by_definition(matrix, f), abs=1e-10)


def test_bulyan_withstands_a_coordinate_that_krum_does_not_see() -> None:
    """The attack Bulyan was made against: honest but for one coordinate, moved by what the dimensions hide."""
    n, f, d = 23, 5, 2000
    honest = rows(n - f, d, seed=3)
    evil = honest.mean(dim=0).repeat(f, 1)
    evil[:, 0] += 0.5 * (2 * d) ** 0.5
    matrix = torch.cat([honest, evil])
    moved = {rule: float(aggregate(rule, matrix, f=f).update[0] - honest[:, 0].mean()) for rule in ("krum", "bulyan")}
    assert moved["krum"] > 15
    assert abs(moved["bulyan"]) < 1


def test_bulyan_needs_four_f_and_three() -> None:
    aggregate("bulyan", rows(11), f=2)
    with pytest.raises(ValueError, match=r"bulyan needs n > 4\*f \+ 2: n = 10, f = 2"):
        aggregate("bulyan", rows(10), f=2)


@pytest.mark.parametrize(("n", "f"), SIZES)
@given(seed=st.integers(0, 999))
@seeds
def test_cge_equals_its_definition(n: int, f: int, seed: int) -> None:
    matrix = rows(n, seed=seed)
    kept = sorted(range(n), key=lambda i: float(matrix[i].norm()))[: n - f]
    verdict = aggregate("cge", matrix, f=f)
    assert torch.allclose(verdict.update, matrix[kept].mean(dim=0))
    assert verdict.flagged is not None
    assert set(verdict.flagged.nonzero().flatten().tolist()) == set(range(n)) - set(kept)


def test_cge_takes_a_small_attacker_for_honest() -> None:
    honest = rows(8) + 3
    crafted = craft("ipm", benign=honest, n_malicious=2, epsilon=0.1)
    verdict = aggregate("cge", torch.cat([honest, crafted]), f=2)
    assert verdict.flagged is not None
    assert not verdict.flagged[-2:].any()


@given(seed=st.integers(0, 999), n=st.integers(1, 9))
@seeds
def test_sign_majority_equals_its_definition(seed: int, n: int) -> None:
    matrix = rows(n, seed=seed).round()  # zeros have no vote
    expected = []
    for column in matrix.T.tolist():
        vote = sum((value > 0) - (value < 0) for value in column)
        expected.append(0.25 * ((vote > 0) - (vote < 0)))
    assert aggregate("sign_majority", matrix, step=0.25).update.tolist() == expected


def test_a_vote_is_a_vote_however_large() -> None:
    matrix = torch.tensor([[1.0], [2.0], [-1e30]])
    assert aggregate("sign_majority", matrix, step=0.5).update.tolist() == [0.5]


@given(seed=st.integers(0, 999), n=st.integers(1, 9), threshold=st.integers(1, 9))
@seeds
def test_rlr_equals_its_definition(seed: int, n: int, threshold: int) -> None:
    matrix, threshold = rows(n, seed=seed), min(n, threshold)
    expected = []
    for column in matrix.T.tolist():
        agreement = abs(sum((value > 0) - (value < 0) for value in column))
        expected.append((1 if agreement >= threshold else -1) * statistics.fmean(column))
    assert aggregate("rlr", matrix, threshold=threshold).update.tolist() == pytest.approx(expected)


def test_rlr_turns_what_only_attackers_push() -> None:
    """Two of ten push a coordinate in which the others do nothing: with f = 2 the mean is turned against them."""
    matrix = torch.zeros(10, 2)
    matrix[:, 0] = 1.0
    matrix[:2, 1] = 5.0
    assert aggregate("rlr", matrix, f=2).update.tolist() == [1.0, -1.0]
    assert aggregate("rlr", matrix, f=1).update.tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="rlr needs threshold is None or threshold <= n"):
        aggregate("rlr", matrix, threshold=11)


def dnc_by_definition(matrix: Tensor, f: int, seed: int, iterations: int, dimensions: int, share: float) -> list[int]:
    rng = Stream(seed, "defence", 1).torch()
    good = set(range(len(matrix)))
    for _ in range(iterations):
        chosen = torch.randperm(matrix.shape[1], generator=rng)[:dimensions].sort().values
        part = matrix[:, chosen].double()
        centred = part - part.mean(dim=0)
        direction = torch.linalg.svd(centred, full_matrices=False).Vh[0]
        scores = ((centred @ direction) ** 2).tolist()
        good &= set(sorted(range(len(matrix)), key=lambda i: scores[i])[: len(matrix) - int(share * f + 0.5)])
    return sorted(good)


@pytest.mark.parametrize(("n", "f"), [(9, 1), (20, 3), (25, 2)])
@pytest.mark.parametrize(("iterations", "dimensions", "share"), [(1, 10_000, 1.0), (3, 12, 1.0), (2, 7, 1.5)])
@given(seed=st.integers(0, 99))
@seeds
def test_dnc_equals_its_definition(n: int, f: int, iterations: int, dimensions: int, share: float, seed: int) -> None:
    matrix = rows(n, seed=seed)
    expected = dnc_by_definition(matrix, f, seed, iterations, dimensions, share)
    options = {"iterations": iterations, "dimensions": dimensions, "share": share}
    verdict = aggregate("dnc", matrix, f=f, seed=seed, **options)
    assert verdict.flagged is not None
    assert (~verdict.flagged).nonzero().flatten().tolist() == expected
    assert torch.allclose(verdict.update, matrix[expected].mean(dim=0))


@pytest.mark.parametrize("attack", [("alie", {"z": 1.5}), ("ipm", {"epsilon": 1.0}), ("sign_flip", {})])
def test_dnc_finds_colluders_who_send_the_same(attack: tuple[str, dict[str, float]]) -> None:
    name, options = attack
    honest = rows(16, 400, seed=2) + 1
    known = {"benign": honest} if name != "sign_flip" else {"own": honest[:4]}
    crafted = craft(name, n_malicious=4, **known, **options)
    assert isinstance(crafted, Tensor)
    verdict = aggregate("dnc", torch.cat([honest, crafted]), f=4)
    assert verdict.flagged is not None
    assert verdict.flagged[-4:].all()


def test_dnc_keeps_those_who_stay_most_often_when_nobody_always_does() -> None:
    verdict = aggregate("dnc", rows(9, 50), f=4, iterations=40, dimensions=5)
    assert verdict.update.isfinite().all()
    assert verdict.weights is not None
    assert 0 < int((verdict.weights > 0).sum()) < 9
