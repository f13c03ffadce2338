"""One way to round."""

from decimal import ROUND_HALF_UP, Decimal


def half_up(value: float) -> int:
    """Round to the nearest integer, halves up, on the number as it is written: 0.29 · 100 is 29, 2.5 is 3."""
    return int(Decimal(repr(round(value, 9))).quantize(Decimal(1), rounding=ROUND_HALF_UP))
