"""The smaller of a class's two clusters."""

from collections.abc import Callable
from typing import Literal

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from fedpoison.clients.sanitizers.classes import Judged, by_class
from fedpoison.contract.registry import sanitizer
from fedpoison.linalg.principal import principal, whitened
from fedpoison.types import Cleaned, Count, Features, Labels, Share


@sanitizer(
    paper="arXiv:1811.03728",
    source="secondary: two implementations, which differ",
    evidence="tests/clients/test_sanitizers_by_hand.py::test_activation_clustering_by_hand",
)
def activation_clustering(
    features: Features,
    labels: Labels,
    rng: torch.Generator,
    say: Callable[[str], None],
    *,
    components: Count = 10,
    whiten: bool = True,
    by: Literal["size", "silhouette"] = "silhouette",
    share: Share = 0.35,
    silhouette: float = 0.1,
    fewest: Count = 10,
) -> Cleaned:
    """Part each class in two clusters and take out the smaller one if it is small and well parted.

    Chen et al. 2018: per class the features are reduced to `components` and parted by 2-means (the best of ten
    starts); the smaller cluster is out if it is less than `share` of the class and, by = "silhouette", the mean
    silhouette is above `silhouette`. They reduce by independent components, which are whitened principal ones but for
    a rotation, and neither 2-means nor the silhouette depends on that; `whiten = false` leaves the principal ones as
    they are. Their third way, a training without the suspects, is not built. Two styles of one class are clusters too:
    by = "size" is for data that have none. Clusters of one size, and classes of fewer than `fewest` samples, are left
    alone.
    """
    from sklearn.cluster import KMeans  # slow to import
    from sklearn.metrics import silhouette_samples

    def judge(rows: Tensor) -> Judged | None:
        reduced = whitened(rows, components) if whiten else principal(rows, components)[0]
        if not reduced.shape[1]:
            return None
        seed = int(torch.randint(2**31, (), generator=rng))
        with threadpool_limits(1, user_api="openmp"):  # threads would add up in any order
            found = torch.from_numpy(KMeans(2, n_init=10, random_state=seed).fit_predict(reduced.numpy()))
        sizes = torch.bincount(found, minlength=2)
        if sizes[0] == sizes[1] or not sizes.min():
            return None
        small = found == sizes.argmin()
        apart = torch.from_numpy(silhouette_samples(reduced.numpy(), found.numpy()))
        suspect = sizes.min() < share * len(rows) and (by == "size" or apart.mean() > silhouette)
        return small & suspect, torch.where(small, apart, -apart)

    return by_class(features, labels, say, max(3, fewest), judge)
