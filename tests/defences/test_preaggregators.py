"""Every pre-aggregator against its definition, and every chain against its steps taken one by one in float64."""

import itertools
import math
import re
import statistics
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import making
import numpy as np
import pytest
import torch
from torch import Tensor

from fedpoison import aggregate, aggregator
from fedpoison.common.seeding import Stream
from fedpoison.defences.preaggregators.arc import arc
from fedpoison.defences.preaggregators.bucketing import bucketing
from fedpoison.defences.preaggregators.clipping import clipping
from fedpoison.defences.preaggregators.nnm import nnm
from fedpoison.types import Update, Updates

LARGE = (1e3, 1e6, 1e12, 1e30)
SEED, ROUND = 5, 3


def rows(n: int, d: int = 30, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return making.rows(n, d, seed, dtype)


def stream() -> torch.Generator:
    return Stream(SEED, "defence", ROUND).torch()


def squared_distances(matrix: Tensor) -> Tensor:
    exact = matrix.double()
    return torch.stack([((exact - row) ** 2).sum(dim=1) for row in exact])


_seen: list[Tensor] = []


@aggregator()
def onlooker(updates: Updates) -> Update:
    """Remember the rows that arrive, pass the first on."""
    _seen.append(updates.clone())
    return updates[0]


def mixed(updates: Tensor, *pre: str | dict[str, Any], f: int = 0, **options: Any) -> Tensor:
    """What the rule after these pre-aggregators is shown."""
    _seen.clear()
    verdict = aggregate(onlooker, updates, f=f, pre=pre, seed=SEED, round=ROUND, **options)
    assert not verdict.skipped
    return _seen[0]


# ---- one by one, by definition


def nnm_by_definition(matrix: Tensor, f: int) -> Tensor:
    exact, n, result = matrix.double(), len(matrix), []
    for i, row in enumerate(squared_distances(matrix).tolist()):
        row[i] = -1.0  # itself first, then the nearest, the lower index first
        order = sorted(zip(row, range(n), strict=True))
        result.append(exact[[j for _, j in order[: n - f]]].mean(dim=0))
    return torch.stack(result)


def clipping_by_definition(matrix: Tensor, threshold: float) -> Tensor:
    exact = matrix.double()
    return torch.stack([row * min(1.0, threshold / max(row.norm().item(), 1e-300)) for row in exact])


def bucketing_by_definition(matrix: Tensor, s: int, rng: torch.Generator) -> Tensor:
    exact, order = matrix.double(), torch.randperm(len(matrix), generator=rng).tolist()
    return torch.stack([exact[order[k : k + s]].mean(dim=0) for k in range(0, len(order), s)])


@pytest.mark.parametrize(("n", "f"), [(1, 0), (3, 1), (4, 1), (7, 0), (7, 3), (11, 2), (24, 5)])
def test_nnm_equals_its_definition(n: int, f: int) -> None:
    for seed, large in enumerate(LARGE):
        matrix = rows(n, seed=seed)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        for hard in (matrix, matrix + 100, matrix.index_copy(0, order[:f], large * matrix[order[:f]])):
            expected = nnm_by_definition(hard, f)
            size = expected.abs().amax(dim=1, keepdim=True)
            assert ((mixed(hard, "nnm", f=f) - expected).abs() <= 1e-5 * size).all()
            matrix_of_shares = nnm(squared_distances(hard), f)
            torch.testing.assert_close(matrix_of_shares @ hard.double(), expected, rtol=1e-12, atol=1e-12)


def test_nnm_counts_the_row_itself_and_breaks_ties_by_the_lower_index() -> None:
    line = torch.tensor([[0.0], [1], [2], [3], [4]])
    shares = nnm(squared_distances(line), 2)  # three rows each; 0 and 4 have their two nearest on one side
    assert [row.nonzero().flatten().tolist() for row in shares] == [
        [0, 1, 2],
        [0, 1, 2],
        [1, 2, 3],
        [2, 3, 4],
        [2, 3, 4],
    ]
    shares = nnm(squared_distances(line), 1)  # the fourth nearest of row 2 is row 0 or row 4
    assert shares[2].nonzero().flatten().tolist() == [0, 1, 2, 3]
    identical = nnm(torch.zeros(5, 5, dtype=torch.float64), 2)
    assert [row.nonzero().flatten().tolist() for row in identical] == [
        [0, 1, 2],
        [0, 1, 2],
        [0, 1, 2],
        [0, 1, 3],
        [0, 1, 4],
    ]


def test_nnm_without_attackers_gives_copies_of_the_mean() -> None:
    matrix = rows(7)
    expected = matrix.double().mean(dim=0).float().expand(7, 30)
    torch.testing.assert_close(mixed(matrix, "nnm", f=0), expected, rtol=1e-5, atol=1e-6)


def test_nnm_keeps_huge_rows_out_of_the_honest_mixtures() -> None:
    for large in LARGE:
        matrix = rows(9)
        matrix[[1, 4, 6]] *= large
        result = mixed(matrix, "nnm", f=3)
        honest = [0, 2, 3, 5, 7, 8]
        torch.testing.assert_close(result[honest], matrix[honest].mean(dim=0).expand(6, 30), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("n", "s"), [(1, 1), (1, 3), (5, 1), (6, 2), (7, 2), (7, 3), (12, 4), (5, 9)])
def test_bucketing_averages_disjoint_groups(n: int, s: int) -> None:
    buckets = math.ceil(n / s)
    for seed in range(5):
        shares = bucketing(n, torch.Generator().manual_seed(seed), s=s)
        assert shares.shape == (buckets, n)
        assert (shares != 0).sum(dim=0).tolist() == [1] * n  # each client in one bucket
        sizes = (shares != 0).sum(dim=1).tolist()
        assert sizes == [s] * (n // s) + ([n % s] if n % s else [])
        for row, size in zip(shares, sizes, strict=True):
            assert row[row != 0].tolist() == [1 / size] * size  # and the bucket is its plain average
    matrix = rows(n)
    expected = bucketing_by_definition(matrix, s, stream())
    result = mixed(matrix, {"name": "bucketing", "s": s})
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("n", "s"), [(6, 2), (12, 3), (12, 4), (7, 1), (5, 5)])
def test_bucketing_keeps_the_mean_when_s_divides_n(n: int, s: int) -> None:
    matrix = rows(n)
    result = aggregate("mean", matrix, pre=[{"name": "bucketing", "s": s}])
    torch.testing.assert_close(result.update, matrix.mean(dim=0), rtol=1e-5, atol=1e-6)
    assert result.weights is not None
    torch.testing.assert_close(result.weights, torch.full((n,), 1 / n, dtype=torch.float64))


def test_bucketing_shuffles_anew_each_round_and_for_each_seed_and_is_the_same_for_one() -> None:
    matrix = rows(12, 3)

    def first_bucket(seed: int, round: int) -> list[float]:
        verdict = aggregate(onlooker, matrix, pre=["bucketing"], seed=seed, round=round)
        assert verdict.update.shape == (3,)
        return verdict.update.tolist()

    drawn = [first_bucket(seed, round) for seed in range(3) for round in range(1, 4)]
    assert drawn == [first_bucket(seed, round) for seed in range(3) for round in range(1, 4)]
    assert len({tuple(update) for update in drawn}) >= 7


def test_every_client_is_in_the_first_bucket_about_equally_often() -> None:
    counts = torch.zeros(5)
    for seed in range(400):
        counts += bucketing(5, torch.Generator().manual_seed(seed))[0] > 0
    assert (counts > 120).all()  # 160 expected; 120 is four standard deviations away
    assert (counts < 200).all()


@pytest.mark.parametrize("threshold", [1e-3, 1.0, 5.5, 1e6])
def test_clipping_equals_its_definition(threshold: float) -> None:
    step = {"name": "clipping", "threshold": threshold}
    for seed, large in enumerate((1.0, *LARGE)):
        matrix = rows(7, seed=seed)
        matrix[seed] *= large
        matrix[6] = 0
        expected = clipping_by_definition(matrix, threshold)
        result = mixed(matrix, step)
        torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-30)
        assert (result.norm(dim=1) <= threshold * (1 + 1e-5)).all()
        unclipped = matrix.norm(dim=1) < threshold
        assert torch.equal(result[unclipped], matrix[unclipped])
        torch.testing.assert_close(
            clipping(matrix.double().norm(dim=1), print, threshold=threshold).diagonal(),
            (threshold / matrix.double().norm(dim=1)).clamp(max=1),
        )


