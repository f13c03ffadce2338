"""Labels held against those of the nearest samples."""

import torch

from fedpoison.contract.registry import sanitizer
from fedpoison.types import Cleaned, Count, Features, Labels


@sanitizer(
    source="secondary: implementations of Wilson's editing (1972) and of the deep k-NN defence of Peri et al. (2020)",
    evidence="tests/clients/test_sanitizers.py::test_knn_labels_by_hand",
)
def knn_labels(
    features: Features, labels: Labels, n_classes: int, *, k: Count = 10, spare_rare: bool = True
) -> Cleaned:
    """Take out a sample if more of its k nearest have some other label than its own.

    Nearest by Euclidean distance of the features, the sample itself left out by its place; of equally near ones the
    earlier. A tie of its own label with others keeps it. Wilson has k = 3; Peri et al. at least twice the poison that
    is expected of a class, and let only an absolute majority keep a sample. `spare_rare`: classes with no more than
    k/2 samples, which can be outvoted by any, are left alone. Relabelling in place of taking out (Paudice et al. 2018)
    is not built.
    """
    n, nearest = len(labels), min(k, len(labels) - 1)
    if nearest < 1 or not features.isfinite().all() or (features == features[0]).all():
        return Cleaned(torch.ones(n, dtype=torch.bool), torch.zeros(n))
    distances = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    distances.fill_diagonal_(torch.inf)
    neighbours = distances.argsort(dim=1, stable=True)[:, :nearest]
    votes = torch.zeros(n, n_classes).scatter_add_(1, labels[neighbours], torch.ones(n, nearest))
    own = votes[torch.arange(n), labels]
    keep = own >= votes.amax(dim=1)
    if spare_rare:
        keep |= torch.bincount(labels, minlength=n_classes)[labels] <= nearest / 2
    return Cleaned(keep, 1 - own / nearest)
