"""Shifts of a series against its own running mean."""

import math
from collections.abc import Callable
from typing import Literal

from fedpoison.contract.registry import monitor
from fedpoison.defences.monitors.charts import Skipped, Sums, Warmup, chart, lacking
from fedpoison.types import Alarm, NotNegative, Positive, Series, State


@monitor(
    paper="Page 1954",
    source="read: river, with both directions; its units are raw",
    evidence="tests/defences/test_charts.py::test_page_hinkley_is_river_s_on_deviations",
    check=lacking,
)
def page_hinkley(
    reading: Callable[[str], float],
    state: State,
    *,
    series: Series = "norm",
    direction: Literal["both", "up", "down"] = "both",
    skip: Skipped = 0,
    warmup: Warmup = 20,
    delta: NotNegative = 0.5,
    threshold: Positive = 5.0,
) -> tuple[Alarm | None, State]:
    """Alarm when a series has gone on rising or falling by more than δ from its mean so far.

    x̄ is the mean of the deviations z from the series' first `warmup` values, this one and the first among them; U sums
    up z − x̄ − δ, D sums up z − x̄ + δ; a rise is U less its least value so far, a fall is D's largest less D. Either
    above the threshold is an alarm, once there are `warmup` values; all begins anew then, with the same measure. The
    sums are not forgotten (river's α = 1). The usual settings, δ = .005 and a threshold of 50 in raw units, find
    nothing in an accuracy. What lasts moves x̄: it is found soon or not at all.
    """

    def judge(z: float, sums: Sums) -> tuple[str, Sums]:
        n = sums.get("n", 0.0) + 1
        mean = sums.get("mean", 0.0) + (z - sums.get("mean", 0.0)) / n
        up, down = sums.get("up", 0.0) + z - mean - delta, sums.get("down", 0.0) + z - mean + delta
        least, most = min(sums.get("least", math.inf), up), max(sums.get("most", -math.inf), down)
        after = {"n": n, "mean": mean, "up": up, "down": down, "least": least, "most": most}
        wrong = [f"a rise of {up - least:.3g}"] if up - least > threshold and direction != "down" else []
        wrong += [f"a fall of {most - down:.3g}"] if most - down > threshold and direction != "up" else []
        return (", ".join(wrong) if n >= warmup else ""), after

    return chart(reading, state, judge, series=series, skip=skip, warmup=warmup, replay=True)
