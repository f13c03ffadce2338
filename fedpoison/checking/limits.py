"""A rule at the numbers of clients that it can just take, and past them; and how far f of them can move it."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from fedpoison.api import aggregate
from fedpoison.checking.cases import DTYPES, Case, RuleError, Subject, drawn
from fedpoison.checking.contract import Finding, contract
from fedpoison.checking.wording import apart, number, situation
from fedpoison.contract.entry import Entry

_MOST_F = 4
_N, _D = 11, 24
_CARRIED = 1000.0
"""Times the reach of any published bound: whoever moves the aggregate further carries it away."""


def _at_the_bound(subject: Subject) -> Iterator[Case]:
    """For each f the smallest n that is allowed and the next two; for rules without needs every small (n, f)."""
    for f in range(_MOST_F + 1):
        allowed = [n for n in range(max(1, f), 8 * f + 12) if subject.allows(n, f)][: 3 if subject.entry.needs else 4]
        for n in allowed:
            yield subject.case(drawn(n + 10 * f, n, 3) + 0.5, f, seed=f)


@contract("at the smallest numbers of clients it works or says clearly why not", _at_the_bound, about_failures=True)
def bound(subject: Subject, case: Case) -> str | None:
    """A ValueError with a sentence is clear where there are no needs; with them, the rule has said that it can."""
    try:
        subject.play(case)
    except RuleError as failure:
        if failure.kind == "ValueError" and not subject.entry.needs:
            return None
        promise = f"needs {subject.entry.needs}" if subject.entry.needs else "no needs"
        n = len(case.updates)
        raise RuleError(failure.kind, f"{failure.sentence} (n = {n}, f = {case.f}; it declares {promise})") from failure
    return None


def _past_the_bound(subject: Subject) -> Iterator[Case]:
    for f in range(_MOST_F + 1):
        refused = [n for n in range(max(1, f), 8 * f + 12) if not subject.allows(n, f)]
        for n in refused[-3:]:
            yield subject.case(drawn(n, n, 3), f)


@contract("past its bound it is refused with the bound", _past_the_bound)
def refusal(subject: Subject, case: Case) -> str | None:
    """`aggregate` refuses before the rule is called."""
    reasons = subject.defence.problems(len(case.updates), case.f)
    if not reasons:
        return None
    base = "median" if subject.defence.base else None
    root, probe = case.root_update, subject.situation(case).probe
    try:
        aggregate(
            subject.entry.function,
            case.updates,
            f=case.f,
            base=base,
            root_update=root,
            probe=probe,
            options=subject.options,
        )
    except ValueError as error:
        if all(reason in str(error) for reason in reasons):
            return None
        return f"{situation(subject, case)} it is refused with {str(error)!r} instead of {'; '.join(reasons)!r}"
    return f"{situation(subject, case)} there is an aggregate, although {'; '.join(reasons)}"


def placements(subject: Subject, seed: int, large: float, dtype: torch.dtype, n: int = _N) -> Iterator[Case]:
    """As many attackers as the rule withstands, far away: all one way, many ways, the other way.

    They come first with seed 0, last with seed 1, and at random places otherwise.
    """
    f = subject.most(n)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    if seed < 2:
        order = list(range(n))[:: 1 - 2 * seed]
    bad, honest = order[:f], drawn(seed, n, _D) + 0.5
    for rows in (torch.ones(f, _D).double(), drawn(seed + 70, f, _D), -honest[bad]):
        updates = honest.clone()
        updates[bad] = large * rows
        yield subject.case(updates.to(dtype), f, seed, attackers=tuple(sorted(bad)))


def _far_away(subject: Subject) -> Iterator[Case]:
    for large in (1e6, 1e9, 1e30):
        for dtype in DTYPES:
            for seed in range(subject.effort + 2):
                cases = list(placements(subject, seed, large, dtype))
                one_way = subject.entry.withstands == "huge rows in one direction"
                yield from cases[:1] if one_way else cases


def moved(subject: Subject, case: Case) -> tuple[Tensor, Tensor, float]:
    """The aggregate, the honest mean, and how far an honest client may be from it."""
    honest = case.updates[case.honest].double()
    middle = honest.mean(dim=0)
    return subject.play(case).update.double(), middle, float((honest - middle).norm(dim=1).max())


def reach(n: int, f: int, spread: float) -> float:
    """The distance from the honest mean that no published bound exceeds: the geometric median's."""
    return 2 * (n - f) / (n - 2 * f) * spread


