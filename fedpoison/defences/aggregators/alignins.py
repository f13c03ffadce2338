"""AlignIns: look for backdoors in the directions and the signs of updates."""

import torch
from torch import Tensor

from fedpoison.contract.registry import aggregator
from fedpoison.linalg.angles import cosines_to
from fedpoison.linalg.blocks import by_columns, of_each
from fedpoison.linalg.sorting import middle
from fedpoison.types import Norms, Params, Positive, Share, Updates, Weights

_ROUNDING = 1e-12
"""A standard deviation of numbers up to 1 that is rounding's."""


@aggregator(
    paper="arXiv:2503.07978",
    source="secondary: the authors' code in a copy, and a summary of the paper that agrees",
    evidence="tests/defences/test_detection_rules.py::test_alignins_equals_its_definition",
    decides=True,
    references=("origin",),
    claims=("permutation", "unanimity"),
    withstands="nothing",
)
def alignins(
    updates: Updates,
    norms: Norms,
    params: Params,
    *,
    sparsity: Share = 0.3,
    lambda_c: Positive = 1.0,
    lambda_s: Positive = 1.0,
) -> Weights:
    """Average, clipped to their median norm, the updates that go along with the model and the others' signs.

    Xu et al. 2025: an update stays if both its temporal direction alignment (the cosine with the global model) and
    its masked principal sign alignment have an MZ-score, |value − median| / standard deviation, below `lambda_c` and
    `lambda_s`. If nobody stays the aggregate is zero. Clients count alike where the authors' code weighs them by
    their sample counts. On clean rounds it drops about as many; who keeps to the honest directions passes, and clipping
    by the median of those who stay bounds nothing if most of them are huge.
    """
    direction = _mz_scores(cosines_to(params, updates))
    signs = _mz_scores(sign_alignment(updates, sparsity))
    weights = torch.zeros(len(updates) + 1, dtype=torch.float64)
    kept = ((direction < lambda_c) & (signs < lambda_s)).nonzero().flatten()
    if len(kept):
        median = middle(norms[kept])
        weights[kept] = torch.where(norms[kept] > median, median / norms[kept], 1.0) / len(kept)
    weights[-1] = 1 - weights.sum()
    return weights


def sign_alignment(updates: Updates, sparsity: float) -> Tensor:
    """The share of each update's largest coordinates that has the sign most updates have there [n]."""
    principal = by_columns(lambda block: block.sign().sum(dim=0).sign(), updates)
    largest = max(1, int(sparsity * updates.shape[1]))

    def share(row: Tensor) -> float:
        chosen = row.abs().topk(largest).indices
        return float((row[chosen].sign() == principal[chosen]).double().mean())

    return torch.tensor(of_each(share, updates.unbind()), dtype=torch.float64)


def _mz_scores(values: Tensor) -> Tensor:
    deviation = values.std(correction=0)
    if deviation <= _ROUNDING:
        return torch.zeros_like(values)
    # two clients are at 1 both, the default threshold: rounding is not to part them
    return ((values - middle(values)).abs() / deviation).round(decimals=9)
