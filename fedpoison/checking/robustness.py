"""How robust a rule is at least not: κ, searched from below.

(f, κ)-robust (Allouah et al. 2023): for every set S of n − f rows ‖F(x) − x̄_S‖² ≤ κ/|S| · Σ_{i∈S} ‖x_i − x̄_S‖². No rule
has a κ below f/(n − 2f).
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from fedpoison.checking.cases import Case, RuleError, Subject, drawn
from fedpoison.checking.contract import Cases, Contract, Finding, Outcome
from fedpoison.checking.wording import number, situation

_SIZES = ((5, 1), (9, 3), (7, 2), (8, 2), (11, 2))
_STEPS = 100
"""Steps of the search for each draw that is asked for, over all (n, f)."""
_LOST = 1e12
"""A κ beyond is none: with no spread among the honest, nothing may move the aggregate."""


def ratio(updates: Tensor, aggregate: Tensor, f: int) -> tuple[float, list[int]]:
    """The κ that this aggregate needs, and the honest rows that show it; rounding is given away."""
    n = len(updates)
    choices = torch.tensor(list(itertools.combinations(range(n), n - f)))
    honest = updates.double()[choices]
    middles = honest.mean(dim=1)
    variances = (honest - middles.unsqueeze(1)).square().sum(dim=2).mean(dim=1)
    rounding = 1e-12 * updates.double().square().sum(dim=1).max()
    errors = ((aggregate.double() - middles).square().sum(dim=1) - rounding).clamp(min=0)
    needed = torch.where(errors > 0, errors / variances, 0)
    worst = int(needed.argmax())
    return float(needed[worst]), choices[worst].tolist()


def _starts(n: int, f: int) -> Iterator[Tensor]:
    """What makes known rules look worst: two camps and f far away; then chance."""
    for far in (1.0, 2.0, 10.0, 1e6):
        yield torch.tensor([0.0] * f + [1.0] * (n - 2 * f) + [far] * f, dtype=torch.float64).unsqueeze(1)
        yield torch.tensor([0.0] * (n - f) + [far] * f, dtype=torch.float64).unsqueeze(1)
    for seed in itertools.count():
        yield drawn(seed, n, 1 + seed % 3)


def _changed(updates: Tensor, draw: torch.Generator) -> Tensor:
    """A neighbour: one row moved, put on another, mirrored at another, or one number made round."""
    n, d = updates.shape
    i, j, column, kind = (int(torch.randint(high, (), generator=draw)) for high in (n, n, d, 4))
    changed = updates.clone()
    step = float(10 ** (3 * torch.rand((), generator=draw) - 2))
    if kind == 0:
        changed[i] += step * torch.randn(d, generator=draw, dtype=torch.float64)
    elif kind == 1:
        changed[i] = updates[j]
    elif kind == 2:
        changed[i] = updates[j] + step * (updates[j] - updates[i])
    else:
        changed[i, column] = float(torch.randint(-2, 3, (), generator=draw))
    return changed


def search(subject: Subject, n: int, f: int, steps: int) -> tuple[float, Case]:
    """The largest κ found, and the case that needs it: climbing from each start until nothing is gained for a while."""

    def needed(case: Case) -> float:
        return ratio(case.updates, subject.play(case).update, f)[0]

    draw, patience = torch.Generator().manual_seed(n), max(10, steps // 12)
    best, best_case, left = -1.0, None, steps
    for start in _starts(n, f):
        case = _case(subject, start, f)
        here, since = needed(case), 0
        left -= 1
        while since < patience and left > 0 and here < _LOST:
            candidate = replace(case, updates=_changed(case.updates, draw))
            there = needed(candidate)
            left, since = left - 1, since + 1
            if there > here:
                case, here, since = candidate, there, 0
        if here > best:
            best, best_case = here, case
        if left <= 0 or best >= _LOST:
            break
    assert best_case is not None
    return best, best_case


def _case(subject: Subject, updates: Tensor, f: int) -> Case:
    return subject.case(updates, f, sizes=torch.ones(len(updates)).double())


def _exceeds(subject: Subject, case: Case) -> str | None:
    n, f = len(case.updates), case.f
    if not 0 < f < n / 2:
        return None
    known = subject.entry.robustness(n, f, subject.options)
    found, honest = ratio(case.updates, subject.play(case).update, f)
    if known is None or found <= known * (1 + 1e-6):
        return None
    return (
        f"{situation(subject, case)} the aggregate lies {number(found**0.5)} standard deviations from the mean of "
        f"clients {', '.join(map(str, honest))}: κ is at least {number(found)} and not {number(known)}"
    )


def _only(case: Case) -> Cases:
    return lambda _: [case]


def kappa(subject: Subject) -> Finding:
    """The largest κ found for some small (n, f), beside what no rule is below and what its paper says."""
    others = subject.looks_at & {"previous", "root_update", "params", "state", "probe", "base"}
    if others:
        why = f"κ is not searched: it looks at {', '.join(sorted(others))} besides the updates"
        return Finding("kappa", "told", why)
    sizes = [(n, f) for n, f in _SIZES if subject.allows(n, f)][:3]
    figures, told = {}, []
    for n, f in sizes:
        try:
            found, case = search(subject, n, f, _STEPS * subject.effort // len(sizes))
        except RuleError as failure:
            return Finding("kappa", "told", f"κ is not searched at n = {n}, f = {f}: {failure.sentence}")
        known = subject.entry.robustness(n, f, subject.options)
        if known is not None and found > known * (1 + 1e-6):
            return Contract("kappa", "", _only(case), _exceeds, lambda _: True)(subject)
        figures[f"n={n}, f={f}"] = found
        paper = "" if known is None else f", published {number(known)}"
        least = "unbounded" if found >= _LOST or math.isinf(found) else f"κ ≥ {number(found)}"
        told.append(f"{least} at n = {n}, f = {f} (any rule {number(f / (n - 2 * f))}{paper})")
    outcome: Outcome = "holds" if subject.entry.kappa else "told"
    return Finding("kappa", outcome, "; ".join(told) or "it takes no attacker among few clients", figures=figures)
