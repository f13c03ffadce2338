"""LASA: sparsify, then choose the clients anew for each layer."""

from typing import Annotated, Literal

import torch
from annotated_types import Interval
from torch import Tensor

from fedpoison.common.rounding import half_up
from fedpoison.contract.registry import aggregator
from fedpoison.linalg.blocks import row_norms, weighted_sum
from fedpoison.types import Layer, Norms, Positive, Update, Updates


def _sparsified(updates: Updates, layers: tuple[Layer, ...], sparsity: float) -> Updates:
    """Each row with all but its largest weights of matrices and kernels set to 0; equals of the last one stay."""
    thinned = torch.zeros(updates.shape[1], dtype=torch.bool)
    for layer in layers:
        thinned[layer.columns] = len(layer.shape) > 1
    size, result = int(thinned.sum()), updates.clone()
    keep = max(1, half_up((1 - sparsity) * size))
    if keep < size:
        for row in result:
            sizes = row[thinned].abs()
            row[thinned] *= sizes >= sizes.kthvalue(size - keep + 1).values
    return result


def _within(values: Tensor, radius: float) -> Tensor:
    """Whose value is at most so many standard deviations from the median; of two values both are just one away."""
    return (values - values.quantile(0.5)).abs() <= radius * values.std(correction=0) * (1 + 1e-9)


def _purity(rows: Updates) -> Tensor:
    """Positive direction purity: the share of positive values among those that are not 0; one half if all are 0."""
    signs = rows.sign()
    balance = signs.sum(dim=1, dtype=torch.float64) / signs.abs().sum(dim=1, dtype=torch.float64).clamp(min=1)
    return (1 + balance) / 2


@aggregator(
    paper="arXiv:2409.01435",
    source="secondary: the authors' code, and the purity and MZ-score as a review of the paper restates them",
    evidence="tests/defences/test_layer_rules.py::test_lasa_equals_its_definition",
    claims=("permutation", "scale"),
)
def lasa(
    updates: Updates,
    norms: Norms,
    layers: tuple[Layer, ...],
    *,
    sparsity: Annotated[float, Interval(ge=0, lt=1)] = 0.3,
    norm_radius: Positive = 1.0,
    sign_radius: Positive = 1.0,
    average: Literal["sparse", "clipped"] = "sparse",
) -> Update:
    """Clip to the median norm, keep each client's largest weights, average each layer over whoever is ordinary in it.

    Xu et al. 2025: of each client's weights in matrices and kernels the share `sparsity` that is smallest in size is
    set to 0. In each parameter tensor those count whose norm and whose positive direction purity both lie within
    their radius of the median, in standard deviations (the MZ-score); everybody if nobody does. As the authors' code
    does it, the average is of what is left after sparsifying; "clipped" takes the updates before, as libraries do.
    Where all clients are alike nobody stands out, and medians of even numbers are the mean of the middle two. An
    attacker near the median in both measures counts in full.
    """
    median = norms.quantile(0.5)
    factors = torch.where(norms > median, median / norms, 1.0)
    clipped = updates * factors.to(updates.dtype).unsqueeze(1)
    sparse = _sparsified(clipped, layers, sparsity)
    result = torch.empty_like(updates[0])
    for _, columns, _ in layers:
        part = sparse[:, columns]
        kept = _within(row_norms(part), norm_radius) & _within(_purity(part), sign_radius)
        kept |= ~kept.any()
        averaged = part if average == "sparse" else clipped[:, columns]
        result[columns] = weighted_sum(kept.double() / kept.sum(), averaged)
    return result
