"""LASA and LFighter, which look at a net's layers: each against its definition written out, in the setting it is made
for, and with what gets past it."""

import itertools
import math
import statistics
from pathlib import Path
from typing import Any

import making
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from making import draws
from sklearn.cluster import KMeans
from torch import Tensor

from fedpoison import Verdict, aggregate, craft
from fedpoison.common.errors import ConfigError
from fedpoison.config.config import parse
from fedpoison.config.sweep import load
from fedpoison.defences.aggregators.lfighter import two_means
from fedpoison.round import play
from fedpoison.runs.running import Job
from fedpoison.runs.world import build
from fedpoison.types import Layer

seeds = draws(6, 20)
LAYERS = (
    Layer("0.weight", slice(0, 12), (4, 3)),
    Layer("0.bias", slice(12, 16), (4,)),
    Layer("1.weight", slice(16, 36), (5, 4)),
    Layer("1.bias", slice(36, 41), (5,)),
)
D = 41


def rows(n: int, d: int = D, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return making.rows(n, d, seed, dtype)


def flagged(verdict: Verdict) -> list[int]:
    assert verdict.flagged is not None
    return verdict.flagged.nonzero().flatten().tolist()


# ---- LASA


def lasa_by_definition(
    matrix: Tensor, layers: tuple[Layer, ...], sparsity: float, radii: tuple[float, float], average: str
) -> list[float]:
    clients = matrix.double().tolist()
    lengths = [math.hypot(*row) for row in clients]
    median = statistics.median(lengths)
    clipped = [[x * min(1, median / max(s, 1e-300)) for x in row] for row, s in zip(clients, lengths, strict=True)]
    weights = [j for layer in layers if len(layer.shape) > 1 for j in range(layer.columns.start, layer.columns.stop)]
    sparse = []
    for row in clipped:
        order = sorted(weights, key=lambda j: -abs(row[j]))
        dropped = set(order[math.floor((1 - sparsity) * len(weights) + 0.5) :])
        sparse.append([0.0 if j in dropped else x for j, x in enumerate(row)])
    result: list[float] = []
    for layer in layers:
        parts = [row[layer.columns] for row in sparse]
        purities = []
        for part in parts:
            positive, negative = sum(x > 0 for x in part), sum(x < 0 for x in part)
            purities.append(positive / (positive + negative) if positive + negative else 0.5)
        good = set(range(len(clients)))
        for values, radius in (([math.hypot(*part) for part in parts], radii[0]), (purities, radii[1])):
            middle, deviation = statistics.median(values), statistics.pstdev(values)
            good &= {i for i, v in enumerate(values) if abs(v - middle) <= radius * deviation * (1 + 1e-9)}
        kept = sorted(good) or list(range(len(clients)))
        source = sparse if average == "sparse" else clipped
        result += [statistics.fmean(source[i][j] for i in kept) for j in range(layer.columns.start, layer.columns.stop)]
    return result


@pytest.mark.parametrize("n", [1, 2, 3, 8, 11, 24])
@pytest.mark.parametrize("average", ["sparse", "clipped"])
@given(
    seed=st.integers(0, 9999),
    sparsity=st.sampled_from([0.0, 0.3, 0.72, 0.95]),
    radii=st.sampled_from([(1.0, 1.0), (2.0, 1.0), (0.2, 0.2)]),
)
@seeds
def test_lasa_equals_its_definition(
    n: int, average: str, seed: int, sparsity: float, radii: tuple[float, float]
) -> None:
    matrix = rows(n, seed=seed) * torch.linspace(0.5, 2, n, dtype=torch.float64).unsqueeze(1)
    expected = lasa_by_definition(matrix, LAYERS, sparsity, radii, average)
    options = {"sparsity": sparsity, "norm_radius": radii[0], "sign_radius": radii[1], "average": average}
    verdict = aggregate("lasa", matrix, layers=LAYERS, **options)
    assert verdict.update.tolist() == pytest.approx(expected, abs=1e-12)
    assert verdict.weights is None


def test_lasa_by_hand() -> None:
    """Norms 2, 2, 2 and 20; the last is clipped to 2 and is alone with negative weights."""
    layers = (Layer("weight", slice(0, 4), (2, 2)),)
    matrix = torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [-10, -10, -10, -10]])
    assert aggregate("lasa", matrix, layers=layers, sparsity=0.0).update.tolist() == [1] * 4
    matrix = torch.tensor([[4.0, 1, 2, 3]])
    for sparsity, left in ((0.0, [4, 1, 2, 3]), (0.25, [4, 0, 2, 3]), (0.5, [4, 0, 0, 3]), (0.99, [4, 0, 0, 0])):
        assert aggregate("lasa", matrix, layers=layers, sparsity=sparsity).update.tolist() == left
    assert aggregate("lasa", matrix, layers=layers, sparsity=0.5, average="clipped").update.tolist() == [4, 1, 2, 3]
    assert aggregate("lasa", matrix, sparsity=0.5).update.tolist() == [4, 1, 2, 3]  # no matrix is known of


