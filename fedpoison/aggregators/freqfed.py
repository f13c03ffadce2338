"""FreqFed: compare the low frequencies of the clients' models."""

import torch
from torch import Tensor

from fedpoison.linalg.angles import cosines
from fedpoison.parallel import in_parallel
from fedpoison.registry import aggregator
from fedpoison.types import Count, Params, Share, Updates, Weights


@aggregator(
    paper="arXiv:2312.04432",
    source="secondary: the abstract (read), two descriptions of the paper and other implementations, which differ",
    evidence="tests/unit/test_detection_rules.py::test_freqfed_equals_its_definition",
    needs="min_cluster_size is None or 2 <= min_cluster_size <= n",
    decides=True,
    claims=("permutation", "unanimity"),
)
def freqfed(updates: Updates, params: Params, *, share: Share = 0.5, min_cluster_size: Count | None = None) -> Weights:
    """Average the largest cluster of models, clustered by the cosine distances of their low frequencies.

    Fereidooni et al. 2024: the weights of each client's model (not its update) are transformed by a discrete cosine
    transform (DCT-II), the low frequencies are kept, HDBSCAN clusters them by cosine distance. The paper takes a
    matrix V and keeps k + l ≤ |V|/2; a rule does not see the layers' shapes, so here the transform is along the whole
    parameter vector and keeps the first `share` of it. What HDBSCAN is told is not known: a cluster is a majority
    unless given, single ones are allowed, one neighbour makes a core point. So a round without attackers loses up to
    half of the clients. If there is no cluster, everybody counts. Lengths of updates are not looked at.
    """
    n = len(updates)
    kept = _largest_cluster(1 - cosines(low_frequencies(updates, params, share)), min_cluster_size or n // 2 + 1)
    return kept.double() / kept.sum()


def low_frequencies(updates: Updates, params: Params, share: float) -> Tensor:
    """The first coefficients of each client's model, index 0 to ⌊share · d⌋ [n, k], float64."""
    from scipy.fft import dct  # slow to import

    model = params.double()
    count = min(len(model), int(share * len(model)) + 1)

    def one(row: Tensor) -> Tensor:
        return torch.from_numpy(dct((model + row.double()).numpy(), norm="ortho")[:count])

    return torch.stack(list(in_parallel(one, updates.unbind())))


def _largest_cluster(distances: Tensor, smallest: int) -> Tensor:
    from sklearn.cluster import HDBSCAN  # slow to import

    n = len(distances)
    if n < 2:
        return torch.ones(n, dtype=torch.bool)
    clusters = HDBSCAN(
        metric="precomputed", min_cluster_size=smallest, min_samples=1, allow_single_cluster=True, copy=True
    )
    labels = torch.from_numpy(clusters.fit(distances.clone().fill_diagonal_(0).numpy()).labels_)
    if (labels < 0).all():
        return torch.ones(n, dtype=torch.bool)
    return labels == labels[labels >= 0].bincount().argmax()