def arc_by_definition(matrix: Tensor, f: int) -> Tensor:
    exact, n = matrix.double(), len(matrix)
    lengths = sorted((row.norm().item() for row in exact), reverse=True)
    limit = lengths[math.floor(Fraction(2 * f, n) * (n - f))]  # of the (k + 1)-th longest
    return torch.stack([row * min(1.0, limit / row.norm().item()) if row.norm() > 0 else row for row in exact])


@pytest.mark.parametrize(("n", "f"), [(1, 0), (3, 1), (5, 0), (5, 1), (5, 2), (11, 2), (20, 4), (33, 16)])
def test_arc_equals_its_definition(n: int, f: int) -> None:
    for seed, large in enumerate((1.0, *LARGE)):
        matrix = rows(n, seed=seed)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        matrix[order[:f]] *= large
        matrix[order[-1]] *= 1e-3
        expected = arc_by_definition(matrix, f)
        result = mixed(matrix, "arc", f=f)
        torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-30)
        longest = matrix[order[f:]].norm(dim=1).max()  # of those who are honest
        assert (result.norm(dim=1) <= longest * (1 + 1e-5)).all()
        kept = torch.isclose(expected, matrix.double(), rtol=1e-12, atol=0).all(dim=1)
        assert torch.equal(result[kept], matrix[kept])
        assert int((~kept).sum()) == math.floor(Fraction(2 * f, n) * (n - f))


