"""Shifts of a series, by its weighted average."""

from collections.abc import Callable
from typing import Annotated, Literal

from annotated_types import Interval

from fedpoison.contract.registry import monitor
from fedpoison.defences.monitors.charts import Skipped, Sums, Warmup, chart, lacking
from fedpoison.types import Alarm, Positive, Series, State


@monitor(
    paper="Roberts 1959",
    source="secondary: an implementation about a running mean, and the textbooks' form",
    evidence="tests/defences/test_charts.py::test_a_series_by_hand",
    check=lacking,
)
def ewma(
    reading: Callable[[str], float],
    state: State,
    *,
    series: Series = "norm",
    direction: Literal["both", "up", "down"] = "both",
    skip: Skipped = 0,
    warmup: Warmup = 20,
    weight: Annotated[float, Interval(gt=0, le=1)] = 0.2,
    limit: Positive = 3.0,
) -> tuple[Alarm | None, State]:
    """Alarm when the exponentially weighted average of a series' deviations is beyond so many of its own.

    Z ← λz + (1 − λ)Z from 0, z being deviations from the series' first `warmup` values; after t rounds the deviation
    of Z is √(λ/(2 − λ) · (1 − (1 − λ)^2t)), if the series' own is right. λ = 1 is Shewhart's chart. It begins anew
    after an alarm. Where 20 values are all that is known, normal numbers raise an alarm once in some 140 rounds (the
    median).
    """

    def judge(z: float, sums: Sums) -> tuple[str, Sums]:
        mean, t = weight * z + (1 - weight) * sums.get("mean", 0.0), sums.get("t", 0.0) + 1
        off = mean / (weight / (2 - weight) * (1 - (1 - weight) ** (2 * t))) ** 0.5
        far = (off > limit and direction != "down") or (off < -limit and direction != "up")
        return f"its average is {off:+.3g} of its own off" if far else "", {"mean": mean, "t": t}

    return chart(reading, state, judge, series=series, skip=skip, warmup=warmup)
