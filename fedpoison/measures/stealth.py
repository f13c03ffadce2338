"""How well detectors of poisoned data tell the poisoned samples from the clean ones.

Each detector gives every sample a score, the higher the more suspect. All look at the features [N, d] of all clients'
samples together, which in a federation nobody holds.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fedpoison.common.parallel import in_parallel
from fedpoison.linalg.principal import principal, whitened
from fedpoison.linalg.ranking import auroc
from fedpoison.models.features import features
from fedpoison.types import Images, Labels

Features = Float[Tensor, "samples d"]
Scores = Float[Tensor, " samples"]

_CHUNK = 500
_FEWEST = 4
"""Samples of a class without which there is nothing to find in it."""


class Clusters(NamedTuple):
    """Scores [N] of activation clustering, and for each class the silhouette of its two clusters (None: too few)."""

    scores: Tensor
    silhouettes: list[float | None]


def stealth(features: Features, labels: Labels, poisoned: Bool[Tensor, " samples"]) -> dict[str, float | None]:
    """The AUROC of each detector, by its name: 1 finds all poisoned samples (a mask [N]) first, .5 is guessing.

    `labels`: those that the samples are trained with. None where all samples or none are poisoned.
    """
    scores = {
        "knn_disagreement": knn_disagreement(features, labels),
        "spectral_signatures": spectral_signatures(features, labels),
        "activation_clustering": activation_clustering(features, labels).scores,
    }
    return {name: auroc(score, poisoned) for name, score in scores.items()}


def knn_disagreement(features: Features, labels: Labels, k: int = 10) -> Scores:
    """The share of a sample's k nearest other samples, by Euclidean distance, whose label is another.

    What nearest-neighbour sanitisation goes by (Paudice et al. 2018, arXiv:1803.00992, who relabel such samples). Of
    samples that are equally far any may count.
    """
    k = min(k, len(labels) - 1)
    if not k:
        return torch.zeros(len(labels))
    square = (features**2).sum(dim=1)

    def one(chunk: Tensor) -> Tensor:
        distances = square - 2 * features[chunk] @ features.T  # less what is the same for all of a row
        distances[torch.arange(len(chunk)), chunk] = torch.inf
        nearest = distances.topk(k, largest=False).indices
        return (labels[nearest] != labels[chunk].unsqueeze(1)).float().mean(dim=1)

    return torch.cat(list(in_parallel(one, torch.arange(len(labels)).split(_CHUNK))))


def spectral_signatures(features: Features, labels: Labels) -> Scores:
    """How far a sample is out along the direction in which its class is spread most: (⟨x − mean, v⟩)².

    Tran et al. 2018 (arXiv:1811.00636), Algorithm 1; v is the top right singular vector of the centred features of all
    samples with the label. The paper removes a class's highest 1.5 ε; here scores of all classes are compared.
    """
    scores = torch.zeros(len(labels))
    for _, members in _classes(labels):
        projections, _ = principal(features[members], 1)
        scores[members] = projections[:, 0].square().float()
    return scores


def activation_clustering(features: Features, labels: Labels, components: int = 10) -> Clusters:
    """1 for the samples of a class that are in the smaller of its two clusters, 0 for the rest (and for a tie).

    Chen et al. 2018 (arXiv:1811.03728): per class, reduce, then 2-means; a small cluster that is well parted is
    suspect. They reduce to ten independent components, which are ten whitened principal ones but for a rotation;
    neither 2-means nor the silhouette (of at most 1,000 samples here) depends on it, so it is left out.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    scores = torch.zeros(len(labels))
    silhouettes: list[float | None] = [None] * (int(labels.max()) + 1)
    for label, members in _classes(labels):
        reduced = whitened(features[members], components)
        if not reduced.shape[1] or len(reduced.unique(dim=0)) < 3:
            continue
        found = KMeans(2, n_init=10, random_state=0).fit_predict(reduced.numpy())
        sizes = [int((found == c).sum()) for c in (0, 1)]
        silhouettes[label] = float(silhouette_score(reduced.numpy(), found, sample_size=1000, random_state=0))
        if sizes[0] != sizes[1]:
            scores[members] = torch.from_numpy(found == (sizes[1] < sizes[0])).float()
    return Clusters(scores, silhouettes)


@torch.no_grad()
def last_features(net: nn.Module, images: Images) -> Features:
    """What the last linear layer of a net is given, for each of the images; ValueError if there is no such layer."""
    return torch.cat([features(net, chunk).flatten(1) for chunk in images.split(_CHUNK)])


def raw_features(images: Images, vocabulary: int | None = None) -> Features:
    """The values of the samples as they are; for tokens, how often each of the vocabulary occurs."""
    if vocabulary is None:
        return images.flatten(1)
    return torch.zeros(len(images), vocabulary).scatter_add_(1, images, torch.ones(images.shape))


def _classes(labels: Labels) -> list[tuple[int, Tensor]]:
    """Each class that has samples enough, and which they are."""
    members = [(int(label), (labels == label).nonzero().flatten()) for label in labels.unique()]
    return [(label, places) for label, places in members if len(places) >= _FEWEST]
