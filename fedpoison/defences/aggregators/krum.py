"""Krum and Multi-Krum: keep the updates with the closest neighbours."""

from typing import Literal

import torch
from torch import Tensor

from fedpoison.contract.registry import aggregator
from fedpoison.types import Count, Sizes, SquaredDistances, Weights


def krum_scores(squared_distances: SquaredDistances, f: int) -> Tensor:
    """Each row's sum of squared distances to its n − f − 2 nearest other rows."""
    n = len(squared_distances)
    others = squared_distances.clone().fill_diagonal_(torch.inf)
    return others.sort(dim=1).values[:, : max(1, n - f - 2)].sum(dim=1)


@aggregator(
    paper="Blanchard et al., NeurIPS 2017",
    source="secondary: restated as eq. 3 of arXiv:2006.09365v1, section 3.1 (read there)",
    evidence="tests/defences/test_aggregators.py::test_krum_equals_its_definition",
    needs="n > 2*f + 2",
    scores=krum_scores,
    claims=("permutation", "unanimity", "translation", "scale", "rotation"),
    kappa="6*(1 + f/(n - 2*f))",
    kappa_source="secondary: Allouah et al. 2023 (arXiv:2302.01772), of n − f neighbours; searched for n − f − 2",
)
def krum(squared_distances: SquaredDistances, f: int) -> Weights:
    """The one update closest to its n − f − 2 nearest others.

    Blanchard et al. 2017: squared distances, the update itself not among its neighbours; ties go to
    the lower index.
    """
    weights = torch.zeros(len(squared_distances), dtype=torch.float64)
    weights[krum_scores(squared_distances, f).argmin()] = 1
    return weights


@aggregator(
    paper="Blanchard et al., NeurIPS 2017",
    source="secondary: libraries of the authors' laboratory; they differ in m",
    evidence="tests/defences/test_aggregators.py::test_multi_krum_equals_its_definition",
    needs="n > 2*f + 2; m is None or m <= n",
    decides=True,
    scores=krum_scores,
    claims=("permutation", "unanimity", "translation", "scale", "rotation"),
)
def multi_krum(
    squared_distances: SquaredDistances,
    f: int,
    sizes: Sizes,
    *,
    m: Count | None = None,
    weighting: Literal["sizes"] | None = None,
) -> Weights:
    """The average of the m updates with the lowest Krum scores (m = n − f unless given).

    Blanchard et al. 2017: scores are computed once, on all updates. The default keeps as many as
    there are honest clients; m = 1 is Krum. Ties go to the lower index. `weighting = "sizes"`: those that are kept
    count by their samples, as in Flower's MultiKrum.
    """
    n = len(squared_distances)
    keep = n - f if m is None else m
    chosen = krum_scores(squared_distances, f).argsort(stable=True)[:keep]
    weights = torch.zeros(n, dtype=torch.float64)
    weights[chosen] = sizes[chosen] / sizes[chosen].sum() if weighting else 1 / keep
    return weights
