"""Where the time of runs went."""

import polars as pl
from rich.table import Table

from fedpoison.contract.vocabulary import PHASES
from fedpoison.report.grouping import grouped
from fedpoison.runs.frame import Runs


def timing(runs: Runs) -> Table:
    """Milliseconds a round in each phase and its share of all rounds' time, a row a rule."""
    title = "ms a round, and share of the time in rounds"
    frame = grouped(runs)
    table = Table(title=title, title_justify="left")
    table.add_column("rule", no_wrap=True)
    for heading in (*PHASES, "all", "rounds"):
        table.add_column(heading, justify="right")
    for line in frame["line"].unique(maintain_order=True).to_list():
        part = frame.filter(pl.col("line") == line)
        spent = [float(sum(part[f"seconds_{phase}"].to_list())) for phase in PHASES]
        total, rounds = sum(spent), len(part)
        cells = [f"{1000 * phase / rounds:.1f}  {phase / total if total else 0:4.0%}" for phase in spent]
        table.add_row(line, *cells, f"{1000 * total / rounds:.1f}", str(rounds))
    return table
