"""What a rule may claim of its aggregate when the updates are moved. Vectors among the updates move with them."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from fedpoison.checking.cases import DTYPES, Case, Subject, drawn
from fedpoison.checking.contract import claim
from fedpoison.checking.wording import apart, besides, number, situation, vector
from fedpoison.types import Verdict

_FACTORS = (2.0, -1.0, 0.3, -2.5, 1e3, 1e-4)
_EXACT, _ROUNDED = 1e-8, 1e-4
"""How far float64 and float32 results may be from each other, relative and absolute."""


def differ(one: Tensor, other: Tensor, within: float, absolute: float | None = None) -> bool:
    """Whether two results are further apart than rounding explains, or not of one shape."""
    atol = within if absolute is None else absolute
    return one.shape != other.shape or not torch.allclose(one.double(), other.double(), rtol=within, atol=atol)


def _in_float64(subject: Subject) -> Iterator[Case]:
    return subject.ordinary((torch.float64,))


def _reordered(subject: Subject) -> Iterator[Case]:
    for case in subject.ordinary():
        yield from (case, replace(case, move=0))


@claim("the order of the clients does not matter", _reordered, ties_aside=True)
def permutation(subject: Subject, case: Case) -> str | None:
    """The same clients at random places, or in reverse: the same aggregate, and each is credited with the same."""
    n, single = len(case.updates), case.updates.dtype == torch.float32
    order = torch.arange(n).flip(0) if not case.move else torch.randperm(n, generator=_generator(case.move))
    listed = f"in the order {', '.join(map(str, order.tolist()))}"
    one, other = subject.play(case), subject.play(case.of_rows(order.tolist()))
    told = unlike(one, other, order, listed, single)
    return f"{situation(subject, case)} {told}" if told else None


def unlike(one: Verdict, other: Verdict, order: Tensor, how: str, single: bool) -> str | None:
    """How two verdicts on the same clients differ, the other's in this order of the one's."""
    if differ(other.update, one.update, 1e-5 if single else _EXACT):
        mine, theirs = apart(one.update, other.update)
        return f"the aggregate is {mine}; {how} it is {theirs}"
    for what, before, after in (("weights", one.weights, other.weights), ("flags", one.flagged, other.flagged)):
        if before is not None and after is not None and differ(after, before[order], 1e-4 if single else 1e-6):
            first, second = apart(before[order], after)
            return f"the {what} {how} are {second} instead of {first}"
    return None


def _unanimous(subject: Subject) -> Iterator[Case]:
    for case in replace(subject, effort=1).ordinary():
        n, row = len(case.updates), case.updates[0]
        for f in sorted({f for f in (0, 1, subject.most(n)) if subject.allows(n, f)}):
            for value in (row, 1e-3 * row, 1e6 * row, torch.zeros_like(row)):
                yield replace(case, f=f, updates=value.repeat(n, 1))


@claim("when all send the same, that is the aggregate", _unanimous)
def unanimity(subject: Subject, case: Case) -> str | None:
    """The mean of equal rows is that row, and so is what a rule makes of them, whatever the row's size."""
    row = case.updates[0]
    if not (case.updates == row).all() or not differ(result := subject.play(case).update, row, 1e-6, 0.0):
        return None
    sent, made = apart(row, result)
    return f"when all n = {len(case.updates)} send {sent}{besides(subject, case)}, the aggregate is {made}"


@claim("moving all updates moves the aggregate as far", _in_float64, ties_aside=True)
def translation(subject: Subject, case: Case) -> str | None:
    """All updates moved by one vector, the simplest of which is all ones."""
    d = case.shape[1]
    shift = 3 * drawn(case.move + 50, 1, d)[0] + 1.5 if case.move else torch.ones(d, dtype=torch.float64)
    expected = subject.play(case).update + shift
    moved = subject.play(case.mapped(lambda values: values + shift, but=("params",))).update
    if not differ(moved, expected, _EXACT):
        return None
    right, made = apart(expected, moved)
    return f"{situation(subject, case)} moved by {vector(shift)}, the aggregate is {made} instead of {right}"


def _scaled(subject: Subject) -> Iterator[Case]:
    for case in subject.ordinary((torch.float64,)):
        yield from (replace(case, move=move) for move in range(2, len(_FACTORS)))


@claim("scaling all updates scales the aggregate", _scaled, ties_aside=True)
def scale(subject: Subject, case: Case) -> str | None:
    """All updates times one factor, negative ones too; scaled in float64 and, more roughly, in float32."""
    factor, plain = _FACTORS[case.move], subject.play(case).update
    for dtype, within in zip(DTYPES, (_ROUNDED, _EXACT), strict=True):
        scaled = case.mapped(lambda values: (values * factor).to(dtype))  # noqa: B023 (called at once)
        made = subject.play(scaled).update.double()
        if differ(made / factor, plain, within):
            wrong, right = apart(made, plain * factor)
            return f"{situation(subject, case)} all times {number(factor)}, the aggregate is {wrong} instead of {right}"
    return None


@claim("rotating all updates rotates the aggregate", _in_float64, ties_aside=True)
def rotation(subject: Subject, case: Case) -> str | None:
    """All updates turned; the simplest turn takes the first two coordinates (x, y) to (0.6x − 0.8y, 0.8x + 0.6y)."""
    d = case.shape[1]
    if d < 2:
        return None
    turn = torch.eye(d, dtype=torch.float64)
    turn[:2, :2] = torch.tensor([[0.6, 0.8], [-0.8, 0.6]])
    if case.move:
        turn = torch.linalg.qr(drawn(case.move + 50, d, d)).Q
    expected, made = subject.play(case).update @ turn, subject.play(case.mapped(lambda values: values @ turn)).update
    if not differ(made, expected, _EXACT):
        return None
    right, wrong = apart(expected, made)
    how = "a random matrix" if case.move else "(x, y) → (0.6x − 0.8y, 0.8x + 0.6y)"
    return f"{situation(subject, case)} turned by {how}, the aggregate is {wrong} instead of {right}"


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


SYMMETRIES = (permutation, unanimity, translation, scale, rotation)
