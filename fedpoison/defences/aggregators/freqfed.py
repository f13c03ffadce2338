"""FreqFed: compare the low frequencies of the clients' models."""

import math

import torch
from torch import Tensor

from fedpoison.contract.registry import aggregator
from fedpoison.linalg.angles import cosines
from fedpoison.linalg.blocks import of_each
from fedpoison.types import Count, Layer, Params, Share, Updates, Weights


@aggregator(
    paper="arXiv:2312.04432",
    source="secondary: the abstract (read), two descriptions of the paper and other implementations, which differ",
    evidence="tests/defences/test_detection_rules.py::test_freqfed_equals_its_definition",
    needs="min_cluster_size is None or 2 <= min_cluster_size <= n",
    decides=True,
    claims=("permutation", "unanimity"),
    withstands="nothing",
)
def freqfed(
    updates: Updates,
    params: Params,
    layers: tuple[Layer, ...],
    *,
    share: Share = 0.5,
    min_cluster_size: Count | None = None,
) -> Weights:
    """Average the largest cluster of models, clustered by the cosine distances of their low frequencies.

    Fereidooni et al. 2024: the weights of each client's model (not its update) are transformed by a discrete cosine
    transform (DCT-II), layer by layer as matrices V, of which k + l ≤ |V|/2 is kept; HDBSCAN clusters all that is kept
    by cosine distance. What |V| is where V is not square is not known: here a layer of h × w keeps k/h + l/w ≤ `share`
    (a filter's taps are a row, a bias is one row). Nor is what HDBSCAN is told: a cluster is a majority unless
    given, a single one is allowed, one neighbour makes a core point. So a round without attackers loses up to half of
    the clients. If there is no cluster, everybody counts. Lengths of updates are not looked at.
    """
    n = len(updates)
    features = low_frequencies(updates, params, layers, share)
    kept = _largest_cluster(1 - cosines(features), min_cluster_size or n // 2 + 1)
    return kept.double() / kept.sum()


def low_frequencies(updates: Updates, params: Params, layers: tuple[Layer, ...], share: float) -> Tensor:
    """The coefficients of each client's model that are kept, in float64 [n, k]."""
    from scipy.fft import dctn  # slow to import

    layers = tuple(layer for layer in layers if math.prod(layer.shape))  # an empty one has no frequencies
    shapes = [(layer.shape[0] if len(layer.shape) > 1 else 1, -1) for layer in layers]

    def one(row: Tensor) -> Tensor:
        model = params.double() + row.double()
        matrices = [model[layer.columns].reshape(shape).numpy() for layer, shape in zip(layers, shapes, strict=True)]
        spectra = (torch.from_numpy(dctn(matrix, norm="ortho")) for matrix in matrices)
        return torch.cat([spectrum[_is_low(spectrum.shape, share)] for spectrum in spectra])

    return torch.stack(of_each(one, updates.unbind()))


def _is_low(shape: torch.Size, share: float) -> Tensor:
    h, w = shape
    return torch.arange(h).unsqueeze(1) * w + torch.arange(w) * h <= share * h * w


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
