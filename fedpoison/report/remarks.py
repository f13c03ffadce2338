"""What must be known of runs to read their tables and figures."""

from fedpoison.runs.frame import Runs
from fedpoison.runs.happened import happened


def remarks(runs: Runs) -> list[str]:
    """Lines that go under every table and figure of these runs."""
    return [*runs.left_out, *runs.unfinished(), *happened(runs.folders)]
