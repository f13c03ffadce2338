"""What more than one file of tests builds."""

from hypothesis import settings

few = False
"""Whether this run leaves out what is exhaustive; conftest sets it."""


def draws(some: int, many: int) -> settings:
    """Of hypothesis, the same each time, and many only where exhaustive tests run too."""
    return settings(derandomize=True, deadline=None, max_examples=some if few else many)
