"""Small shifts that last, by cumulative sums."""

from collections.abc import Callable
from typing import Literal

from fedpoison.contract.registry import monitor
from fedpoison.defences.monitors.charts import Skipped, Sums, Warmup, chart, lacking
from fedpoison.types import Alarm, NotNegative, Positive, Series, State


@monitor(
    paper="Page 1954",
    source="secondary: an implementation in raw units, and the textbooks' two-sided form",
    evidence="tests/defences/test_charts.py::test_a_series_by_hand",
    check=lacking,
)
def cusum(
    reading: Callable[[str], float],
    state: State,
    *,
    series: Series = "norm",
    direction: Literal["both", "up", "down"] = "both",
    skip: Skipped = 0,
    warmup: Warmup = 20,
    k: NotNegative = 0.5,
    h: Positive = 5.0,
) -> tuple[Alarm | None, State]:
    """Alarm when a series' deviations beyond k have summed up to more than h, in one direction.

    S⁺ ← max(0, S⁺ + z − k), S⁻ ← max(0, S⁻ − z − k), z being deviations from the series' first `warmup` values, of
    which the mean and the deviation are kept; sums begin anew after an alarm. With k = .5 and h = 5 a shift by one
    deviation is found after 10 rounds in the mean; normal numbers raise an alarm once in 460 rounds, and once in some
    120 (the median) where 20 of them are all that is known of them. Accuracies rise at first: `skip` those rounds, and
    look "down".
    """

    def judge(z: float, sums: Sums) -> tuple[str, Sums]:
        up, down = max(0.0, sums.get("up", 0.0) + z - k), max(0.0, sums.get("down", 0.0) - z - k)
        wrong = [f"rises sum up to {up:.3g}"] if up > h and direction != "down" else []
        wrong += [f"falls sum up to {down:.3g}"] if down > h and direction != "up" else []
        return ", ".join(wrong), {"up": up, "down": down}

    return chart(reading, state, judge, series=series, skip=skip, warmup=warmup)
