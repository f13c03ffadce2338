"""A client's classes, each judged by itself, and who is taken out of one."""

from collections.abc import Callable

import torch
from torch import Tensor

from fedpoison.types import Cleaned, Features, Labels

Judged = tuple[Tensor, Tensor]
"""Of the samples of a class: which are taken out [n], and how suspect each is [n]."""


def by_class(
    features: Features,
    labels: Labels,
    say: Callable[[str], None],
    fewest: int,
    judge: Callable[[Tensor], Judged | None],
) -> Cleaned:
    """What a function makes of each class's features [n, d]; classes that cannot be judged are left alone, and said.

    Those are the ones of fewer than `fewest` samples, whose features are not finite or all alike, or of which the
    function says None.
    """
    keep = torch.ones(len(labels), dtype=torch.bool)
    suspicion = torch.zeros(len(labels), dtype=torch.float64)
    alone = []
    for label in labels.unique().tolist():
        own = (labels == label).nonzero().flatten()
        rows = features[own]
        able = len(own) >= fewest and bool(rows.isfinite().all()) and bool((rows != rows[0]).any())
        judged = judge(rows) if able else None
        if judged is None:
            alone.append(label)
        else:
            keep[own], suspicion[own] = ~judged[0], judged[1]
    if alone:
        say(f"too few samples, or nothing to tell them apart by, in classes {', '.join(map(str, alone))}: left alone")
    return Cleaned(keep, suspicion)


def largest(scores: Tensor, count: int) -> Tensor:
    """Which are the `count` largest of the scores [n], and never all; of equal ones the earlier."""
    chosen = torch.zeros(len(scores), dtype=torch.bool)
    chosen[scores.argsort(descending=True, stable=True)[: min(count, len(scores) - 1)]] = True
    return chosen
