"""Sanitizers by values that were computed elsewhere, by their definitions, and on what they are for."""

import math
from typing import Any

import pytest
import torch
from sklearn.ensemble import IsolationForest
from torch import Tensor

from fedpoison.clients.sanitizers.activation_clustering import activation_clustering
from fedpoison.clients.sanitizers.classes import largest
from fedpoison.clients.sanitizers.confident_learning import confident_learning
from fedpoison.clients.sanitizers.duplicates import average_hash, difference_hash, duplicates
from fedpoison.clients.sanitizers.isolation_forest import isolation_forest
from fedpoison.clients.sanitizers.local_outlier_factor import local_outlier_factor
from fedpoison.clients.sanitizers.loss_trimming import loss_trimming
from fedpoison.clients.sanitizers.mahalanobis import mahalanobis
from fedpoison.clients.sanitizers.spectral_signatures import spectral_signatures
from fedpoison.common.rounding import down
from fedpoison.types import Cleaned


def out(cleaned: Cleaned) -> list[int]:
    return (~cleaned.keep).nonzero().flatten().tolist()


def silent(text: str) -> None:
    pass


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def one_class(rows: Any) -> tuple[Tensor, Tensor]:
    rows = torch.tensor(rows, dtype=torch.float64)
    return rows, torch.zeros(len(rows), dtype=torch.int64)


def close(got: Tensor, wanted: Any, atol: float = 1e-5) -> None:
    torch.testing.assert_close(got, torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=atol)


# loss_trimming

LOSSES = torch.tensor([0.1, 2.3, 0.4, 0.4, 1.9, 0.05])


def test_loss_trimming_by_hand() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    assert out(loss_trimming(LOSSES, labels, keep=0.7)) == [1, 4]
    assert out(loss_trimming(LOSSES, labels, keep=0.5)) == [1, 3, 4]  # of equal losses the earlier
    assert out(loss_trimming(LOSSES, labels, keep=1.0)) == out(loss_trimming(LOSSES, labels, keep=0.1)) == []
    assert out(loss_trimming(LOSSES, labels, keep=0.4, per_class=True)) == [1, 2, 3, 4]
    wrong = LOSSES.index_fill(0, torch.tensor([0]), torch.nan)
    assert out(loss_trimming(wrong, labels, keep=0.7)) == [0, 1]
    assert out(loss_trimming(torch.arange(10.0), torch.zeros(10).long(), keep=0.3)) == [
        3,
        4,
        5,
        6,
        7,
        8,
        9,
    ]  # 0.3 · 10 is 3


def test_loss_trimming_turn_by_turn_finds_the_mean_of_the_good() -> None:
    samples, mean = torch.tensor([1, 1.2, 0.8, 1.1, 9, 10]), []
    kept = torch.ones(6, dtype=torch.bool)
    for _ in range(3):
        mean.append(float(samples[kept].mean()))
        kept = loss_trimming((samples - mean[-1]) ** 2, torch.zeros(6).long(), keep=2 / 3).keep
    assert mean == pytest.approx([3.85, 1.025, 1.025])


# spectral_signatures

SPREAD = one_class([(4, 0), (4.2, 0.1), (3.8, -0.1), (5, 0), (3, 0), (1, 0)])


def test_spectral_signatures_by_hand() -> None:
    cleaned = spectral_signatures(*SPREAD, silent, share=1 / 6)
    close(cleaned.suspicion, [0.25000, 0.49058, 0.08975, 2.24996, 0.25000, 6.24989])
    assert out(cleaned) == [5]  # of what is not centred it would be 3
    assert out(spectral_signatures(*SPREAD, silent, share=1 / 3)) == [1, 3, 5]
    assert out(spectral_signatures(*SPREAD, silent, share=1.0)) == [0, 1, 3, 4, 5]  # never all