def test_lasa_throws_an_attacker_out_of_the_layer_he_attacks_and_of_no_other() -> None:
    """The norm of the whole update, and the other layers, are as the honest ones': no rule on whole updates sees it."""
    honest = 0.2 * rows(12)
    honest[:, 16:36] += 0.5
    bad = honest[:3].clone()
    bad[:, 16:36] *= -1
    verdict = aggregate("lasa", torch.cat([honest, bad]), layers=LAYERS, sparsity=0.0)
    middle = honest.mean(dim=0)
    last, first = slice(16, 36), slice(0, 12)
    mean = aggregate("mean", torch.cat([honest, bad])).update
    assert (verdict.update - middle)[last].norm() < 0.25 * (mean - middle)[last].norm()
    known = torch.cat([honest, bad])
    without = aggregate("lasa", torch.cat([honest, honest[:3]]), layers=LAYERS, sparsity=0.0)
    torch.testing.assert_close(verdict.update[first], without.update[first])
    assert torch.allclose(known[12:].norm(dim=1), known[:3].norm(dim=1))


def test_lasa_counts_an_attacker_who_is_ordinary_in_norm_and_signs() -> None:
    honest = rows(16) + 0.3
    bad = craft("alie", benign=honest, n_malicious=4, z=0.3)
    assert isinstance(bad, Tensor)
    scale = honest.norm(dim=1).median() / bad.norm(dim=1, keepdim=True)
    matrix = torch.cat([honest, bad * scale])
    with_them = aggregate("lasa", matrix, layers=LAYERS, norm_radius=2.0).update
    gone = aggregate("lasa", honest, layers=LAYERS, norm_radius=2.0).update
    assert (with_them - gone) @ (bad[0] - honest.mean(dim=0)) > 0


def test_lasa_keeps_equals_of_the_last_weight_and_a_layer_of_zeros() -> None:
    layers = (Layer("weight", slice(0, 4), (2, 2)), Layer("bias", slice(4, 6), (2,)))
    matrix = torch.tensor([[2.0, 1, -1, 1, 0, 0]] * 3)
    assert aggregate("lasa", matrix, layers=layers, sparsity=0.5).update.tolist() == [2, 1, -1, 1, 0, 0]


def test_lasa_never_exceeds_the_median_norm() -> None:
    matrix = rows(9, dtype=torch.float32)
    matrix[:4] *= 1e30
    limit = float(matrix.double().norm(dim=1).quantile(0.5))
    for average in ("sparse", "clipped"):
        update = aggregate("lasa", matrix, layers=LAYERS, average=average).update
        assert update.norm() <= limit * len(LAYERS) ** 0.5


# ---- LFighter


def angle(a: list[float], b: list[float]) -> float:
    cosine = sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))
    return math.acos(max(-1.0, min(1.0, cosine)))


def spread(data: Tensor, second: Tensor) -> float:
    return sum(float((side - side.mean(dim=0)).square().sum()) for side in (data[second], data[~second]) if len(side))


def clusters(data: Tensor) -> list[int]:
    """The partition of scikit-learn's k-means with a hundred random starts, or one as good: there may be several."""
    found, second = KMeans(n_clusters=2, n_init=100, random_state=0).fit(data.numpy()), two_means(data)
    assert spread(data, second) <= 1.03 * found.inertia_
    return second.long().tolist()


def lfighter_by_definition(matrix: Tensor, density: str) -> tuple[set[int], list[int]]:
    clients, magnitudes = matrix.double().tolist(), [0.0] * 5
    weights = [[row[16 + 4 * c : 20 + 4 * c] for c in range(5)] for row in clients]
    for row, classes in zip(clients, weights, strict=True):
        for c in range(5):
            magnitudes[c] += math.hypot(*classes[c]) + abs(row[36 + c])
    two = sorted(range(5), key=lambda c: -magnitudes[c])[:2]
    data = [classes[two[0]] + classes[two[1]] for classes in weights]
    labels = clusters(torch.tensor(data, dtype=torch.float64))
    scores = []
    for label in (0, 1):
        members = [row for row, found in zip(data, labels, strict=True) if found == label]
        if density == "angles":
            worst = [max([0.0, *(angle(a, b) for b in members if b is not a)]) for a in members]
        else:
            worst = [1 - min([0.0, *(math.cos(angle(a, b)) for b in members if b is not a)]) for a in members]
        scores.append(len(members) / len(data) * statistics.fmean(worst))
    if scores[0] == pytest.approx(scores[1], abs=1e-9) and labels.count(0) == labels.count(1):
        return set(), two
    bad = scores.index(min(scores))
    return {i for i, label in enumerate(labels) if label == bad}, two


