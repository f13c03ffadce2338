"""A window of a series that is cut where its two parts have other means."""

import math
from collections.abc import Callable
from typing import Annotated

import torch
from annotated_types import Interval

from fedpoison.contract.registry import monitor
from fedpoison.defences.monitors.charts import Skipped, lacking
from fedpoison.types import Alarm, Count, Series, State

_IN_A_ROW = 5
"""Buckets of one size; of a sixth the two oldest become one of twice the size."""
_FEWEST, _GRACE = 5, 10
"""Values on either side of a cut, and in a window, without which nothing is looked for."""
Bucket = tuple[float, float, float]
"""How many values, their mean, and the sum of their squared distances from it."""


@monitor(
    paper="Bifet and Gavalda 2007",
    source="read: river 0.26.1, whose alarms these are",
    evidence="tests/defences/test_charts.py::test_adwin_is_river_s",
    check=lacking,
)
def adwin(
    reading: Callable[[str], float],
    state: State,
    *,
    series: Series = "norm",
    skip: Skipped = 0,
    delta: Annotated[float, Interval(gt=0, lt=1)] = 0.002,
    clock: Count = 1,
) -> tuple[Alarm | None, State]:
    """Alarm when an older and a newer part of a series' window have means too far apart.

    Their ADWIN2: the window is kept as buckets of 1, 2, 4, … values, at most five of each size. At each border between
    n₀ older and n₁ newer values, |μ₀ − μ₁| > √(2mvl) + ⅔ml is too far, v being the window's variance, W its length,
    l = ln(2 ln W/δ), m = 1/(n₀ − 4) + 1/(n₁ − 4); then the window begins anew. It looks every `clock` rounds (river
    every 32, unless told). It needs no warm-up and is slow: after 50 values of .8 without noise, .1 is found in 31
    rounds, .4 in 61, .7 never.
    """
    value = reading(series)
    if not math.isfinite(value):
        return Alarm(f"{series} is {value}"), state
    seen = int(state.get("seen", 0)) + 1
    if seen <= skip:
        return None, {"seen": torch.tensor(float(seen))}
    known = state.get("buckets", torch.zeros(0, 3, dtype=torch.float64))
    buckets = _compressed([*((n, mean, squares) for n, mean, squares in known.tolist()), (1.0, value, 0.0)])
    tick = int(state.get("tick", 0)) + 1
    kept = {"seen": torch.tensor(float(seen))}
    if tick % clock == 0 and (apart := _cut(buckets, delta)):
        return Alarm(f"the mean of {series} went from {apart[0]:.4g} to {apart[1]:.4g}"), kept
    kept |= {"buckets": torch.tensor(buckets, dtype=torch.float64), "tick": torch.tensor(float(tick))}
    return None, kept


def _cut(buckets: list[Bucket], delta: float) -> tuple[float, float] | None:
    """The means on both sides of the first border, from the oldest on, at which they are too far apart."""
    whole = _merged(buckets)
    if whole[0] <= _GRACE:
        return None
    strict = math.log(2 * math.log(whole[0]) / delta)
    for border in range(1, len(buckets)):
        (n, old, _), (k, new, _) = _merged(buckets[:border]), _merged(buckets[border:])
        if min(n, k) >= _FEWEST:
            m = 1 / (n - _FEWEST + 1) + 1 / (k - _FEWEST + 1)
            if abs(old - new) > math.sqrt(2 * m * whole[2] / whole[0] * strict) + 2 / 3 * m * strict:
                return old, new
    return None


def _compressed(buckets: list[Bucket]) -> list[Bucket]:
    """Oldest first: no more than five buckets of a size."""
    size = 1.0
    while len(row := [place for place, bucket in enumerate(buckets) if bucket[0] == size]) > _IN_A_ROW:
        buckets[row[0] : row[1] + 1] = [_merged(buckets[row[0] : row[1] + 1])]
        size *= 2
    return buckets


def _merged(buckets: list[Bucket]) -> Bucket:
    """All their values in one."""
    n = sum(bucket[0] for bucket in buckets)
    mean = sum(bucket[0] * bucket[1] for bucket in buckets) / n
    return n, mean, sum(bucket[2] + bucket[0] * (bucket[1] - mean) ** 2 for bucket in buckets)