def test_spectral_signatures_leaves_alone_of_which_it_would_take_less_than_one_or_has_no_direction() -> None:
    said: list[str] = []
    rows = torch.randn(13, 3, generator=drawn()).double()
    assert out(spectral_signatures(rows, torch.zeros(13).long(), said.append)) == []
    assert said == ["too few samples, or nothing to tell them apart by, in classes 0: left alone"]
    assert len(out(spectral_signatures(torch.cat([rows, rows[:1] + 5]), torch.zeros(14).long(), said.append))) == 1
    cross = one_class([(1, 0), (-1, 0), (0, 1), (0, -1)])
    assert out(spectral_signatures(*cross, said.append, share=0.5)) == []
    assert len(said) == 2


# activation_clustering

PARTED = one_class([(0, 0), (0, 1), (1, 0), (1, 1), (0.5, 0.5), (0, 0.5), (6, 6), (6, 7)])


def clustered(rows: Tensor, labels: Tensor, **options: Any) -> Cleaned:
    return activation_clustering(rows, labels, drawn(), silent, fewest=1, **options)


def test_activation_clustering_by_hand() -> None:
    cleaned = clustered(*PARTED, components=2, whiten=False)
    assert out(cleaned) == out(clustered(*PARTED, components=2)) == [6, 7]
    silhouettes = torch.where(cleaned.keep, -cleaned.suspicion, cleaned.suspicion)
    assert float(silhouettes.mean()) == pytest.approx(0.887497, abs=1e-6)
    assert out(clustered(*PARTED, components=2, whiten=False, silhouette=0.88)) == [6, 7]
    assert out(clustered(*PARTED, components=2, whiten=False, silhouette=0.89)) == []
    assert out(clustered(*PARTED, components=2, whiten=False, silhouette=0.89, by="size")) == [6, 7]
    assert out(clustered(*PARTED, share=0.25)) == []  # the share has to be smaller
    assert out(activation_clustering(*PARTED, drawn(), silent)) == []  # eight are too few


def test_activation_clustering_leaves_halves_and_what_has_one_style_alone() -> None:
    halves = one_class([(i % 2 * 10, i / 10) for i in range(12)])
    assert out(clustered(*halves)) == []
    rows = torch.randn(60, 8, generator=drawn(1)).double()
    assert out(clustered(rows, torch.zeros(60).long(), whiten=False, silhouette=0.25)) == []


# isolation_forest, local_outlier_factor, mahalanobis


def test_isolation_forest_scores_by_the_depths_of_its_trees() -> None:
    def c(m: float) -> float:
        return 0.0 if m < 2 else 1.0 if m == 2 else 2 * (math.log(m - 1) + 0.5772156649) - 2 * (m - 1) / m

    assert c(256) == pytest.approx(10.244771, abs=1e-6)
    rows = torch.randn(40, 3, generator=drawn(2)).double()
    rows[7] = 9
    cleaned = isolation_forest(rows, torch.zeros(40).long(), drawn(), silent, trees=20)
    seed = int(torch.randint(2**31, (), generator=drawn()))
    depths = torch.zeros(40)
    for tree in IsolationForest(n_estimators=20, random_state=seed).fit(rows.numpy()).estimators_:
        leaves = tree.apply(rows.numpy())
        edges = torch.from_numpy(tree.decision_path(rows.numpy()).sum(axis=1)).flatten() - 1
        depths += edges + torch.tensor([c(tree.tree_.n_node_samples[leaf]) for leaf in leaves])
    close(cleaned.suspicion, (2 ** (-depths / 20 / c(40))).tolist())
    assert int(cleaned.suspicion.argmax()) == 7
    assert torch.equal(cleaned.keep, cleaned.suspicion <= 0.5)
    half = isolation_forest(rows, torch.zeros(40).long(), drawn(), silent, trees=20, contamination=0.05)
    assert len(out(half)) == 2
    assert out(isolation_forest(rows[:15], torch.zeros(15).long(), drawn(), silent)) == []  # too few


