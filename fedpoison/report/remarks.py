"""What must be known of runs to read their tables and figures."""

from fedpoison.report.frame import Runs
from fedpoison.report.happened import happened


def remarks(runs: Runs) -> list[str]:
    """Lines that go under every table and figure of these runs."""
    return [*runs.left_out, *happened(runs.folders)]
