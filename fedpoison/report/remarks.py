"""What must be known of runs to read their tables and figures."""

from fedpoison.report.frame import Runs


def remarks(runs: Runs) -> list[str]:
    """Lines that go under every table and figure of these runs."""
    return list(runs.left_out)
