"""SignGuard: filter by norm and by how many coordinates are positive, zero and negative."""

import warnings
from typing import Literal

import torch
from torch import Tensor

from fedpoison.common.rounding import half_up
from fedpoison.contract.registry import aggregator
from fedpoison.linalg.angles import cosines, cosines_to
from fedpoison.linalg.blocks import row_norms
from fedpoison.linalg.gram import geometry
from fedpoison.linalg.sorting import middle
from fedpoison.types import Norms, NotNegative, Positive, Share, Update, Updates, Weights


@aggregator(
    paper="arXiv:2109.05872",
    source="secondary: the authors' code",
    evidence="tests/defences/test_detection_rules.py::test_signguard_equals_its_definition",
    decides=True,
    references=("origin",),
    claims=("unanimity",),
)
def signguard(
    updates: Updates,
    norms: Norms,
    previous: Update,
    rng: torch.Generator,
    *,
    variant: Literal["plain", "sim", "dist"] = "plain",
    lower: NotNegative = 0.1,
    upper: Positive = 3.0,
    share: Share = 0.1,
) -> Weights:
    """Average, clipped to the median norm, the updates of usual length whose signs are in the largest cluster.

    Xu et al. 2022: a norm is usual from `lower` to `upper` times the median one. On a random `share` of the
    coordinates (one run of them in the authors' code) the shares of positive, zero and negative values, each divided
    by the clients' largest, are clustered by mean shift. SignGuard-Sim adds the cosine and SignGuard-Dist the distance
    to the last aggregate, at first to the other clients, coded as the authors do. If both filters leave nobody,
    everybody counts, clipped. The bandwidth is the mean distance to the n/2 nearest; fewer than four clients are not
    clustered; of clusters of one size the clients' order decides. Who has honest length and signs passes.
    """
    d = updates.shape[1]
    median = middle(norms)
    chosen = torch.randperm(d, generator=rng)[: max(1, half_up(share * d))].sort().values
    features = sign_statistics(updates[:, chosen])
    if variant != "plain":
        compare = _similarity if variant == "sim" else _remoteness
        features = torch.cat([features, compare(updates, previous).unsqueeze(1)], dim=1)
    kept = (norms >= lower * median) & (norms <= upper * median) & largest_cluster(features)
    kept = kept if kept.any() else ~kept
    weights = torch.where(norms > median, median / norms, 1.0) * kept / kept.sum()
    return torch.cat([weights, 1 - weights.sum().unsqueeze(0)])


def sign_statistics(part: Updates) -> Tensor:
    """The shares of positive, zero and negative values, each divided by the largest among the clients [n, 3]."""
    signs = part.sign()
    shares = torch.stack([(signs == sign).double().mean(dim=1) for sign in (1, 0, -1)], dim=1)
    return shares / shares.amax(dim=0).clamp(min=torch.finfo(torch.float64).tiny)


def _similarity(updates: Updates, previous: Update) -> Tensor:
    if previous.any():
        similar = cosines_to(previous, updates)
    else:
        similar = cosines(updates).fill_diagonal_(0).quantile(0.5, dim=1)
    median = middle(similar).clamp(min=0)
    return similar.clamp(min=0).minimum(median) / (5 * median) if median > 0 else torch.zeros_like(similar)


def _remoteness(updates: Updates, previous: Update) -> Tensor:
    if previous.any():
        remote = row_norms(updates - previous)
    else:
        nearest = geometry(updates)[1].sqrt().sort(dim=1).values
        remote = nearest[:, : len(updates) // 2].sum(dim=1)
    return (remote >= 1.1 * middle(remote)).double() / 5


def largest_cluster(features: Tensor) -> Tensor:
    """Who is in the largest cluster that mean shift finds [n], bool."""
    from sklearn.cluster import MeanShift  # slow to import

    if (n := len(features)) < 4:
        return torch.ones(n, dtype=torch.bool)
    distances = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    bandwidth = float(distances.kthvalue(n // 2, dim=1).values.mean())
    if bandwidth == 0:  # everybody has n/2 − 1 doubles: at most two groups
        counts = (distances == 0).sum(dim=1)
        return distances[counts.argmax()] == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells when it starts from the clients: as many bins as clients
        found = MeanShift(bandwidth=bandwidth, bin_seeding=True, cluster_all=False).fit(features.numpy())
    labels = torch.from_numpy(found.labels_)
    return labels == labels[labels >= 0].bincount().argmax()
