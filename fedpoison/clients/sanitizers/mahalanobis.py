"""Samples far from their class's mean, as its covariance measures it."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from fedpoison.clients.sanitizers.classes import Judged, by_class, largest
from fedpoison.common.rounding import down
from fedpoison.contract.registry import sanitizer
from fedpoison.types import Cleaned, Features, Labels, Positive, Share


@sanitizer(
    source="read: scikit-learn's Ledoit-Wolf covariance; the rule of what goes is our own",
    evidence="tests/clients/test_sanitizers_by_hand.py::test_mahalanobis_by_hand",
)
def mahalanobis(
    features: Features,
    labels: Labels,
    say: Callable[[str], None],
    *,
    share: Share | Literal["auto"] = "auto",
    threshold: Positive = 3.5,
) -> Cleaned:
    """Take out of each class what lies far from its mean in Mahalanobis's distance D² = (x − m)ᵀ Σ⁻¹ (x − m).

    Σ is shrunk towards a multiple of the identity by as much as Ledoit and Wolf (2004) find best: with no more samples
    than features, as is usual here, the plain covariance gives every sample the same distance. Out are those of which
    (D² − median)/(1.4826 · the median absolute deviation) is above `threshold`, or the share of the class that has the
    largest D². Left alone: classes of fewer than 5 samples, and where most distances are alike.
    """
    from sklearn.covariance import LedoitWolf  # slow to import

    def judge(rows: Tensor) -> Judged | None:
        squares = torch.from_numpy(LedoitWolf().fit(rows.numpy()).mahalanobis(rows.numpy()))
        if share != "auto":
            return largest(squares, down(share * len(rows))), squares
        off = squares - squares.quantile(0.5)
        scale = 1.4826 * off.abs().quantile(0.5)
        return (off > threshold * scale, squares) if scale > 0 else None

    return by_class(features, labels, say, 5, judge)
