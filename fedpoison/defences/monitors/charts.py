"""What charts of one series share: the series, its beginning as the measure, and the memory."""

import math
from collections.abc import Callable, Collection
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor

from fedpoison.types import Alarm, State

Sums = dict[str, float]
Judge = Callable[[float, Sums], tuple[str, Sums]]
"""Of a deviation and the sums so far: what is wrong, if anything, and the sums after it."""
Warmup = Annotated[int, Ge(2)]
Skipped = Annotated[int, Ge(0)]


def chart(
    reading: Callable[[str], float],
    state: State,
    judge: Judge,
    *,
    series: str,
    skip: int,
    warmup: int,
    replay: bool = False,
) -> tuple[Alarm | None, State]:
    """Show a judge by how many deviations a round's value is off the mean of the first `warmup` after `skip` rounds.

    These stay the measure: what lasts is not learned from. An alarm begins the sums anew. A value that is no number is
    an alarm and changes nothing else. `replay`: the judge is shown the first values too, once they are known.
    """
    value = reading(series)
    if not math.isfinite(value):
        return Alarm(f"{series} is {value}"), state
    seen, first = int(state.get("seen", 0)) + 1, state.get("first", torch.zeros(0, dtype=torch.float64))
    sums = {name: float(each) for name, each in state.items() if name not in ("seen", "first")}
    wrong = ""
    if len(first) == warmup:
        wrong, sums = judge(_deviations(first, value), sums)
    elif seen > skip:
        first = torch.cat([first, first.new_tensor([value])])
        for early in first.tolist() if replay and len(first) == warmup else ():
            _, sums = judge(_deviations(first, early), sums)
    kept = {"seen": torch.tensor(float(seen)), "first": first}
    if wrong:
        off = f"{_deviations(first, value):+.3g} deviations from its first {warmup}"
        return Alarm(f"{series} is {value:.4g}, {off}: {wrong}"), kept
    return None, kept | {name: torch.tensor(each, dtype=torch.float64) for name, each in sums.items()}


def _deviations(first: Tensor, value: float) -> float:
    """(x − μ)/σ by the first values; where they are all alike, σ is a thousandth of μ."""
    mean, deviation = float(first.mean()), float(first.std())
    return (value - mean) / (deviation or max(1e-3 * abs(mean), 1e-12))


def lacking(samples: Collection[str], *, series: str, **options: Any) -> list[str]:
    """What a monitor of a series lacks where the server has these sets of samples of its own."""
    needed = series.partition("_")[0]
    return [f"{series} needs [data] {needed}"] if needed in ("root", "validation") and needed not in samples else []
