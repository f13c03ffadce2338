"""Rules that look for attackers, each against its definition written out in loops, and by hand."""

import itertools
import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from making import draws
from torch import Tensor

from fedpoison import aggregate
from fedpoison.common.seeding import Stream
from fedpoison.types import Layer

seeds = draws(4, 10)
SIZES = (1, 2, 3, 4, 7, 12)
Row = list[float]


def rows(n: int, d: int = 20, seed: int = 0) -> Tensor:
    """Rows that agree somewhat, of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(n, d, generator=generator, dtype=torch.float64) + 0.5
    return matrix * torch.linspace(0.5, 1.5, n, dtype=torch.float64).unsqueeze(1)


def dot(a: Row, b: Row) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def cosine(a: Row, b: Row) -> float:
    lengths = math.hypot(*a) * math.hypot(*b)
    return dot(a, b) / lengths if lengths else 0.0


def combination(coefficients: Row, points: list[Row]) -> Row:
    return [math.fsum(c * x for c, x in zip(coefficients, column, strict=True)) for column in zip(*points, strict=True)]


def clipped_mean(points: list[Row], kept: list[int], length: float) -> Row:
    scales = [min(1.0, length / (math.hypot(*points[i]) or 1.0)) / len(kept) for i in kept]
    return combination(scales, [points[i] for i in kept])


def flagged(verdict: object) -> list[int]:
    found = verdict.flagged  # type: ignore[attr-defined]
    assert found is not None
    return found.nonzero().flatten().tolist()  # type: ignore[no-any-return]


# ---- FLTrust


def fltrust_by_definition(points: list[Row], root: Row) -> Row:
    trust = [max(0.0, cosine(point, root)) for point in points]
    if not sum(trust):
        return [0.0] * len(root)
    scaled = [[x * math.hypot(*root) / (math.hypot(*point) or 1.0) for x in point] for point in points]
    return combination([score / sum(trust) for score in trust], scaled)


@pytest.mark.parametrize("n", SIZES)
@given(seed=st.integers(0, 999))
@seeds
def test_fltrust_equals_its_definition(n: int, seed: int) -> None:
    matrix, root = rows(n, seed=seed), rows(2, seed=seed + 1000)[1]
    matrix[::3] -= 1  # some turn away
    matrix[-1] *= 10.0 ** (seed % 60 - 30)
    verdict = aggregate("fltrust", matrix, root_update=root)
    expected = fltrust_by_definition(matrix.tolist(), root.tolist())
    assert verdict.update.tolist() == pytest.approx(expected, abs=1e-12)
    assert verdict.weights is not None
    assert torch.equal(verdict.weights > 0, torch.tensor([cosine(p, root.tolist()) > 0 for p in matrix.tolist()]))


def test_fltrust_by_hand() -> None:
    root = torch.tensor([2.0, 0.0])
    matrix = torch.tensor([[10.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    # scores 1, 0, 0, 0.6, 0; the first counts as (2, 0), the fourth as (1.2, 1.6)
    verdict = aggregate("fltrust", matrix, root_update=root)
    assert verdict.update.tolist() == pytest.approx([(2 + 0.6 * 1.2) / 1.6, 0.6 * 1.6 / 1.6])
    assert verdict.weights is not None
    assert verdict.weights.tolist() == pytest.approx([0.2 / 1.6, 0, 0, 0.6 * 0.4 / 1.6, 0])
    assert aggregate("fltrust", matrix[1:3], root_update=root).update.tolist() == [0, 0]  # nobody is trusted
    assert aggregate("fltrust", matrix, root_update=torch.zeros(2)).update.tolist() == [0, 0]


# ---- FoolsGold


def foolsgold_by_definition(histories: list[Row], kappa: float) -> Row:
    n = len(histories)
    others = [[j for j in range(n) if j != i] for i in range(n)]
    similar = [[cosine(a, b) for b in histories] for a in histories]
    most = [max([0.0, *(similar[i][j] for j in others[i])]) for i in range(n)]
    weights = []
    for i in range(n):
        pardoned = [similar[i][j] * (most[i] / most[j] if most[j] > most[i] else 1) for j in others[i]]
        weights.append(min(1.0, max(0.0, 1 - max([0.0, *pardoned]))))
    weights = [0.0 if weight < 1e-12 else weight for weight in weights]
    largest = max(weights)
    if not largest:
        return weights
    result = []
    for weight in weights:
        alpha = 0.99 if weight == largest else weight / largest
        result.append(min(1.0, max(0.0, kappa * (math.log(alpha / (1 - alpha)) + 0.5))) if alpha else 0.0)
    return result


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kappa", [0.3, 1.0, 2.0])
@given(seed=st.integers(0, 999))
@seeds
def test_foolsgold_equals_its_definition(n: int, kappa: float, seed: int) -> None:
    """Over rounds in which different clients take part."""
    generator, state, histories = torch.Generator().manual_seed(seed), {}, {}
    for number in range(4):
        cohort = torch.randperm(2 * n, generator=generator)[:n]
        matrix = rows(n, 8, seed=seed + 1000 * number)
        for i, row in zip(cohort.tolist(), matrix.tolist(), strict=True):
            histories[i] = [a + b for a, b in zip(histories.get(i, [0.0] * 8), row, strict=True)]
        verdict = aggregate("foolsgold", matrix, client_ids=cohort, state=state, kappa=kappa, combine="sum")
        expected = foolsgold_by_definition([histories[i] for i in cohort.tolist()], kappa)
        assert verdict.weights is not None
        assert verdict.weights.tolist() == pytest.approx(expected, abs=1e-9)
        assert verdict.update.tolist() == pytest.approx(combination(expected, matrix.tolist()), abs=1e-8)
        average = aggregate("foolsgold", matrix, client_ids=cohort, state=state, kappa=kappa).update
        assert torch.allclose(average * (sum(expected) or 1), verdict.update)
        state = dict(verdict.state)
        assert all(isinstance(tensor, Tensor) for tensor in state.values())
        assert state["foolsgold.ids"].tolist() == sorted(histories)


def test_foolsgold_by_hand() -> None:
    # Two sybils, and two clients at right angles to everybody: 0 for those, 1 for these.
    matrix = torch.tensor([[1.0, 0, 0], [5.0, 0, 0], [0, 2.0, 0], [0, 0, 3.0]])
    verdict = aggregate("foolsgold", matrix, combine="sum")
    assert verdict.weights is not None
    assert verdict.weights.tolist() == [0, 0, 1, 1]
    assert verdict.update.tolist() == [0, 2, 3]
    assert aggregate("foolsgold", matrix).update.tolist() == [0, 1, 1.5]
    # cos 0.6 between the first two, 0 elsewhere: 1 − 0.6 = 0.4 of the largest, ln(0.4/0.6) + 0.5
    matrix = torch.tensor([[1.0, 0, 0], [3.0, 4.0, 0], [0, 0, 1.0]])
    weights = aggregate("foolsgold", matrix, combine="sum").weights
    assert weights is not None
    assert weights.tolist() == pytest.approx([math.log(0.4 / 0.6) + 0.5] * 2 + [1])


def test_foolsgold_pardons_who_resembles_sybils_less_than_they_do_each_other() -> None:
    matrix = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    weights = aggregate("foolsgold", matrix, combine="sum").weights
    assert weights is not None
    # the third is 0.6 like a sybil, pardoned to 0.6 · 0.6 / 1: alpha = 0.64 of the largest
    assert weights.tolist() == pytest.approx([0, 0, min(1, math.log(0.64 / 0.36) + 0.5), 1])
    weights = aggregate("foolsgold", matrix, kappa=0.5, combine="sum").weights
    assert weights is not None
    assert weights[2].item() == pytest.approx(0.5 * (math.log(0.64 / 0.36) + 0.5))


# ---- clipped clustering


def two_clusters(points: list[Row]) -> list[list[int]]:
    """Average linkage: merge the two clusters with the least mean distance until two are left."""
    clusters = [[i] for i in range(len(points))]
    while len(clusters) > 2:
        pairs = itertools.combinations(range(len(clusters)), 2)
        a, b = min(
            pairs,
            key=lambda pair: statistics.fmean(
                1 - cosine(points[i], points[j]) for i in clusters[pair[0]] for j in clusters[pair[1]]
            ),
        )
        clusters[a] += clusters.pop(b)
    return sorted(sorted(cluster) for cluster in clusters)


@pytest.mark.parametrize("n", SIZES)
@given(seed=st.integers(0, 999))
@seeds
def test_clipped_clustering_equals_its_definition(n: int, seed: int) -> None:
    """Over rounds of growing updates, of different cohorts: the median is of all norms so far."""
    state, seen = {}, []
    for number, size in enumerate((n, max(1, n - 2), n + 1)):
        matrix = (1 + number) * rows(size, 6, seed=seed + 1000 * number)
        points = matrix.tolist()
        seen += [math.hypot(*point) for point in points]
        kept = max(two_clusters(points), key=len)
        verdict = aggregate("clipped_clustering", matrix, client_ids=torch.arange(size) + number, state=state)
        expected = clipped_mean(points, kept, statistics.median(seen))
        assert verdict.update.tolist() == pytest.approx(expected, abs=1e-10)
        assert set(flagged(verdict)) == set(range(size)) - set(kept)
        state = dict(verdict.state)
        assert state["clipped_clustering.norms"].tolist() == pytest.approx(seen)


def test_clipped_clustering_by_hand() -> None:
    matrix = torch.tensor([[2.0, 0.0], [4.0, 0.1], [0.0, 1.0], [6.0, 0.0]])
    first = aggregate("clipped_clustering", matrix)
    assert flagged(first) == [2]
    tau = (2 + math.hypot(4, 0.1)) / 2  # of 1, 2, 4.001, 6
    assert first.update[0].item() == pytest.approx((2 + tau * 4 / math.hypot(4, 0.1) + tau) / 3)
    capped = aggregate("clipped_clustering", matrix[[0, 3]].repeat(2, 1), max_tau=0.5)
    assert capped.update.tolist() == pytest.approx([0.5, 0])
    then = aggregate("clipped_clustering", torch.tensor([[9.0], [9.0]]), state=first.state)
    assert then.update.tolist() == pytest.approx([(math.hypot(4, 0.1) + 6) / 2])  # of 1, 2, 4.001, 6, 9, 9


# ---- AlignIns


def alignins_by_definition(points: list[Row], params: Row, sparsity: float, radii: tuple[float, float]) -> list[int]:
    principal = [sum((x > 0) - (x < 0) for x in column) for column in zip(*points, strict=True)]
    principal = [(vote > 0) - (vote < 0) for vote in principal]
    directions, alignments = [], []
    for point in points:
        largest = sorted(range(len(point)), key=lambda k: -abs(point[k]))[: int(sparsity * len(point))]
        agree = sum((point[k] > 0) - (point[k] < 0) == principal[k] for k in largest)
        alignments.append(agree / len(largest))
        directions.append(cosine(point, params))
    kept = set(range(len(points)))
    for values, radius in ((directions, radii[0]), (alignments, radii[1])):
        middle, deviation = statistics.median(values), statistics.pstdev(values)
        if deviation > 1e-12:
            kept &= {i for i, value in enumerate(values) if round(abs(value - middle) / deviation, 9) < radius}
    return sorted(kept)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(("sparsity", "radii"), [(0.3, (1.0, 1.0)), (1.0, (2.0, 0.5)), (0.05, (0.7, 3.0))])
@given(seed=st.integers(0, 999))
@seeds
def test_alignins_equals_its_definition(n: int, sparsity: float, radii: tuple[float, float], seed: int) -> None:
    matrix, params = rows(n, seed=seed), rows(2, seed=seed + 1000)[0]
    kept = alignins_by_definition(matrix.tolist(), params.tolist(), sparsity, radii)
    verdict = aggregate("alignins", matrix, params=params, sparsity=sparsity, lambda_c=radii[0], lambda_s=radii[1])
    assert set(flagged(verdict)) == set(range(n)) - set(kept)
    lengths = [math.hypot(*matrix[i].tolist()) for i in kept]
    expected = clipped_mean(matrix.tolist(), kept, statistics.median(lengths)) if kept else [0.0] * 20
    assert verdict.update.tolist() == pytest.approx(expected, abs=1e-12)


def test_alignins_by_hand() -> None:
    params = torch.tensor([1.0, 0.0, 0.0, 0.0])
    matrix = torch.tensor([[3.0, 4, 0, 0], [3.0, 0, 4, 0], [3.0, 0, 0, 4], [6.0, 0, 8, 0], [0.0, 0, 0, 1]])
    # directions 0.6 four times and 0: median 0.6, deviation 0.24, the last is at 2.5. Signs agree everywhere.
    verdict = aggregate("alignins", matrix, params=params, sparsity=0.5)
    assert flagged(verdict) == [4]
    assert verdict.update.tolist() == pytest.approx([3, 1, 2, 1])  # the fourth is clipped to 5
    two = aggregate("alignins", matrix[[0, 4]], params=params)
    assert flagged(two) == [0, 1]  # both are one deviation from the median
    assert two.update.tolist() == [0, 0, 0, 0]


# ---- FreqFed


def low_frequencies_by_definition(matrix: list[Row], share: float) -> Row:
    """The two-dimensional DCT-II of an h × w matrix, orthonormal, where k/h + l/w is at most `share`."""
    h, w = len(matrix), len(matrix[0])
    result = []
    for k, l in itertools.product(range(h), range(w)):  # noqa: E741
        if k * w + l * h <= share * h * w:
            terms = (
                x * math.cos(math.pi * k * (2 * a + 1) / (2 * h)) * math.cos(math.pi * l * (2 * b + 1) / (2 * w))
                for a, row in enumerate(matrix)
                for b, x in enumerate(row)
            )
            result.append(math.fsum(terms) * math.sqrt((2 if k else 1) / h) * math.sqrt((2 if l else 1) / w))
    return result


def first_majority(features: list[Row]) -> list[int]:
    """HDBSCAN with one core neighbour and a majority as the smallest cluster: join the closest until it is there."""
    n = len(features)
    group = list(range(n))
    edges = sorted((1 - cosine(features[i], features[j]), i, j) for i, j in itertools.combinations(range(n), 2))
    for _, i, j in edges:
        joined = {group[i], group[j]}
        group = [group[i] if g in joined else g for g in group]
        biggest = max(group, key=group.count)
        if 2 * group.count(biggest) > n:
            return [k for k in range(n) if group[k] == biggest]
    return list(range(n))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
@given(seed=st.integers(0, 999))
@seeds
def test_freqfed_equals_its_definition(n: int, share: float, seed: int) -> None:
    matrix, params = rows(n, 29, seed=seed), 3 * rows(2, 29, seed=seed + 1000)[0]
    layers = [Layer("a", slice(0, 12), (2, 3, 2)), Layer("b", slice(12, 17), (5,)), Layer("c", slice(17, 29), (4, 3))]
    features = []
    for model in (matrix + params).tolist():
        shaped = [[model[0:6], model[6:12]], [model[12:17]], [model[k : k + 3] for k in range(17, 29, 3)]]
        features.append([x for part in shaped for x in low_frequencies_by_definition(part, share)])
    verdict = aggregate("freqfed", matrix, params=params, layers=layers, share=share)
    kept = first_majority(features)
    assert set(flagged(verdict)) == set(range(n)) - set(kept)
    assert torch.allclose(verdict.update, matrix[kept].mean(dim=0))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_freqfed_takes_one_client_and_empty_arrays(n: int) -> None:
    matrix = torch.randn(n, 6, generator=torch.Generator().manual_seed(n))
    whole = aggregate("freqfed", matrix, layers=(Layer("w", slice(0, 6), (2, 3)),))
    for shape in ((0,), (0, 4), (3, 0)):
        for layers in (
            (Layer("w", slice(0, 6), (2, 3)), Layer("e", slice(6, 6), shape)),
            (Layer("e", slice(0, 0), shape), Layer("w", slice(0, 6), (2, 3))),
        ):
            assert torch.equal(aggregate("freqfed", matrix, layers=layers).update, whole.update)


def test_freqfed_takes_the_largest_cluster_and_everybody_where_there_is_none() -> None:
    flat, slope = torch.ones(8, dtype=torch.float64), torch.linspace(-1, 1, 8, dtype=torch.float64)
    matrix = torch.stack([flat, flat + 0.01 * slope, flat - 0.01 * slope, slope, slope + 0.01 * flat])
    assert flagged(aggregate("freqfed", matrix, min_cluster_size=2)) == [3, 4]
    assert flagged(aggregate("freqfed", matrix[[3, 0, 4, 1, 2]], min_cluster_size=2)) == [0, 2]
    with pytest.raises(ValueError, match="freqfed needs min_cluster_size is None or 2 <= min_cluster_size <= n"):
        aggregate("freqfed", matrix, min_cluster_size=6)


# ---- SignGuard


def mean_shift_by_definition(points: list[Row]) -> list[int]:
    """The largest cluster of flat-kernel mean shift, started from the occupied cells of a grid."""
    n = len(points)
    if n < 4:
        return list(range(n))
    width = statistics.fmean(sorted(math.dist(a, b) for b in points)[n // 2 - 1] for a in points)
    if width == 0:
        counts = [points.count(point) for point in points]
        return [i for i in range(n) if points[i] == points[counts.index(max(counts))]]
    starts = {tuple(round(x / width) * width for x in point) for point in points}
    if len(starts) == n:
        starts = {tuple(point) for point in points}
    centres: dict[tuple[float, ...], int] = {}
    for centre in starts:
        for _ in range(300):
            near = [point for point in points if math.dist(point, centre) <= width]
            before, centre = centre, tuple(statistics.fmean(column) for column in zip(*near, strict=True))
            if math.dist(before, centre) <= 1e-3 * width:
                break
        centres[centre] = len(near)
    modes: list[tuple[float, ...]] = []
    for centre in sorted(centres, key=lambda c: (centres[c], c), reverse=True):
        if all(math.dist(centre, mode) > width for mode in modes):
            modes.append(centre)
    labels = []
    for point in points:
        nearest = min(range(len(modes)), key=lambda k: math.dist(point, modes[k]))
        labels.append(nearest if math.dist(point, modes[nearest]) <= width else -1)
    largest = max(range(len(modes)), key=lambda k: (labels.count(k), -k))
    return [i for i in range(n) if labels[i] == largest]


def signguard_by_definition(
    points: list[Row], chosen: list[int], extra: Row | None, bounds: tuple[float, float]
) -> list[int]:
    lengths = [math.hypot(*point) for point in points]
    usual = {i for i, x in enumerate(lengths) if bounds[0] <= x / statistics.median(lengths) <= bounds[1]}
    counts = [[sum((point[k] > 0) - (point[k] < 0) == sign for k in chosen) for sign in (1, 0, -1)] for point in points]
    largest = [max(column) or 1 for column in zip(*counts, strict=True)]
    features = [[count / most for count, most in zip(row, largest, strict=True)] for row in counts]
    if extra is not None:
        features = [[*row, x] for row, x in zip(features, extra, strict=True)]
    return sorted(usual & set(mean_shift_by_definition(features))) or list(range(len(points)))


def extra_by_definition(points: list[Row], previous: Row, variant: str) -> Row | None:
    n, known = len(points), any(previous)
    if variant == "sim":
        alike = [[cosine(a, b) if i != j else 0.0 for j, b in enumerate(points)] for i, a in enumerate(points)]
        values = [cosine(point, previous) if known else statistics.median(alike[i]) for i, point in enumerate(points)]
        middle = max(0.0, statistics.median(values))
        return [min(max(value, 0.0), middle) / (5 * middle) if middle else 0.0 for value in values]
    if variant == "dist":
        sorts = [sorted(math.dist(a, b) for b in points) for a in points]
        values = [math.dist(a, previous) if known else sum(sorts[i][: n // 2]) for i, a in enumerate(points)]
        return [0.2 if value >= 1.1 * statistics.median(values) else 0.0 for value in values]
    return None


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("variant", ["plain", "sim", "dist"])
@pytest.mark.parametrize("started", [False, True])
@given(seed=st.integers(0, 999))
@seeds
def test_signguard_equals_its_definition(n: int, variant: str, started: bool, seed: int) -> None:
    matrix = rows(n, 300, seed=seed)
    matrix[:, ::5] = matrix[:, ::5].round()
    matrix[n // 3] *= 5
    matrix[n // 2] -= 1
    previous = rows(2, 300, seed=seed + 1000)[0] if started else torch.zeros(300, dtype=torch.float64)
    chosen = torch.randperm(300, generator=Stream(seed, "defence", 1).torch())[:120].tolist()
    points = matrix.tolist()
    kept = signguard_by_definition(points, chosen, extra_by_definition(points, previous.tolist(), variant), (0.1, 3.0))
    verdict = aggregate("signguard", matrix, previous=previous, seed=seed, variant=variant, share=0.4)
    assert set(flagged(verdict)) == set(range(n)) - set(kept)
    expected = clipped_mean(points, kept, statistics.median(math.hypot(*point) for point in points))
    assert verdict.update.tolist() == pytest.approx(expected, abs=1e-12)


def test_signguard_by_hand() -> None:
    matrix = torch.tensor(
        [[1.0, 1, 1, -1], [1.0, 1, -1, 1], [1.0, -1, 1, 1], [-1.0, 1, 1, 1], [-1.0, -1, -1, -1], [9, 9, 9, -9]]
    )
    # norms 2 but for the last, 18; three positive coordinates and one negative but for the fifth
    verdict = aggregate("signguard", matrix, share=1.0)
    assert flagged(verdict) == [4, 5]
    assert verdict.update.tolist() == [0.5, 0.5, 0.5, 0.5]
    assert flagged(aggregate("signguard", matrix, share=1.0, upper=9.0)) == [4]
    assert flagged(aggregate("signguard", matrix, share=1.0, lower=1.1)) == []  # one filter takes what the other leaves
