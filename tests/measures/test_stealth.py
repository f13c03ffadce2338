"""Detectors of poisoned data: what they find in examples made by hand, held against their definitions."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import FastICA
from sklearn.metrics import roc_auc_score, silhouette_score
from torch import Tensor, nn

from fedpoison.linalg.ranking import auroc
from fedpoison.measures.stealth import (
    activation_clustering,
    knn_disagreement,
    last_features,
    raw_features,
    spectral_signatures,
    stealth,
)


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clouds(seed: int = 0, width: int = 12) -> tuple[Tensor, Tensor]:
    """Three classes of 100 samples in so many dimensions, far apart."""
    labels = torch.arange(300) % 3
    return torch.randn(300, width, generator=drawn(seed)) + 20 * torch.eye(width)[labels], labels


def test_auroc_is_that_of_scikit_learn_with_ties_and_without() -> None:
    for seed in range(5):
        scores = torch.randint(0, 6, (80,), generator=drawn(seed)).double()
        positive = torch.rand(80, generator=drawn(seed + 9)) < 0.3
        assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
    assert auroc(torch.ones(6), torch.arange(6) < 2) == 0.5
    assert auroc(torch.arange(6), torch.arange(6) >= 4) == 1
    assert auroc(torch.ones(6), torch.zeros(6, dtype=torch.bool)) is None
    assert auroc(torch.ones(6), torch.ones(6, dtype=torch.bool)) is None


def test_a_planted_direction_is_found_by_all() -> None:
    features, labels = clouds(width=4)
    poisoned = torch.arange(300) < 30
    features[poisoned] += 40 * torch.eye(4)[3]
    found = stealth(features, labels, poisoned)
    assert found["spectral_signatures"] == 1
    assert found["activation_clustering"] == 1
    assert list(found) == ["knn_disagreement", "spectral_signatures", "activation_clustering"]
    assert stealth(features, labels, torch.zeros(300, dtype=torch.bool)) == dict.fromkeys(found)


def test_wrong_labels_among_another_class_are_found_by_the_neighbours() -> None:
    features, labels = clouds()
    flipped = torch.arange(300) < 30
    wrong = torch.where(flipped, (labels + 1) % 3, labels)
    assert stealth(features, wrong, flipped)["knn_disagreement"] == 1


def test_what_was_poisoned_at_random_is_guessed() -> None:
    rates = []
    for seed in range(10):
        features, labels = clouds(seed)
        rates.append(stealth(features, labels, torch.rand(300, generator=drawn(seed + 50)) < 0.3))
    for name in rates[0]:
        values = [rate[name] for rate in rates]
        assert np.mean([value for value in values if value is not None]) == pytest.approx(0.5, abs=0.05)


def test_neighbours_disagree_by_the_definition() -> None:
    features = torch.randn(40, 3, generator=drawn())
    labels = torch.randint(0, 3, (40,), generator=drawn(1))
    expected = []
    for i in range(40):
        others = sorted((j for j in range(40) if j != i), key=lambda j: float((features[i] - features[j]).norm()))
        expected.append(sum(bool(labels[j] != labels[i]) for j in others[:5]) / 5)
    assert knn_disagreement(features, labels, 5).tolist() == pytest.approx(expected)
    few = knn_disagreement(torch.tensor([[0.0], [1.0], [1.5]]), torch.tensor([0, 0, 1]))
    assert few.tolist() == [0.5, 0.5, 1.0]
    assert knn_disagreement(torch.zeros(1, 2), torch.tensor([0])).tolist() == [0]


@pytest.mark.parametrize("width", [3, 60])
def test_spectral_signatures_are_those_of_numpys_svd(width: int) -> None:
    features = torch.randn(50, width, generator=drawn()) * torch.arange(1, width + 1)
    labels = torch.arange(50) % 2
    scores = spectral_signatures(features, labels).numpy()
    for label in (0, 1):
        rows = features[labels == label].double().numpy()
        centred = rows - rows.mean(axis=0)
        direction = np.linalg.svd(centred)[2][0]
        np.testing.assert_allclose(scores[labels == label], (centred @ direction) ** 2, rtol=1e-5, atol=1e-5)


def test_clusters_are_those_of_independent_components() -> None:
    labels = torch.arange(300) % 3
    features = torch.randn(300, 20, generator=drawn()) ** 3 @ torch.randn(20, 20, generator=drawn(1))
    made = activation_clustering(features, labels)
    for label in range(3):
        rows = features[labels == label].numpy()
        sources = FastICA(10, whiten="unit-variance", random_state=0, max_iter=2000, tol=1e-3).fit_transform(rows)
        found = KMeans(2, n_init=10, random_state=0).fit_predict(sources)
        smaller = found == np.bincount(found).argmin()
        assert 0 < smaller.sum() < 50
        assert made.scores[labels == label].bool().tolist() == smaller.tolist()
        assert made.silhouettes[label] == pytest.approx(silhouette_score(sources, found), rel=1e-3)


def test_where_there_is_nothing_to_find_nobody_is_suspect() -> None:
    same, labels = torch.ones(20, 5), torch.arange(20) % 2
    assert not spectral_signatures(same, labels).any()
    made = activation_clustering(same, labels)
    assert not made.scores.any()
    assert made.silhouettes == [None, None]
    single = torch.tensor([0, 1, 2])  # a sample a class
    assert not spectral_signatures(torch.rand(3, 5), single).any()
    halves = torch.cat([torch.zeros(10, 2), torch.ones(10, 2)]) + 1e-3 * torch.rand(20, 2, generator=drawn())
    assert not activation_clustering(halves, torch.zeros(20, dtype=torch.int64)).scores.any()  # ten and ten: a tie


def test_features_are_what_the_last_linear_layer_sees() -> None:
    front = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU())
    net = nn.Sequential(front, nn.Linear(3, 2)).eval()
    images = torch.rand(1203, 1, 2, 2, generator=drawn())
    assert torch.allclose(last_features(net, images), front(images))
    assert not net[1]._forward_pre_hooks
    with pytest.raises(ValueError, match="this Flatten has none"):
        last_features(nn.Flatten(), images)


def test_raw_features_are_the_values_or_the_counts_of_tokens() -> None:
    images = torch.rand(3, 1, 2, 2)
    assert torch.equal(raw_features(images), images.reshape(3, 4))
    assert raw_features(torch.tensor([[0, 2, 2], [1, 1, 1]]), 4).tolist() == [[1, 0, 2, 0], [0, 3, 0, 0]]
