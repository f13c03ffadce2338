"""Clipping: how much is left of rows that may be no longer than a threshold."""

from collections.abc import Callable

from torch import Tensor

from fedpoison.linalg.sorting import middle
from fedpoison.types import Norms, Threshold


def left_of(lengths: Norms, threshold: Threshold) -> Tensor:
    """min(1, threshold / length) for each row; "median" is that of the lengths, which fewer than half do not rule."""
    limit = middle(lengths) if threshold == "median" else threshold
    return (limit / lengths).clamp(max=1).nan_to_num(1.0)  # 0 / 0: nothing is left to clip


def tell(say: Callable[[str], None], left: Tensor, option: str, threshold: Threshold) -> None:
    """Say of a threshold on the scale of the updates that it clips nobody, or everybody: it may be another's scale."""
    clipped = left < 1
    if threshold != "median" and (clipped.all() or not clipped.any()):
        say(f"{option} = {threshold:g} clips {'everybody' if clipped.all() else 'nobody'}")
