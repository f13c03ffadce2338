"""What the order of scores tells."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def auroc(scores: Tensor, positive: Tensor) -> float | None:
    """The chance that one of the positive (a mask [n]) has a higher score [n] than one of the others; a tie is half.

    None where there are none of either, or a score is not a number.
    """
    others = scores[~positive].sort().values
    pairs = int(positive.sum()) * len(others)
    if not pairs or scores.isnan().any():
        return None
    below, upto = (int(torch.searchsorted(others, scores[positive], right=right).sum()) for right in (False, True))
    return below / pairs + 0.5 * ((upto - below) / pairs)


def average_precision(scores: Tensor, positive: Tensor) -> float | None:
    """The mean of the precision at each positive one (a mask [n]) when the highest scores [n] are called positive.

    Ties are called together, as scikit-learn has it. None where there are none of either, or a score is not a number.
    """
    found = int(positive.sum())
    if not 0 < found < len(positive) or scores.isnan().any():
        return None
    order = scores.argsort(descending=True)
    last = torch.ones_like(positive)  # the last of equal ones
    last[:-1] = scores[order].diff() != 0
    called = last.nonzero().flatten() + 1
    true = positive[order].cumsum(0)[called - 1].double()
    return float((true / called * true.diff(prepend=true.new_zeros(1))).sum()) / found


def ranks(values: Tensor) -> NDArray[np.float64]:
    """Ranks from 1, equal values sharing the mean of theirs; scipy.stats, which has it too, is slow to load."""
    _, place, counts = np.unique(values.numpy(), return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[place]
