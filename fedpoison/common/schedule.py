"""When an attack is on, for whoever must not load torch to know."""

from collections.abc import Sequence


def last_round(start: int, every: int, end: int | None, at: Sequence[int] | None) -> int | None:
    """The last of the rounds `at`, or of start, start + every, … up to `end`; None if they go on."""
    if at:
        return max(at)
    return None if end is None else start + (end - start) // every * every
