"""One way to round, and one to round down."""

import math
from decimal import ROUND_HALF_UP, Decimal


def half_up(value: float) -> int:
    """Round to the nearest integer, halves up, on the number as it is written: 0.29 · 100 is 29, 2.5 is 3."""
    return int(Decimal(repr(round(value, 9))).quantize(Decimal(1), rounding=ROUND_HALF_UP))


def down(value: float) -> int:
    """The largest integer that is not above the number as it is written: 0.29 · 100 is 29, 2.5 is 2."""
    return math.floor(round(value, 9))