def test_local_outlier_factor_by_hand() -> None:
    line = one_class([[0], [1], [2], [3], [10]])
    cleaned = local_outlier_factor(*line, silent, k=2)
    close(cleaned.suspicion, [1, 1, 1, 1, 5])
    assert out(cleaned) == [4]
    few, many = (local_outlier_factor(*line, silent, k=k) for k in (4, 100))
    assert torch.equal(few.suspicion, many.suspicion)
    assert out(local_outlier_factor(line[0][:4], line[1][:4], silent, k=2)) == []  # too few


CROWD = one_class([(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (0, 1), (1, 0), (5, 0)])


def test_mahalanobis_by_hand() -> None:
    squares = [2.05604, 0.58286, 0.06456, 0.50114, 1.89261, 4.23895, 1.60209, 1.21127, 4.13183]
    close(mahalanobis(*CROWD, silent).suspicion, squares)
    # median 1.60209, median deviation 1.01926: 4.23895 is 1.745 off, 4.13183 1.674
    assert out(mahalanobis(*CROWD, silent, threshold=1.7)) == [5]
    assert out(mahalanobis(*CROWD, silent, threshold=1.6)) == [5, 8]
    assert out(mahalanobis(*CROWD, silent)) == []
    assert out(mahalanobis(*CROWD, silent, share=0.12)) == [5]
    assert out(mahalanobis(*CROWD, silent, share=0.1)) == []
    assert out(mahalanobis(*CROWD, silent, share=1.0)) == [0, 1, 3, 4, 5, 6, 7, 8]


def test_mahalanobis_tells_samples_apart_where_there_are_more_features() -> None:
    rows = torch.randn(12, 30, generator=drawn(3)).double()
    rows[4] *= 6
    cleaned = mahalanobis(rows, torch.zeros(12).long(), silent)  # by the plain covariance all would be 11 off
    assert out(cleaned) == [4]


# confident_learning

P = [(44, 11, 45), (17, 44, 39), (24, 47, 29), (50, 10, 40), (41, 29, 30), (30, 30, 40), (14, 36, 50), (33, 17, 50)]
P += [(32, 32, 36), (36, 7, 57), (36, 32, 32)]
GIVEN = torch.tensor([0] * 4 + [1] * 4 + [2] * 3)
WAYS = {
    "prune_by_noise_rate": [1, 2, 6, 7, 10],
    "prune_by_class": [0, 1, 2, 4, 5, 7, 10],
    "both": [1, 2, 7, 10],
    "confident_learning": [0, 1, 2, 4, 6, 7, 10],
    "predicted_neq_given": [0, 1, 2, 4, 5, 6, 7, 10],
}


def doubted(p: Tensor, labels: Tensor, **options: Any) -> Cleaned:
    logits = p.log()
    return confident_learning(logits, logits, labels, drawn(), silent, probabilities="model", **options)


@pytest.mark.parametrize("by", WAYS)
def test_confident_learning_by_hand(by: Any) -> None:
    p = torch.tensor(P, dtype=torch.float64) / 100
    assert out(doubted(p, GIVEN, by=by)) == WAYS[by]
    one = torch.tensor([0.1, 0.2, 0.1, 0.9, 0.45, 0.9, 0.8, 0.3], dtype=torch.float64)
    second = torch.stack([1 - one, one], dim=1)
    assert out(doubted(second, torch.tensor([0] * 5 + [1] * 3), by=by)) == [3, 7]


def test_confident_learning_says_how_much_likelier_another_class_is() -> None:
    p = torch.tensor(P, dtype=torch.float64) / 100
    close(doubted(p, GIVEN).suspicion[:3], [0.01, 0.27, 0.23])


def test_confident_learning_leaves_alone_what_has_no_folds() -> None:
    p = torch.tensor(P, dtype=torch.float64) / 100
    labels = torch.tensor([0] * 4 + [1] * 4 + [2, 1, 0])  # of class 2 one sample: the others are judged without it
    assert out(doubted(p, labels))
    assert 8 not in out(doubted(p, labels, by="predicted_neq_given"))
    assert out(doubted(p[:3], torch.tensor([0, 1, 2]))) == []
    assert out(doubted(p, torch.zeros(11).long())) == []


def test_confident_learning_finds_flipped_labels_by_samples_it_was_not_fitted_on() -> None:
    true = torch.arange(60) % 3
    rows = (torch.randn(60, 4, generator=drawn(6)) + 8 * torch.eye(4)[true]).double()
    labels = true.clone()
    labels[::10] = (labels[::10] + 1) % 3
    cleaned = confident_learning(rows, torch.zeros(60, 3).double(), labels, drawn(), silent)
    assert out(cleaned) == [*range(0, 60, 10)]


# duplicates


def test_duplicates_by_hand() -> None:
    rows = torch.tensor([(1, 2, 3), (2, 4, 6), (1, 2, 3.1), (3, 0, -1), (1, 2, 3)])  # cosines 1, .999878, 0
    same = torch.zeros(5).long()
    assert out(duplicates(rows, same, silent)) == [4]
    assert out(duplicates(rows, torch.tensor([0, 0, 0, 0, 1]), silent)) == [0, 4]  # one under two labels
    assert out(duplicates(rows, same, silent, by="cosine")) == [1, 2, 4]
    assert out(duplicates(rows, same, silent, by="cosine", similarity=0.99999)) == [1, 4]
    cleaned = duplicates(rows, torch.tensor([0, 0, 1, 0, 0]), silent, by="cosine")
    assert out(cleaned) == [0, 1, 2, 4]
    assert cleaned.suspicion.tolist() == [3, 3, 3, 0, 3]
    blank = torch.zeros(2, 3)
    blank[1, 0] = -0.0  # other bytes, and no direction
    assert out(duplicates(blank, same[:2], silent, by="cosine")) == []


def test_hashes_by_hand() -> None:
    grey = torch.tensor([[[10, 200], [30, 90]], [[17, 207], [37, 97]], [[255, 200], [30, 90]]]).double()
    assert average_hash(grey).long().tolist() == [[0, 1, 0, 1], [0, 1, 0, 1], [1, 1, 0, 0]]
    assert difference_hash(grey).long().tolist() == [[1, 1], [1, 1], [0, 1]]


@pytest.mark.parametrize("by", ["average_hash", "difference_hash"])
def test_hashes_find_what_looks_alike(by: Any) -> None:
    pictures = torch.rand(6, 3, 16, 18, generator=drawn(4))
    pictures[1] = pictures[0] * 0.9 + 0.05
    pictures[2] = pictures[0]
    pictures[2, :, :2, :2] = 1 - pictures[2, :, :2, :2]
    pictures[3] = 0.5
    pictures[4] = 0.25  # blank as well: the two have no hash
    labels = torch.zeros(6).long()
    assert out(duplicates(pictures, labels, silent, by=by)) == [1, 2]
    assert out(duplicates(pictures, labels, silent, by=by, distance=64)) == [1, 2, 5]
    assert out(duplicates(pictures, labels, silent)) == []


def test_duplicates_says_where_it_can_compare_bytes_alone() -> None:
    said: list[str] = []
    tokens, same = torch.tensor([[1, 2], [2, 4], [1, 2]]), torch.zeros(3).long()
    for by in ("cosine", "average_hash"):
        assert out(duplicates(tokens, same, said.append, by=by)) == [2]  # type: ignore[arg-type]
    assert said == [
        "cosine is for numbers, which these are not: bytes are compared",
        "average_hash is for pictures, which these are not: bytes are compared",
    ]


# What they share


def test_shares_are_rounded_down_and_never_all_is_taken() -> None:
    assert [down(share * n) for share, n in ((0.1, 29), (0.1, 30), (0.29, 100), (0.0, 5))] == [2, 3, 29, 0]
    assert largest(torch.tensor([1.0, 3, 3, 2]), 2).tolist() == [False, True, True, False]
    assert largest(torch.tensor([3.0, 3, 3, 2]), 2).tolist() == [True, True, False, False]
    assert largest(torch.ones(3), 7).tolist() == [True, True, False]