def flipped(n: int, bad: int, seed: int, spread: float = 0.3) -> Tensor:
    """Honest clients move classes 1 and 3 one way, attackers, at the first places, the other way and alike."""
    matrix = spread * rows(n, seed=seed)
    push = rows(1, 8, seed + 500)[0]
    matrix[:, 20:24] += push[:4]
    matrix[:, 28:32] += push[4:]
    matrix[:bad, 20:24] = -push[:4] + 0.1 * matrix[:bad, 20:24]
    matrix[:bad, 28:32] = -push[4:] + 0.1 * matrix[:bad, 28:32]
    return matrix


@pytest.mark.parametrize("n", [4, 7, 10, 20])
@pytest.mark.parametrize("density", ["angles", "cosines"])
@given(seed=st.integers(0, 9999), bad=st.integers(0, 4))
@seeds
def test_lfighter_equals_its_definition(n: int, density: str, seed: int, bad: int) -> None:
    matrix = flipped(n, min(bad, (n - 1) // 2), seed)
    expected, _ = lfighter_by_definition(matrix, density)
    verdict = aggregate("lfighter", matrix, layers=LAYERS, density=density)
    assert set(flagged(verdict)) == expected
    kept = [i for i in range(n) if i not in expected]
    torch.testing.assert_close(verdict.update, matrix[kept].mean(dim=0))


@given(seed=st.integers(0, 9999))
@seeds
def test_each_row_is_with_the_nearer_of_two_means(seed: int) -> None:
    points = rows(300, 3, seed)
    second = two_means(points)
    means = torch.stack([points[~second].mean(dim=0), points[second].mean(dim=0)])
    near, far = torch.cdist(points, means, compute_mode="donot_use_mm_for_euclid_dist").unbind(dim=1)
    assert torch.equal(far < near, second)


@pytest.mark.parametrize("n", [3, 5, 8])
@given(seed=st.integers(0, 9999), d=st.integers(1, 3))
@seeds
def test_two_means_are_the_best_of_all_partitions_or_close_to_it(n: int, seed: int, d: int) -> None:
    data = rows(n, d, seed)
    partitions = itertools.product((False, True), repeat=n)
    best = min(spread(data, torch.tensor(p)) for p in partitions)
    assert spread(data, two_means(data)) <= 1.05 * best


@pytest.mark.parametrize("n", [40, 100])
def test_two_means_of_many_rows_are_as_good_as_a_hundred_random_starts(n: int) -> None:
    for seed in range(5):
        data = rows(n, 8, seed)
        second = two_means(data)
        assert (
            spread(data, second) <= 1.01 * KMeans(n_clusters=2, n_init=100, random_state=0).fit(data.numpy()).inertia_
        )
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        assert two_means(data[order]).tolist() in ([*second[order].tolist()], (~second)[order].tolist())


@pytest.mark.parametrize("density", ["angles", "cosines"])
@pytest.mark.parametrize("bad", [1, 3, 5, 8])
def test_lfighter_finds_the_smaller_and_denser_cluster(bad: int, density: str) -> None:
    matrix = flipped(20, bad, seed=3)
    verdict = aggregate("lfighter", matrix, layers=LAYERS, density=density)
    assert flagged(verdict) == list(range(bad))
    assert lfighter_by_definition(matrix, density)[1] in ([1, 3], [3, 1])
    honest = matrix[bad:].mean(dim=0)
    torch.testing.assert_close(verdict.update, honest)
    assert (aggregate("mean", matrix).update - honest).norm() > 0.1


def test_the_bias_counts_in_a_class_s_magnitude_and_not_in_the_clusters() -> None:
    matrix = flipped(10, 3, seed=3)
    assert flagged(aggregate("lfighter", matrix, layers=LAYERS)) == [0, 1, 2]
    for c in (0, 2):  # these are looked at now, and there the attackers are not to be told
        matrix[:, 36 + c] = 1e3
        matrix[:, 16 + 4 * c : 20 + 4 * c] = rows(10, 4, 8 + c)
    found, classes = lfighter_by_definition(matrix, "angles")
    assert sorted(classes) == [0, 2]
    assert found != {0, 1, 2}
    assert set(flagged(aggregate("lfighter", matrix, layers=LAYERS))) == found
    without = (*LAYERS[:3], Layer("scale", slice(36, 41), (1, 5, 1)))
    assert flagged(aggregate("lfighter", matrix, layers=without)) == [0, 1, 2]


def test_lfighter_leaves_nobody_out_of_equals_and_halves_that_are_alike() -> None:
    row = rows(1)
    for n in (1, 2, 5):
        verdict = aggregate("lfighter", row.repeat(n, 1), layers=LAYERS)
        assert flagged(verdict) == []
        torch.testing.assert_close(verdict.update, row[0])
    assert flagged(aggregate("lfighter", torch.zeros(4, D), layers=LAYERS)) == []
    assert flagged(aggregate("lfighter", torch.cat([row, -row]), layers=LAYERS)) == []
    assert flagged(aggregate("lfighter", torch.cat([row, row, -row]), layers=LAYERS)) == [2]  # as dense, smaller


def test_lfighter_needs_an_output_layer_and_says_so_before_the_start(tmp_path: Path) -> None:
    wanted = r"lfighter looks at an output layer \[classes, features\], and there is none in "
    with pytest.raises(ValueError, match=wanted + r"all \[\d+\]$"):
        aggregate("lfighter", rows(4))
    net = "from torch import nn\ndef net(input_shape, n_classes):\n"
    net += "    return nn.Sequential(nn.Conv2d(1, n_classes, 8), nn.Flatten())\n"
    (tmp_path / "own.py").write_text(net)
    text = 'name = "t"\nrounds = 1\ndata = "digits"\nmodel = "own.py:net"\nclients = { count = 4 }\n'
    text += '[sweep]\n"defence.aggregator" = ["mean", "lfighter"]\n'  # the net itself is checked once
    (tmp_path / "t.toml").write_text(text)
    with pytest.raises(ConfigError, match=wanted + r"0.weight \[10, 1, 8, 8\], 0.bias \[10\]"):
        Job(load(tmp_path / "t.toml"), tmp_path).check()


def test_lfighter_looks_at_the_last_matrix_with_one_class_or_two_too() -> None:
    for classes in (1, 2):
        layers = (Layer("out", slice(0, 6), (classes, 6 // classes)),)
        matrix = 0.1 * rows(9, 6) + 1
        matrix[:3] = -1 + 0.01 * rows(3, 6)
        assert flagged(aggregate("lfighter", matrix, layers=layers)) == [0, 1, 2]


def test_huge_rows_in_opposite_directions_share_a_cluster_with_the_honest() -> None:
    matrix = flipped(10, 0, seed=3)
    far = torch.zeros(D, dtype=torch.float64)
    far[16:36] = 1e6
    one = aggregate("lfighter", torch.cat([matrix, far.unsqueeze(0)]), layers=LAYERS)
    assert flagged(one) == [10]
    two = aggregate("lfighter", torch.cat([matrix, torch.stack([far, -far])]), layers=LAYERS)
    assert len(set(flagged(two)) & {10, 11}) == 1
    assert two.update.abs().max() > 1e4


@pytest.mark.parametrize("malicious", [2, 4])
def test_in_a_run_lfighter_finds_whoever_flips_labels(malicious: int) -> None:
    given: dict[str, Any] = {
        "name": "t",
        "seed": 1,  # of 8 seeds 3 have a round in which an honest client goes with the two
        "rounds": 3,
        "data": {"name": "digits"},
        "model": "mlp",
        "clients": {"count": 10, "local": {"epochs": 3, "lr": 0.1}},
        "threat": {"malicious": malicious, "data": {"name": "label_flip", "source": 7, "target": 1}},
        "defence": {"aggregator": "lfighter"},
    }
    success = {}
    for rule in ("lfighter", "mean"):
        world, state = build(parse({**given, "defence": {"aggregator": rule}}))
        for _ in range(3):
            state, record = play(state, world)
            if rule == "lfighter":
                assert record["flagged"] == record["malicious"]
        success[rule] = record["target_success"]
    assert success["lfighter"] < 0.1
    assert success["lfighter"] <= success["mean"]


# ---- what both owe, at the edges


@pytest.mark.parametrize("rule", ["lasa", "lfighter"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_the_edges_a_layer_rule_stays_finite_and_the_same(rule: str, dtype: torch.dtype) -> None:
    for n, bad in ((1, 0), (1, 1), (2, 0), (2, 1), (3, 1), (3, 3), (9, 0), (9, 4)):
        for large in (0.0, 1e-30, 1e30):
            matrix = rows(n, dtype=dtype)
            matrix[:bad] *= large
            matrix[: bad // 2] = matrix[0].clone()
            verdict = aggregate(rule, matrix, layers=LAYERS)
            assert not verdict.skipped
            assert verdict.update.isfinite().all()
            assert torch.equal(aggregate(rule, matrix, layers=LAYERS).update, verdict.update)
        assert aggregate(rule, torch.zeros(n, D, dtype=dtype), layers=LAYERS).update.abs().max() == 0
    for n in (1, 2, 3, 9):
        row = rows(1, dtype=dtype)
        torch.testing.assert_close(
            aggregate(rule, row.repeat(n, 1), layers=LAYERS).update,
            aggregate(rule, row, layers=LAYERS).update,
        )
