"""FoundationFL: strengthen a robust rule with copies of the update farthest from the extremes."""

from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor

from fedpoison.contract.registry import aggregator
from fedpoison.linalg.blocks import row_norms
from fedpoison.types import Base, Norms, Update, Updates

Copies = Annotated[int, Interval(ge=0, le=1000)]


def _rows(n: int, f: int, *, copies: Copies | None) -> int:
    return n + (n // 2 if copies is None else copies)


def _distances(updates: Updates, point: Tensor) -> Norms:
    return torch.cat([row_norms((row - point).unsqueeze(0)) for row in updates])


@aggregator(
    paper="arXiv:2501.17381",
    source="read: arXiv:2501.17381, section IV-B, equations 2 to 7, and section VI-A for the number of copies",
    evidence="tests/defences/test_composite_rules.py::test_foundationfl_equals_its_definition",
    needs="n > 2*f",
    base_rows=_rows,
    claims=("permutation", "unanimity", "translation", "scale"),
    withstands="huge rows in one direction",
)
def foundationfl(updates: Updates, f: int, base: Base, *, copies: Copies | None = None) -> Update:
    """Aggregate the updates and `copies` of the one that is farthest from the largest and smallest values.

    Fang et al. 2025: an update's score is the lesser of its distances to the vectors of each coordinate's maximum and
    minimum; the one with the highest, of equals the first, is added ⌊n/2⌋ times unless `copies` says otherwise, and
    the base rule, their trimmed mean or median, is told the same f of the larger number. It moves and scales with the
    updates if its base does. Attackers who take the largest values in some coordinates and the smallest in others are
    far from both extremes: it is they who are copied, and with f + copies more than half of all they decide.
    """
    highest, lowest = updates.amax(dim=0), updates.amin(dim=0)
    scores = torch.minimum(_distances(updates, highest), _distances(updates, lowest))
    extra = _rows(len(updates), f, copies=copies) - len(updates)
    return base(torch.cat([updates, updates[scores.argmax()].repeat(extra, 1)]), f)
