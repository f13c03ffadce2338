"""How long a rule takes beside the mean and the median."""

import time
from dataclasses import replace

import torch

from fedpoison.checking.cases import Case, RuleError, Subject, drawn
from fedpoison.checking.contract import Finding
from fedpoison.checking.wording import number
from fedpoison.contract.lookup import find

_N, _D = 20, 200_000
_SLOW = 2.0
"""Seconds after which once is enough."""


def _seconds(subject: Subject, case: Case) -> float:
    """The best of three, after a first to warm up."""
    times: list[float] = []
    while len(times) < 4 and sum(times) < _SLOW:
        started = time.perf_counter()
        subject.play(case)
        times.append(time.perf_counter() - started)
    return min(times)


def speed(subject: Subject) -> Finding:
    """The time on one matrix, and how many times the mean's and the median's that is."""
    f = min(4, subject.most(_N))
    if not subject.allows(_N, f):
        return Finding("speed", "told", f"not measured: it does not take n = {_N} clients")
    updates = drawn(0, 1, _D).float() * 0.1 + torch.linspace(-1, 1, _N).unsqueeze(1)
    updates += drawn(1, _N, 1000).float().repeat(1, _D // 1000)
    try:
        own = _seconds(subject, subject.case(updates, f))
    except RuleError as failure:
        return Finding("speed", "told", f"not measured: {failure.sentence}")
    plain = [replace(subject, entry=find("aggregator", name)) for name in ("mean", "median")]
    plain = [replace(each, options=each.entry.validate({})) for each in plain]
    mean, median = (_seconds(each, each.case(updates, f)) for each in plain)
    sentence = (
        f"{number(own)} s for {_N} × {_D:,} numbers: {number(own / mean)} times the mean, "
        f"{number(own / median)} times the median"
    )
    return Finding("speed", "told", sentence, figures={"seconds": own, "mean": mean, "median": median})