def test_arc_by_hand() -> None:
    norms = torch.tensor([4.0, 1.0, 0.0, 8.0, 2.0], dtype=torch.float64)
    assert arc(norms, 0).diagonal().tolist() == [1, 1, 1, 1, 1]
    assert arc(norms, 1).diagonal().tolist() == [1, 1, 1, 0.5, 1]  # k = ⌊8/5⌋ = 1
    assert arc(norms, 2).diagonal().tolist() == [0.5, 1, 1, 0.25, 1]  # k = ⌊12/5⌋ = 2
    assert arc(torch.tensor([0.0, 0.0, 5.0]).double(), 1).diagonal().tolist() == [1, 1, 0]  # clipped to length 0
    assert arc(torch.tensor([3.0, 3.0, 3.0]).double(), 1).diagonal().tolist() == [1, 1, 1]


def test_arc_counts_in_integers() -> None:
    norms = torch.arange(242.0).double()  # 2 · 33 · 209 / 242 is 57, and (2 · 33 / 242) · 209 is not
    assert int(2 * 33 / 242 * 209) == 56
    assert int((arc(norms, 33).diagonal() < 1).sum()) == 57


def test_a_huge_row_moves_the_mean_by_no_more_than_an_honest_one_after_arc() -> None:
    honest = rows(8)
    longest = honest.norm(dim=1).max()
    for large in LARGE:
        matrix = torch.cat([honest, large * rows(2, seed=1)])
        moved = aggregate("mean", matrix, f=2, pre=["arc"]).update - honest.mean(dim=0)
        assert moved.norm() <= 2 * longest
        assert (aggregate("mean", matrix, f=2).update - honest.mean(dim=0)).norm() > large / 2
    small = torch.cat([honest, -0.5 * honest[:2]])  # an attacker of no more than honest length is not touched
    assert torch.equal(mixed(small, "arc", f=2)[8:], small[8:])


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        ("arc", "arc needs n > 2*f: n = 6, f = 3"),
        ("nnm", "nnm needs n > 2*f: n = 6, f = 3"),
        ({"name": "bucketing", "s": 0}, "bucketing.s = 0: "),
        ({"name": "bucketing", "s": -2}, "bucketing.s = -2: "),
        ({"name": "clipping", "threshold": 0.0}, "clipping.threshold = 0.0: "),
        ({"name": "clipping", "threshold": -1.0}, "clipping.threshold = -1.0: "),
    ],
    ids=str,
)
def test_what_a_step_cannot_take_is_refused_and_quoted(step: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        aggregate("median", rows(6), f=3, pre=[step])


# ---- chains: the compiled matrix product against the steps one after another

THRESHOLD, S, TAU, PREVIOUS_SEED = 5.0, 2, 2.0, 77
STEPS: dict[str, tuple[str | dict[str, Any], Callable[[Tensor, int, torch.Generator], Tensor]]] = {
    "nnm": ("nnm", lambda matrix, f, rng: nnm_by_definition(matrix, f)),
    "clipping": (
        {"name": "clipping", "threshold": THRESHOLD},
        lambda matrix, f, rng: clipping_by_definition(matrix, THRESHOLD),
    ),
    "bucketing": (
        {"name": "bucketing", "s": S},
        lambda matrix, f, rng: bucketing_by_definition(matrix, S, rng),
    ),
    "arc": ("arc", lambda matrix, f, rng: arc_by_definition(matrix, f)),
}
CHAINS = [
    *(chain for length in range(4) for chain in itertools.product(("nnm", "clipping", "bucketing"), repeat=length)),
    *(("arc",), ("arc", "nnm"), ("nnm", "arc"), ("bucketing", "arc"), ("arc", "bucketing", "clipping")),
]


def krum_by_definition(matrix: Tensor, f: int, keep: int) -> Tensor:
    distances, k = squared_distances(matrix), len(matrix) - f - 2
    scores = [sum(sorted(row[:i] + row[i + 1 :])[:k]) for i, row in enumerate(distances.tolist())]
    return matrix[sorted(range(len(scores)), key=lambda i: (scores[i], i))[:keep]].mean(dim=0)


def trimmed_mean_by_definition(matrix: Tensor, f: int) -> Tensor:
    return matrix.sort(dim=0).values[f : len(matrix) - f].mean(dim=0)


def geometric_median_by_definition(matrix: Tensor) -> Tensor:
    # Chains make rows that are equal but for rounding: start at the best row, which may be the minimum itself.
    lengths = [(matrix - row).norm(dim=1).sum().item() for row in matrix]
    best, points = matrix[lengths.index(min(lengths))], matrix.numpy()
    here = points.mean(axis=0)
    for _ in range(1000):
        pull = 1 / np.linalg.norm(points - here, axis=1).clip(min=1e-12)
        there = (pull / pull.sum()) @ points
        if np.abs(there - here).max() < 1e-10:
            break
        here = there
    found = torch.from_numpy(here)
    return found if (matrix - found).norm(dim=1).sum() < min(lengths) else best


def centered_clipping_by_definition(matrix: Tensor, previous: Tensor) -> Tensor:
    here = previous.double()
    for _ in range(3):
        steps = matrix - here
        here = here + (steps * (TAU / steps.norm(dim=1, keepdim=True)).clamp(max=1)).mean(dim=0)
    return here


RULES: dict[str, tuple[dict[str, Any], Callable[[Tensor, int, Tensor], Tensor]]] = {
    "mean": ({}, lambda matrix, f, previous: matrix.mean(dim=0)),
    "median": ({}, lambda matrix, f, previous: matrix.quantile(0.5, dim=0)),
    "trimmed_mean": ({}, lambda matrix, f, previous: trimmed_mean_by_definition(matrix, f)),
    "krum": ({}, lambda matrix, f, previous: krum_by_definition(matrix, f, 1)),
    "multi_krum": ({}, lambda matrix, f, previous: krum_by_definition(matrix, f, len(matrix) - f)),
    "geometric_median": ({}, lambda matrix, f, previous: geometric_median_by_definition(matrix)),
    "centered_clipping": (
        {"tau": TAU, "iterations": 3},
        lambda matrix, f, previous: centered_clipping_by_definition(matrix, previous),
    ),
}


def one_by_one(updates: Tensor, chain: tuple[str, ...], f: int) -> Tensor:
    matrix, rng = updates.double(), stream()
    for name in chain:
        matrix = STEPS[name][1](matrix, f, rng)
    return matrix


def compiled(
    rule: str, updates: Tensor, chain: tuple[str, ...], f: int, previous: Tensor
) -> tuple[Tensor, Tensor | None]:
    pre = [STEPS[name][0] for name in chain]
    verdict = aggregate(rule, updates, f=f, pre=pre, previous=previous, seed=SEED, round=ROUND, **RULES[rule][0])
    assert not verdict.skipped
    return verdict.update, verdict.weights


def assert_compiles_right(updates: Tensor, chain: tuple[str, ...], f: int, within: float, *rules: str) -> None:
    previous = rows(1, updates.shape[1], PREVIOUS_SEED, updates.dtype)[0]
    matrix = one_by_one(updates, chain, f)
    for rule in rules:
        expected = RULES[rule][1](matrix, f, previous)
        result, weights = compiled(rule, updates, chain, f, previous)
        torch.testing.assert_close(result.double(), expected, rtol=within, atol=within, msg=lambda m: f"{rule}: {m}")  # noqa: B023
        if weights is not None and rule != "centered_clipping":  # what clients are credited with makes up the result
            torch.testing.assert_close(weights @ updates.double(), expected, rtol=within, atol=within)


@pytest.mark.parametrize("chain", CHAINS, ids="+".join)
def test_a_chain_equals_its_steps_one_after_another(chain: tuple[str, ...]) -> None:
    # Norms lie on both sides of the threshold; float64, so that no choice between close rows is rounding's.
    updates = rows(33, dtype=torch.float64) * torch.linspace(0.5, 1.5, 33, dtype=torch.float64).unsqueeze(1)
    assert_compiles_right(updates, chain, 1, 1e-6, *RULES)


@pytest.mark.parametrize("chain", [c for c in CHAINS if len(c) < 3], ids="+".join)
def test_a_chain_in_float32_equals_its_steps_one_after_another(chain: tuple[str, ...]) -> None:
    updates = rows(33, 70, seed=1) * torch.linspace(0.5, 1.5, 33).unsqueeze(1)
    assert_compiles_right(updates, chain, 1, 1e-4, "mean", "trimmed_mean", "centered_clipping")


@pytest.mark.parametrize("large", [1e3, 1e30])
@pytest.mark.parametrize("chain", [c for c in CHAINS if {"clipping", "arc"} & {*c} and len(c) < 3], ids="+".join)
def test_a_chain_with_huge_rows_that_are_clipped(chain: tuple[str, ...], large: float) -> None:
    updates = rows(19, seed=2)
    updates[[0, 7, 11]] *= large
    rules = ("mean", "trimmed_mean") if chain[0] in ("clipping", "arc") else ("trimmed_mean",)
    assert_compiles_right(updates, chain, 3, 1e-4, *rules)


@pytest.mark.parametrize("shift", [1.0, 1e3, 1e4])
@pytest.mark.parametrize(
    "chain", [("nnm",), ("bucketing",), ("clipping",), ("bucketing", "nnm"), ("clipping", "nnm")], ids="+".join
)
def test_chains_on_rows_far_from_the_origin(chain: tuple[str, ...], shift: float) -> None:
    # Clipping brings far rows close to the origin: their distances must not be differences of huge numbers.
    for seed in range(2):
        for dtype in (torch.float32, torch.float64):
            updates = rows(11, 100, seed, dtype) + shift
            matrix = one_by_one(updates, chain, 1)
            spread = (matrix - matrix.mean(dim=0)).norm(dim=1).max()
            for rule in ("krum", "geometric_median"):
                expected = RULES[rule][1](matrix, 1, updates[0])
                result, _ = compiled(rule, updates, chain, 1, updates[0])
                assert (result - expected).norm() <= 5e-3 * spread, rule


def test_the_closest_two_of_three_rows_tie_after_a_step_as_well_and_the_first_wins() -> None:
    step = {"name": "clipping", "threshold": 3.5}
    for seed in range(40):
        updates = rows(3, 20, seed, torch.float64)
        expected = krum_by_definition(clipping_by_definition(updates, 3.5), 0, 1)
        torch.testing.assert_close(aggregate("krum", updates, pre=[step]).update, expected)


def test_clipping_before_nnm_and_after_it_are_different_chains() -> None:
    updates = rows(9, seed=3)
    updates[[2, 5]] *= 20
    first, after = ("clipping", "nnm"), ("nnm", "clipping")
    for chain in (first, after):
        assert_compiles_right(updates, chain, 2, 1e-4, "mean", "median")
    assert (one_by_one(updates, first, 2) - one_by_one(updates, after, 2)).norm() > 0.1


def test_two_bucketings_draw_from_one_stream() -> None:
    updates = rows(16, 3, dtype=torch.float64)
    pre = [{"name": "bucketing", "s": 2}] * 2
    rng = stream()
    expected = bucketing_by_definition(bucketing_by_definition(updates, 2, rng), 2, rng)
    torch.testing.assert_close(mixed(updates, *pre), expected)


def test_sizes_of_mixed_rows_are_those_of_the_clients_in_them() -> None:
    updates, sizes = rows(6, dtype=torch.float64), torch.tensor([1.0, 2, 3, 4, 5, 6], dtype=torch.float64)
    order = torch.randperm(6, generator=stream()).tolist()
    pairs = [order[:2], order[2:4], order[4:]]
    verdict = aggregate("mean", updates, pre=["bucketing"], sizes=sizes, weighting="sizes", seed=SEED, round=ROUND)
    expected = sum(sizes[pair].sum() / 21 * updates[pair].mean(dim=0) for pair in pairs)
    torch.testing.assert_close(verdict.update, expected)
    clipped = aggregate("mean", updates, pre=[{"name": "clipping", "threshold": 1.0}], sizes=sizes, weighting="sizes")
    torch.testing.assert_close(clipped.update, sizes / 21 @ clipping_by_definition(updates, 1.0))


@pytest.mark.parametrize("step", ["nnm", "bucketing", "clipping", "arc"])
def test_a_step_does_not_change_its_input(step: str) -> None:
    updates = rows(12) * 3
    for rule in ("mean", "median", "krum"):
        aggregate(rule, updates, f=1, pre=[step]).update.add_(1)
        assert torch.equal(updates, rows(12) * 3)


@pytest.mark.parametrize("n", [4, 7])
def test_clipping_takes_the_median_of_the_lengths_for_its_limit_unless_told(n: int) -> None:
    matrix = rows(n, seed=3)
    matrix[-1] *= 1e20
    expected = clipping_by_definition(matrix, statistics.median(matrix.double().norm(dim=1).tolist()))
    torch.testing.assert_close(mixed(matrix, {"name": "clipping"}).double(), expected, rtol=1e-5, atol=1e-30)
    verdict = aggregate("norm_clipping", matrix)
    torch.testing.assert_close(verdict.update.double(), expected.mean(dim=0), rtol=1e-5, atol=1e-6)
    start = rows(1, seed=9)[0]
    moved = aggregate("centered_clipping", matrix, previous=start).update.double()
    steps = matrix.double() - start.double()
    limit = statistics.median(steps.norm(dim=1).tolist())
    expected = start.double() + clipping_by_definition(steps, limit).mean(dim=0)
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-4)
