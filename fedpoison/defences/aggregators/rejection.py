"""Rejection by error rate and by loss: leave out the clients without whom the model does better."""

import math

import torch
from torch import Tensor

from fedpoison.contract.registry import aggregator
from fedpoison.types import Base, Chosen, Probe, Updates


def _without_each(updates: Updates, f: int, base: Base, probe: Probe) -> Tensor:
    """Loss and error rate [n, 2] of the model that each client's absence makes; a loss that is no number is infinite.

    The model with a client is the same for all, so the impacts rank as these values turned round.
    """
    n = len(updates)
    others = (torch.cat([updates[:i], updates[i + 1 :]]) for i in range(n))
    return torch.tensor([probe(base(rows, f)) for rows in others], dtype=torch.float64).nan_to_num(nan=math.inf)


def _largest(values: Tensor, keep: int) -> Tensor:
    """Which values are the `keep` largest; ties go to the lower index."""
    kept = torch.zeros(len(values), dtype=torch.bool)
    kept[values.argsort(descending=True, stable=True)[:keep]] = True
    return kept


@aggregator(
    paper="Fang et al., USENIX Security 2020",
    source="read: Fang et al. 2020, section 5",
    evidence="tests/defences/test_composite_rules.py::test_rejection_equals_its_definition",
    needs="n > f",
    decides=True,
    base_rows=lambda n, f: n - f,
)
def err(updates: Updates, f: int, base: Base, probe: Probe) -> Chosen:
    """Leave out the f clients with the largest impact on the error rate, aggregate the rest by the base rule.

    Fang et al. 2020, Error Rate based Rejection: the impact is the error rate on the root set of the model made with
    the client less that of the model made without. The base rule is told f each time, for who is left out need not have
    been malicious. Error rates move in steps: with few root samples many clients are equal.
    """
    if f == 0:
        return Chosen(base(updates, 0), torch.ones(len(updates), dtype=torch.bool))
    kept = _largest(_without_each(updates, f, base, probe)[:, 1], len(updates) - f)
    return Chosen(base(updates[kept], f), kept)


@aggregator(
    paper="Fang et al., USENIX Security 2020",
    source="read: Fang et al. 2020, section 5",
    evidence="tests/defences/test_composite_rules.py::test_rejection_equals_its_definition",
    needs="n > f; not union or n > 2*f",
    decides=True,
    base_rows=lambda n, f, union: n - (2 * f if union else f),
)
def lfr(updates: Updates, f: int, base: Base, probe: Probe, *, union: bool = False) -> Chosen:
    """Leave out the f clients with the largest impact on the loss, aggregate the rest by the base rule.

    Fang et al. 2020, Loss Function based Rejection: err with the cross-entropy in place of the error rate. `union`
    also leaves out whom err would, up to 2f clients. What the root set does not show, such as a trigger, passes.
    """
    if f == 0:
        return Chosen(base(updates, 0), torch.ones(len(updates), dtype=torch.bool))
    losses, errors = _without_each(updates, f, base, probe).unbind(dim=1)
    kept = _largest(losses, len(updates) - f)
    if union:
        kept &= _largest(errors, len(updates) - f)
    return Chosen(base(updates[kept], f), kept)
