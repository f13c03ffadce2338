"""Samples that lie less densely than their neighbours."""

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from annotated_types import Interval
from torch import Tensor

from fedpoison.clients.sanitizers.classes import Judged, by_class
from fedpoison.contract.registry import sanitizer
from fedpoison.types import Cleaned, Count, Features, Labels


@sanitizer(
    paper="Breunig et al. 2000",
    source="read: scikit-learn, which does it",
    evidence="tests/clients/test_sanitizers_by_hand.py::test_local_outlier_factor_by_hand",
)
def local_outlier_factor(
    features: Features,
    labels: Labels,
    say: Callable[[str], None],
    *,
    k: Count = 20,
    contamination: Annotated[float, Interval(gt=0, le=0.5)] | Literal["auto"] = "auto",
) -> Cleaned:
    """Take out of each class what lies 1.5 times less densely than its k nearest neighbours.

    A sample's density is one over the mean of max(distance to a neighbour, that neighbour's distance to its own k-th);
    the factor is the neighbours' mean density over its own. `contamination`: that share of the class goes, poisoned
    or not. No more than n − 1 neighbours; classes of fewer than 5 samples are left alone. Beside k copies of one
    sample everything is sparse, and the factor huge: put `duplicates` first.
    """
    from sklearn.neighbors import LocalOutlierFactor  # slow to import

    def judge(rows: Tensor) -> Judged:
        found = LocalOutlierFactor(n_neighbors=min(k, len(rows) - 1), contamination=contamination)
        out = torch.from_numpy(found.fit_predict(rows.numpy()) < 0)
        return out, torch.from_numpy(-found.negative_outlier_factor_)

    return by_class(features, labels, say, 5, judge)
