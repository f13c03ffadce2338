"""The smallest counterexample: fewer clients, fewer coordinates, rounder numbers, as long as the contract breaks."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fedpoison.checking.cases import Case

BUDGET = 600
"""How many smaller cases are tried, at the most."""
_SIMPLE = (0.0, 1.0, -1.0, 2.0, -2.0)

Smaller = Callable[[Case], Iterator[Case]]


def shrink(case: Case, breaks: Callable[[Case], bool], budget: int = BUDGET) -> Case:
    """Take every smaller case that still breaks, until none does or the budget is spent."""
    left = budget

    def tried(candidate: Case) -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and breaks(candidate)

    changed = True
    while changed:
        changed = False
        for smaller in (_plainer, _fewer_columns, _fewer_rows, _rounder, _simpler_columns, _simpler_numbers):
            while (found := next(filter(tried, smaller(case)), None)) is not None:
                case, changed = found, True
    return case


def _plainer(case: Case) -> Iterator[Case]:
    n = len(case.updates)
    if case.rounds > 1:
        yield replace(case, rounds=1)
    if len(case.cohorts) > 2:
        yield from (replace(case, cohorts=case.cohorts[:k] + case.cohorts[k + 1 :]) for k in range(len(case.cohorts)))
    for move in range(min(2, case.move)):
        yield replace(case, move=move)
    if not case.attackers:
        yield from (replace(case, f=f) for f in range(case.f))
    if case.seed:
        yield replace(case, seed=0)
    for name, plain in (("sizes", torch.ones(n).double()), ("client_ids", torch.arange(n))):
        if not torch.equal(getattr(case, name), plain):
            yield _with(case, name, plain)
    for name, vector in case.vectors.items():
        if vector.any():
            yield _with(case, name, torch.zeros_like(vector))


def _fewer_columns(case: Case) -> Iterator[Case]:
    d = case.shape[1]
    length = d // 2
    while length:
        for start in range(0, d, length):
            kept = [j for j in range(d) if not start <= j < start + length]
            if kept:
                yield case.of_columns(kept)
        length //= 2


def _fewer_rows(case: Case) -> Iterator[Case]:
    """One client less, or two where it takes an even or an odd number."""
    n = len(case.updates)
    ones, pairs = (itertools.combinations(reversed(range(n)), k) for k in (1, 2))
    for left_out in itertools.chain(ones if n > 1 else (), pairs if n > 2 else ()):
        smaller = case.of_rows(j for j in range(n) if j not in left_out)
        yield smaller
        if case.f and not case.attackers:
            yield replace(smaller, f=case.f - 1)


def _rounder(case: Case) -> Iterator[Case]:
    for change in (torch.sign, torch.round, lambda values: torch.round(values, decimals=1)):
        rounded = case.mapped(change)
        if _cost(rounded) < _cost(case):
            yield rounded


def _simpler_columns(case: Case) -> Iterator[Case]:
    """Where all clients send the same number, another that they all send."""
    for column, values in enumerate(case.updates.T):
        value = float(values[0])
        if (values == value).all():
            for simple in _simpler_than(value):
                changed = case.updates.clone()
                changed[:, column] = simple
                yield replace(case, updates=changed)


def _simpler_numbers(case: Case) -> Iterator[Case]:
    for name in ("updates", *case.vectors):
        values: Tensor = getattr(case, name)
        for place, value in enumerate(values.flatten().tolist()):
            for simple in _simpler_than(value):
                changed = values.flatten().clone()
                changed[place] = simple
                yield _with(case, name, changed.reshape(values.shape))


def _with(case: Case, name: str, value: Tensor) -> Case:
    changes: dict[str, Any] = {name: value}
    return replace(case, **changes)


def _simpler_than(value: float) -> list[float]:
    candidates = (*_SIMPLE, float(round(value)), _one_digit(value))
    return [simple for simple in candidates if _complexity(simple) < _complexity(value)]


def _one_digit(value: float) -> float:
    return float(f"{value:.0e}")


def _complexity(value: float) -> int:
    """How hard a number is to calculate with by hand."""
    if value in _SIMPLE:
        return _SIMPLE.index(value)
    if abs(value) < 10 and value == round(value):
        return len(_SIMPLE)
    if math.isclose(value, _one_digit(value), rel_tol=1e-6):
        return len(_SIMPLE) + 1
    return len(_SIMPLE) + 2


def _cost(case: Case) -> int:
    tensors = (case.updates, *case.vectors.values())
    return sum(_complexity(value) for tensor in tensors for value in tensor.flatten().tolist())