def _withstands(entry: Entry) -> bool:
    return bool(entry.withstands != "nothing")


@contract("f clients with huge rows do not carry the aggregate away", _far_away, _withstands)
def bounded(subject: Subject, case: Case) -> str | None:
    """Nobody who is no more than f moves it a thousand times further than any published bound."""
    n, f = len(case.updates), case.f
    if n <= 2 * f or len(case.attackers) != f:
        return None
    update, middle, spread = moved(subject, case)
    if not spread or (update - middle).norm() <= _CARRIED * reach(n, f, spread):
        return None
    who = (
        f"client{'s' * (f > 1)} {', '.join(map(str, case.attackers))} attack{'s' * (f == 1)}" if f else "nobody attacks"
    )
    made, mean = apart(update, middle)
    return (
        f"{situation(subject, case)}, of which {who}, the aggregate is {made} and the honest mean {mean}; "
        'a rule that does not promise otherwise says withstands="nothing"'
    )


def _attacks(honest: Tensor, f: int, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Rows [f, d] that attackers are known to send."""
    middle, deviation = honest.mean(dim=0), honest.std(dim=0, correction=0)
    spread, ones = (honest - middle).norm(dim=1).max(), torch.ones_like(middle)
    for large in (1e3, 1e9, 1e30):
        yield f"all at {number(large)}", large * ones.expand(f, -1)
        yield f"several ways at {number(large)}", large * drawn(seed + 70, f, len(middle))
    for z in (0.5, 1.0, 1.5, 3.0):
        yield f"{number(z)} standard deviations away", (middle - z * deviation).expand(f, -1)
    for epsilon in (0.5, 1.0, 5.0, 100.0):
        yield f"{number(epsilon)} times the mean, turned", (-epsilon * middle).expand(f, -1)
    for length in (0.5, 1.0, 2.0, 4.0):
        yield f"{number(length)} spreads along a line", (middle + length * spread * ones / ones.norm()).expand(f, -1)
    farthest = honest[(honest - middle).norm(dim=1).argmax()]
    yield "copies of the farthest honest update", farthest.expand(f, -1)


def breakdown(subject: Subject) -> Finding:
    """How far f clients move the aggregate from the honest mean, in root mean square distances of honest clients."""
    n, f = _N, subject.most(_N)
    if not f:
        return Finding("breakdown", "told", f"it takes no attacker among n = {n}")
    worst, how = -1.0, ""
    for seed in range(subject.effort):
        case = next(placements(subject, seed, 1.0, torch.float64))
        honest = case.updates[case.honest]
        for name, rows in _attacks(honest, f, seed):
            updates = case.updates.clone()
            updates[list(case.attackers)] = rows
            try:
                update, middle, _ = moved(subject, replace(case, updates=updates))
            except RuleError as failure:
                return Finding(
                    "breakdown", "told", f"{name}, f = {f} of n = {n} leave no aggregate: {failure.sentence}"
                )
            share = float((update - middle).norm() / (honest - middle).square().sum(dim=1).mean().sqrt())
            if share > worst:
                worst, how = share, name
    sentence = f"f = {f} of n = {n} clients move it by up to {number(worst)} honest standard deviations ({how})"
    return Finding("breakdown", "told", sentence, figures={"moved": worst})


LIMITS = (bound, refusal, bounded)
