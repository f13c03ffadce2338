"""Norm clipping, FLAME, GAS, FoundationFL and rejection by error and loss: each against its definition written out, in
the setting it is made for, and with what gets past it."""

import math
import statistics
from collections.abc import Callable
from typing import Any

import making
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from making import draws
from sklearn.cluster import HDBSCAN
from torch import Tensor

from fedpoison import Verdict, aggregate, craft
from fedpoison.common.seeding import Stream
from fedpoison.config.config import parse
from fedpoison.defences.aggregators.flame import cosine_distances, linked_majority
from fedpoison.round import play
from fedpoison.runs.world import build
from fedpoison.types import Probe

seeds = draws(6, 20)
SIZES = ((1, 0), (2, 0), (3, 1), (4, 1), (8, 3), (11, 2), (25, 5))


def rows(n: int, d: int = 20, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return making.rows(n, d, seed, dtype)


def flagged(verdict: Verdict) -> list[int]:
    assert verdict.flagged is not None
    return verdict.flagged.nonzero().flatten().tolist()


def noise(seed: int, d: int) -> Tensor:
    return torch.randn(d, generator=Stream(seed, "defence", 1).torch(), dtype=torch.float64)


def shortened(row: Tensor, threshold: float) -> Tensor:
    return row if row.norm() <= threshold else row * (threshold / row.norm())


def mean_of(matrix: Tensor) -> Tensor:
    return sum(matrix.unbind(), torch.zeros_like(matrix[0])) / len(matrix)


def median_of(matrix: Tensor) -> Tensor:
    return torch.tensor([statistics.median(column) for column in matrix.T.tolist()], dtype=matrix.dtype)


def trimmed_mean_of(matrix: Tensor, f: int) -> Tensor:
    kept = [sorted(column)[f : len(matrix) - f] for column in matrix.T.tolist()]
    return torch.tensor([statistics.fmean(column) for column in kept], dtype=matrix.dtype)


# ---- norm clipping


@pytest.mark.parametrize(("n", "f"), SIZES)
@given(seed=st.integers(0, 999), threshold=st.sampled_from([0.1, 4.5, 100.0]), deviation=st.sampled_from([0.0, 0.2]))
@seeds
def test_norm_clipping_equals_its_definition(n: int, f: int, seed: int, threshold: float, deviation: float) -> None:
    matrix = rows(n, seed=seed)
    expected = mean_of(torch.stack([shortened(row, threshold) for row in matrix])) + deviation * noise(seed, 20)
    verdict = aggregate("norm_clipping", matrix, f=f, seed=seed, threshold=threshold, noise=deviation)
    torch.testing.assert_close(verdict.update, expected)
    assert verdict.weights is not None
    shares = [min(1.0, threshold / float(row.norm())) / n for row in matrix]
    assert verdict.weights.tolist() == pytest.approx(shares)


def test_norm_clipping_by_hand() -> None:
    matrix = torch.tensor([[3.0, 4.0], [0.0, 1.0], [0.0, 0.0]])
    assert aggregate("norm_clipping", matrix, threshold=2.5).update.tolist() == pytest.approx([1.5 / 3, 3 / 3])


def test_norm_clipping_is_clipping_and_then_the_mean() -> None:
    matrix = rows(9, dtype=torch.float32)
    matrix[4] *= 1e30
    step = {"name": "clipping", "threshold": 2.0}
    for pre in ([], ["bucketing"], ["nnm"]):
        own, apart = aggregate("norm_clipping", matrix, threshold=2.0, pre=pre, f=2), [*pre, step]
        torch.testing.assert_close(own.update, aggregate("mean", matrix, pre=apart, f=2).update)


def test_norm_clipping_holds_a_boosted_update_to_its_share_and_lets_a_small_one_pass() -> None:
    """Model replacement with γ = n moves the mean as far as it wants; clipped, by threshold/n. A short one counts."""
    honest, wanted = 0.1 * rows(9), rows(1, seed=7)[0]
    matrix = torch.cat([honest, (10 * wanted - honest.sum(dim=0)).unsqueeze(0)])
    assert torch.allclose(aggregate("mean", matrix).update, wanted)
    moved = aggregate("norm_clipping", matrix, threshold=1.0).update - honest.sum(dim=0) / 10
    assert moved.norm().item() == pytest.approx(0.1)
    short = torch.cat([honest, 0.9 * wanted.unsqueeze(0) / wanted.norm()])
    torch.testing.assert_close(aggregate("norm_clipping", short, threshold=1.0).update, aggregate("mean", short).update)


# ---- FLAME


def hdbscan(distances: np.ndarray) -> list[int]:
    size = len(distances) // 2 + 1
    clusterer = HDBSCAN(
        min_cluster_size=size, min_samples=1, allow_single_cluster=True, metric="precomputed", copy=True
    )
    return clusterer.fit(distances).labels_.tolist()


def flame_by_definition(
    matrix: Tensor, params: Tensor, seed: int, factor: float, variant: str
) -> tuple[Tensor, list[int]]:
    looked_at = matrix + params if variant == "models" else matrix
    units = np.stack([row / np.linalg.norm(row) for row in looked_at.numpy()])
    distances = np.array([[max(0.0, 1 - float(a @ b)) for b in units] for a in units])
    np.fill_diagonal(distances, 0)
    admitted = [i for i, label in enumerate(hdbscan(distances)) if label == 0]
    median = statistics.median(float(row.norm()) for row in matrix)
    expected = mean_of(torch.stack([shortened(matrix[i], median) for i in admitted]))
    return expected + factor * median * noise(seed, matrix.shape[1]), admitted


@pytest.mark.parametrize("n", [3, 4, 5, 10, 11, 24])
@pytest.mark.parametrize("variant", ["models", "updates"])
@given(seed=st.integers(0, 9999), factor=st.sampled_from([0.0, 0.05]), bad=st.integers(0, 5))
@seeds
def test_flame_equals_its_definition(n: int, variant: str, seed: int, factor: float, bad: int) -> None:
    """Independent of it in the clustering: scikit-learn's HDBSCAN on the angles of models made one by one."""
    matrix, params = rows(n, 6, seed), 0.5 * rows(1, 6, seed + 1)[0]
    matrix[: min(bad, (n - 1) // 2)] = 3 * rows(1, 6, seed + 2)[0] + 0.1 * rows(min(bad, (n - 1) // 2), 6, seed + 3)
    expected, admitted = flame_by_definition(matrix, params, seed, factor, variant)
    options = {"variant": variant, "noise_factor": factor}
    verdict = aggregate("flame", matrix, params=params, seed=seed, **options)
    assert flagged(verdict) == [i for i in range(n) if i not in admitted]
    assert len(admitted) > n // 2
    torch.testing.assert_close(verdict.update, expected)


@pytest.mark.parametrize("n", [2, 3, 6, 9, 16])
@given(seed=st.integers(0, 9999))
@seeds
def test_the_linked_majority_is_hdbscan_s_single_cluster_with_ties_and_twins_too(n: int, seed: int) -> None:
    points = rows(n, 1, seed).mul(2).round().flatten().tolist()
    distances = torch.tensor([[abs(a - b) for b in points] for a in points], dtype=torch.float64)
    assert linked_majority(distances).tolist() == [label == 0 for label in hdbscan(distances.numpy())]


def test_the_linked_majority_by_hand() -> None:
    points = torch.tensor([[0.0], [1.0], [2.1], [9.0], [9.5], [30.0]])
    assert linked_majority(torch.cdist(points, points).double()).tolist() == [True] * 5 + [False]
    assert linked_majority(torch.cdist(points[:5], points[:5]).double()).tolist() == [True] * 3 + [False] * 2
    assert linked_majority(torch.zeros(1, 1, dtype=torch.float64)).tolist() == [True]
    assert linked_majority(torch.zeros(4, 4, dtype=torch.float64)).tolist() == [True] * 4


def test_the_angles_of_whole_models_are_exact_where_updates_are_small_beside_them() -> None:
    """Updates of 0.3 % of the model's norm: the models' cosines differ in the sixth decimal."""
    params = rows(1, 20_000, 1)[0]
    matrix = 0.003 * rows(9, 20_000, 2) * torch.linspace(0.5, 1.5, 9, dtype=torch.float64).unsqueeze(1)
    models = (params + matrix).numpy()
    units = models / np.linalg.norm(models, axis=1, keepdims=True)
    exact = torch.from_numpy(0.5 * ((units[:, None] - units) ** 2).sum(axis=2))
    from fedpoison.linalg.gram import geometry

    distances = geometry(matrix.float(), references=-params.unsqueeze(0).float())[1]
    found = cosine_distances(distances[:9, :9], distances[:9, 9].sqrt())
    torch.testing.assert_close(found, exact, rtol=2e-3, atol=1e-12)
    assert exact[0, 1] < 1e-5


def test_flame_s_noise_follows_from_epsilon_and_delta() -> None:
    matrix = rows(7, 5000)
    median = statistics.median(float(row.norm()) for row in matrix)
    quiet = aggregate("flame", matrix, noise_factor=0.0).update
    for options, factor in (
        ({}, 0.001),
        ({"noise_factor": 0.3}, 0.3),
        ({"epsilon": 8.0, "delta": 1e-3}, math.sqrt(2 * math.log(1.25 / 1e-3)) / 8),
    ):
        added = (aggregate("flame", matrix, **options).update - quiet).tolist()
        assert statistics.pstdev(added) == pytest.approx(factor * median, rel=0.05)
    with pytest.raises(ValueError, match=r"flame needs \(epsilon is None\) == \(delta is None\)"):
        aggregate("flame", matrix, epsilon=8.0)


@pytest.mark.parametrize("variant", ["models", "updates"])
def test_flame_finds_boosted_backdoors_of_one_direction(variant: str) -> None:
    common, backdoor = rows(1, 200, 5)[0], rows(1, 200, 6)[0]
    honest = common + 0.5 * rows(11, 200)
    matrix = torch.cat([honest, 20 * (backdoor + 0.1 * rows(9, 200, 7))])
    verdict = aggregate("flame", matrix, params=0.1 * rows(1, 200, 8)[0], variant=variant)
    assert flagged(verdict) == list(range(11, 20))
    middle = honest.mean(dim=0)
    assert (verdict.update - middle).norm() < 0.05 * (aggregate("mean", matrix).update - middle).norm()


def test_flame_admits_who_keeps_within_the_honest_angles_and_little_more_than_half_of_the_honest() -> None:
    honest = rows(1, 200, 5)[0] + 0.5 * rows(15, 200)
    verdict = aggregate("flame", torch.cat([honest, craft("alie", benign=honest, n_malicious=5, z=0.5)]))
    assert verdict.weights is not None
    assert (verdict.weights[-5:] > 0).all()
    assert verdict.weights[-5:].sum() > 5 / 20
    others = rows(1, 200, 6)[0] + 0.5 * rows(5, 200, 7)
    assert {*range(15, 20)} < set(flagged(aggregate("flame", torch.cat([honest, others]))))
    assert len(flagged(aggregate("flame", honest))) > 3  # nobody attacks


# ---- GAS


def gas_by_definition(matrix: Tensor, f: int, groups: int, seed: int, base: Callable[[Tensor], Tensor]) -> list[int]:
    n, d = matrix.shape
    order = torch.randperm(d, generator=Stream(seed, "defence", 1).torch()).tolist()
    size = -(-d // groups)
    scores = [0.0] * n
    for start in range(0, d, size):
        part = matrix[:, order[start : start + size]]
        centre = base(part)
        for i in range(n):
            scores[i] += math.dist(part[i].tolist(), centre.tolist())
    return sorted(sorted(range(n), key=lambda i: scores[i])[: n - f])


@pytest.mark.parametrize(("n", "f"), [(3, 1), (4, 1), (8, 3), (11, 2), (25, 5)])
@pytest.mark.parametrize("groups", [1, 7, 1000])
@given(seed=st.integers(0, 999))
@draws(3, 6)
def test_gas_equals_its_definition(n: int, f: int, groups: int, seed: int) -> None:
    matrix = rows(n, seed=seed)
    bases: dict[str, Callable[[Tensor], Tensor]] = {
        "median": median_of,
        "trimmed_mean": lambda part: trimmed_mean_of(part, f),
    }
    for name, base in bases.items():
        kept = gas_by_definition(matrix, f, groups, seed, base)
        verdict = aggregate("gas", matrix, f=f, base=name, seed=seed, groups=groups)
        assert flagged(verdict) == [i for i in range(n) if i not in kept]
        torch.testing.assert_close(verdict.update, matrix[kept].mean(dim=0))


def unlike_in_a_few_coordinates() -> tuple[Tensor, Tensor]:
    """Honest clients far apart in 5 of 200 coordinates; attackers between them there, and a little off elsewhere."""
    honest = 0.1 * rows(16, 200)
    honest[:, :5] += 10 * rows(16, 5, 1)
    bad = torch.full((4, 200), 0.7, dtype=torch.float64)
    bad[:, :5] = 0
    return honest, bad


@pytest.mark.parametrize("base", ["median", "trimmed_mean", "multi_krum", "bulyan"])
def test_gas_finds_attackers_whom_unlike_data_hide_from_distances_of_whole_updates(base: str) -> None:
    honest, bad = unlike_in_a_few_coordinates()
    matrix, f = torch.cat([honest, bad]), 4
    verdict = aggregate("gas", matrix, f=f, base=base)
    assert flagged(verdict) == [16, 17, 18, 19]
    torch.testing.assert_close(verdict.update, honest.mean(dim=0))
    for other in (aggregate("multi_krum", matrix, f=f), aggregate("gas", matrix, f=f, base=base, groups=1)):
        assert not set(flagged(other)) & {16, 17, 18, 19}


def test_gas_turns_honest_clients_away_for_attackers_who_mimic_one() -> None:
    honest = rows(16, 100)
    nearest = int((honest - median_of(honest)).norm(dim=1).argmin())
    verdict = aggregate("gas", torch.cat([honest, honest[nearest].repeat(4, 1)]), f=4, base="median")
    assert len(flagged(verdict)) == 4
    assert max(flagged(verdict)) < 16


def test_gas_refuses_what_its_base_refuses() -> None:
    aggregate("gas", rows(7), f=2, base="krum")
    with pytest.raises(ValueError, match=r"in gas: krum needs n > 2\*f \+ 2: n = 6, f = 2"):
        aggregate("gas", rows(6), f=2, base="krum")
    with pytest.raises(ValueError, match=r"gas is built around another rule: give defence\.base"):
        aggregate("gas", rows(6))


# ---- FoundationFL


def foundation_by_definition(matrix: Tensor, copies: int) -> Tensor:
    columns = matrix.T.tolist()
    highest, lowest = [max(column) for column in columns], [min(column) for column in columns]
    scores = [min(math.dist(row, highest), math.dist(row, lowest)) for row in matrix.tolist()]
    return torch.cat([matrix, *[matrix[[scores.index(max(scores))]]] * copies])


@pytest.mark.parametrize(("n", "f"), SIZES)
@pytest.mark.parametrize("copies", [None, 0, 1, 6])
@given(seed=st.integers(0, 999))
@seeds
def test_foundationfl_equals_its_definition(n: int, f: int, copies: int | None, seed: int) -> None:
    matrix = rows(n, 5, seed=seed)
    known = foundation_by_definition(matrix, n // 2 if copies is None else copies)
    options = {} if copies is None else {"copies": copies}
    for base, expected in (("median", median_of(known)), ("trimmed_mean", trimmed_mean_of(known, f))):
        verdict = aggregate("foundationfl", matrix, f=f, base=base, **options)
        torch.testing.assert_close(verdict.update, expected)


def test_foundationfl_by_hand() -> None:
    """Distances to the maximum 4 and the minimum 0: 0, 1, 2, 1, 0; the 2 is added twice."""
    matrix = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0]])
    assert aggregate("foundationfl", matrix, f=1, base="trimmed_mean").update.tolist() == [2.0]
    matrix = torch.tensor([[0.0], [1.0], [2.0], [10.0], [10.0]])  # 0, 1, 2, 0, 0
    for options, middle in (({}, (1 + 2 + 2 + 2 + 10) / 5), ({"copies": 0}, 13 / 3)):
        update = aggregate("foundationfl", matrix, f=1, base="trimmed_mean", **options).update
        assert update.item() == pytest.approx(middle)


def test_foundationfl_is_pushed_less_by_attackers_who_all_sit_at_one_extreme() -> None:
    """Beyond the largest value of every coordinate they have score 0, and copies of an honest client hold against it.

    The copies cost precision: one client's own deviation counts for more than a third.
    """
    honest = 0.2 + rows(16, 2000)
    matrix, middle = torch.cat([honest, (honest.amax(dim=0) + 5).repeat(4, 1)]), honest.mean(dim=0)
    carried = aggregate("mean", matrix).update - middle
    for base in ("trimmed_mean", "median"):
        alone = aggregate(base, matrix, f=4).update - middle
        copied = aggregate("foundationfl", matrix, f=4, base=base).update - middle
        assert copied.mean() < 0.8 * alone.mean() < 0.4 * carried.mean()
        assert copied.norm() > alone.norm()


@pytest.mark.parametrize("base", ["trimmed_mean", "median"])
def test_foundationfl_copies_attackers_who_take_the_largest_values_here_and_the_smallest_there(base: str) -> None:
    """They are far from both extremes, and with f + copies of the rows the base alone would have done better."""
    honest = 0.2 + rows(16, 500)
    beyond = torch.where(torch.arange(500) < 250, honest.amax(dim=0), honest.amin(dim=0))
    matrix, middle = torch.cat([honest, beyond.repeat(4, 1)]), honest.mean(dim=0)
    assert torch.equal(foundation_by_definition(matrix, 1)[-1], beyond)
    alone, copied = (
        aggregate(rule, matrix, f=4, **options).update - middle
        for rule, options in ((base, {}), ("foundationfl", {"base": base}))
    )
    assert copied.norm() > 2 * alone.norm()


def test_two_attackers_in_opposite_directions_get_themselves_copied() -> None:
    """With f + copies more than half of all the median is theirs; with fewer attackers it still holds."""
    honest, far = rows(8, 40), 1e6 * rows(1, 40, 3)
    for f, carried in ((4, True), (2, False)):
        matrix = torch.cat([honest, far.repeat(f - 1, 1), -far])
        copied = aggregate("foundationfl", matrix, f=f, base="median").update
        assert (copied.abs().max() > 1e4) == carried
        assert aggregate("median", matrix, f=f).update.abs().max() < 10


def test_foundationfl_s_base_is_checked_on_the_copies_too() -> None:
    aggregate("foundationfl", rows(5), f=2, base="krum")  # 7 rows
    with pytest.raises(ValueError, match=r"in foundationfl: krum needs n > 2\*f \+ 2: n = 6, f = 2"):
        aggregate("foundationfl", rows(5), f=2, base="krum", copies=1)


# ---- rejection


def a_root_set(d: int, seed: int) -> Probe:
    """Regression of 30 samples: the loss is the squared error, the error rate how often the sign is wrong."""
    samples, wanted = rows(30, d, seed), rows(1, d, seed + 1)[0]

    def probe(update: Tensor) -> tuple[float, float]:
        truth, predicted = samples @ wanted, samples @ update.double()
        return float((predicted - truth).square().mean()), float((predicted.sign() != truth.sign()).double().mean())

    return probe


def rejected_by_definition(matrix: Tensor, f: int, base: str, probe: Probe) -> list[set[int]]:
    """By the loss, and by the error rate."""

    def measured(kept: list[int]) -> tuple[float, float]:
        return probe(aggregate(base, matrix[kept], f=f).update)

    everybody = list(range(len(matrix)))
    with_it, without = measured(everybody), [measured([j for j in everybody if j != i]) for i in everybody]
    impacts = [[with_it[which] - figures[which] for figures in without] for which in (0, 1)]
    # of equals the lower index stays
    return [set(sorted(everybody, key=lambda i, by=by: (-by[i], -i))[:f]) for by in impacts]


@pytest.mark.parametrize(("n", "f"), [(4, 1), (7, 1), (11, 2), (14, 3)])
@pytest.mark.parametrize("base", ["mean", "median", "trimmed_mean", "krum"])
@given(seed=st.integers(0, 999))
@draws(2, 4)
def test_rejection_equals_its_definition(n: int, f: int, base: str, seed: int) -> None:
    if base == "krum" and n - f <= 2 * f + 2:
        return
    matrix, probe = rows(n, 6, seed), a_root_set(6, seed)
    by_loss, by_error = rejected_by_definition(matrix, f, base, probe)
    for rule, options, out in (
        ("err", {}, by_error),
        ("lfr", {}, by_loss),
        ("lfr", {"union": True}, by_error | by_loss),
    ):
        if options and (n <= 2 * f or (base in ("trimmed_mean", "krum") and n - 2 * f <= 2 * f + 2)):
            continue
        verdict = aggregate(rule, matrix, f=f, base=base, probe=probe, **options)
        assert set(flagged(verdict)) == out
        kept = [i for i in range(n) if i not in out]
        assert torch.equal(verdict.update, aggregate(base, matrix[kept], f=f).update)


def test_rejection_by_hand() -> None:
    """The mean of 0, 1, 2 and 9 is 3; wanted is 1. Without 9 it is 1, without the others 4, 11/3 and 10/3."""
    matrix = torch.tensor([[0.0], [1.0], [2.0], [9.0]])
    verdict = aggregate("lfr", matrix, f=1, base="mean", probe=lambda u: (abs(float(u) - 1), 0.5))
    assert flagged(verdict) == [3]
    assert verdict.update.tolist() == [1.0]
    assert flagged(aggregate("err", matrix, f=1, base="mean", probe=lambda u: (0.0, float(float(u) > 3.5)))) == [3]
    assert flagged(aggregate("err", matrix, f=1, base="mean", probe=lambda u: (0.0, 0.5))) == [3]  # equals: the last


@pytest.mark.parametrize("rule", ["err", "lfr"])
@pytest.mark.parametrize("base", ["mean", "median"])
def test_rejection_finds_whoever_turns_the_model_round(rule: str, base: str) -> None:
    probe, wanted = a_root_set(40, 5), rows(1, 40, 6)[0]
    honest = 0.5 * wanted + 0.2 * rows(12, 40)
    matrix = torch.cat([honest, (-2 * wanted).repeat(3, 1)])
    verdict = aggregate(rule, matrix, f=3, base=base, probe=probe)
    assert flagged(verdict) == [12, 13, 14]
    assert torch.equal(verdict.update, aggregate(base, honest, f=3).update)
    assert probe(verdict.update)[0] < 0.6 * probe(aggregate("mean", matrix).update)[0]


def test_lfr_measures_in_smaller_steps_than_err() -> None:
    """Between clients that do not change a single prediction the error rate sees no difference."""
    matrix = torch.tensor([[2.0], [-0.5], [1.0], [1.0]])
    probe: Probe = lambda u: (abs(float(u) - 1.5), float(float(u) < 0))  # noqa: E731
    assert flagged(aggregate("lfr", matrix, f=1, base="mean", probe=probe)) == [1]
    assert flagged(aggregate("err", matrix, f=1, base="mean", probe=probe)) == [3]


@pytest.mark.parametrize("rule", ["err", "lfr"])
def test_rejection_does_not_see_what_the_root_set_does_not_show(rule: str) -> None:
    """A backdoor in a coordinate that no clean sample uses, sent with otherwise good updates."""
    seen, wanted = a_root_set(20, 5), rows(1, 20, 6)[0]
    probe: Probe = lambda u: seen(u[:20])  # noqa: E731
    honest = torch.cat([wanted + rows(8, 20), torch.zeros(8, 1, dtype=torch.float64)], dim=1)
    bad = torch.cat([wanted, torch.tensor([50.0], dtype=torch.float64)]).unsqueeze(0)
    verdict = aggregate(rule, torch.cat([honest, bad]), f=1, base="mean", probe=probe)
    assert 8 not in flagged(verdict)
    assert verdict.update[-1] > 5


def test_a_client_whose_presence_breaks_the_model_is_the_first_to_go() -> None:
    def probe(update: Tensor) -> tuple[float, float]:
        broken = float(update.abs().max()) > 1e6
        return (math.nan if broken else float(update.norm())), (0.9 if broken else 0.5)

    matrix = rows(8, dtype=torch.float32)
    matrix[3] = 1e30
    for rule in ("err", "lfr"):
        assert flagged(aggregate(rule, matrix, f=1, base="mean", probe=probe)) == [3]


def test_rejection_tells_the_base_s_bound_on_those_who_stay() -> None:
    probe = a_root_set(20, 0)
    aggregate("lfr", rows(9), f=2, base="krum", probe=probe)
    with pytest.raises(ValueError, match=r"in lfr: krum needs n > 2\*f \+ 2: n = 6, f = 2"):
        aggregate("lfr", rows(8), f=2, base="krum", probe=probe)
    with pytest.raises(ValueError, match=r"in lfr: krum needs n > 2\*f \+ 2: n = 5, f = 2"):
        aggregate("lfr", rows(9), f=2, base="krum", probe=probe, union=True)
    with pytest.raises(ValueError, match=r"lfr needs not union or n > 2\*f: n = 4, f = 2, union = True"):
        aggregate("lfr", rows(4), f=2, base="median", probe=probe, union=True)


def test_without_attackers_rejection_leaves_nobody_out_and_tries_nothing() -> None:
    def probe(update: Tensor) -> tuple[float, float]:
        raise AssertionError

    for rule in ("err", "lfr"):
        verdict = aggregate(rule, rows(1), f=0, base="median", probe=probe)
        assert flagged(verdict) == []
        assert torch.equal(verdict.update, rows(1)[0])


def test_in_a_run_lfr_finds_whoever_turns_his_update_round() -> None:
    given: dict[str, Any] = {
        "name": "t",
        "rounds": 2,
        "data": {"name": "digits", "root": {"samples": 100}},
        "model": "mlp",
        "clients": {"count": 8, "local": {"epochs": 1, "lr": 0.1}},
        "threat": {"malicious": 2, "update": {"name": "sign_flip"}},
        "defence": {"aggregator": "lfr", "base": "mean"},
    }
    config = parse(given)
    assert config.defence.rule == "lfr(mean)"
    world, state = build(config)
    for _ in range(2):
        state, record = play(state, world)
        assert record["flagged"] == record["malicious"]
        assert record["detection"]["f1"] == 1


# ---- what everybody owes, at the edges


def answers(rule: str, matrix: Tensor, f: int) -> Verdict:
    known: dict[str, Any] = {"base": "median"} if rule not in ("norm_clipping", "flame") else {}
    if rule in ("err", "lfr"):
        known["probe"] = lambda update: (float(update.double().norm()), math.tanh(float(update.double().abs().mean())))
    verdict = aggregate(rule, matrix, f=f, **known)
    assert not verdict.skipped
    assert verdict.update.isfinite().all()
    assert torch.equal(aggregate(rule, matrix, f=f, **known).update, verdict.update)
    return verdict


@pytest.mark.parametrize("rule", ["norm_clipping", "flame", "gas", "foundationfl", "err", "lfr"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_the_edges_a_rule_stays_finite_and_the_same(rule: str, dtype: torch.dtype) -> None:
    for n, f in ((1, 0), (2, 0), (3, 1), (9, 3)):
        nothing = answers(rule, torch.zeros(n, 7, dtype=dtype), f)
        assert nothing.update.abs().max() == 0
        row = 0.1 * rows(1, 7, dtype=dtype)
        torch.testing.assert_close(answers(rule, row.repeat(n, 1), f).update, row[0], atol=3e-3, rtol=0)
        for bad in sorted({0, min(1, f), f}):
            matrix = rows(n, 7, dtype=dtype)
            matrix[:bad] = 1e30
            huge = answers(rule, matrix, f).update
            assert huge.abs().max() < 20 or rule == "flame"
            matrix[:bad] *= torch.arange(bad).unsqueeze(1) * 2.0 - 1
            answers(rule, matrix, f)


def test_one_client_in_three_cannot_carry_flame_further_than_the_median_norm() -> None:
    for bad in range(3):
        matrix = rows(3, dtype=torch.float32)
        limit = matrix.norm(dim=1).max()
        matrix[bad] = 1e30
        assert aggregate("flame", matrix, f=1, noise_factor=0.0).update.norm() <= limit
