"""The last round's figures, a row a rule."""

import statistics

import polars as pl
from rich.table import Table

from fedpoison.report.frame import Runs, measured
from fedpoison.report.grouping import grouped

_COLUMNS = {
    "accuracy": "accuracy",
    "auc": "AUC",
    "damage": "damage",
    "attack_success": "attack success",
    "clean_success": "of the clean model",
    "asr_untriggered": "without trigger",
    "detection_f1": "detection F1",
}


def tables(runs: Runs) -> list[Table]:
    """A table a panel: each rule's last round, mean ± standard deviation over seeds."""
    frame = grouped(runs)
    last = frame.filter(pl.col("round") == pl.col("round").max().over("run"))
    made = []
    for panel in last["panel"].unique(maintain_order=True):
        part = last.filter(pl.col("panel") == panel)
        seeds = part["seed"].n_unique()
        rounds = f"round {max(part['round'].to_list())}"
        title = f"{panel}: {rounds}" + (f", mean ± sd of {seeds} seeds" if seeds > 1 else "")
        shown = {c: t for c, t in _COLUMNS.items() if c in part.columns and measured(part, c)}
        table = Table(title=title, title_justify="left")
        table.add_column("rule", no_wrap=True)
        for heading in shown.values():
            table.add_column(heading, justify="right", min_width=5)
        for line in part["line"].unique(maintain_order=True).to_list():
            table.add_row(line, *(spread(part.filter(pl.col("line") == line)[column]) for column in shown))
        made.append(table)
    return made


def spread(values: pl.Series) -> str:
    """Mean ± sample standard deviation, or the one value; a dash where nothing was measured."""
    numbers = values.drop_nulls().to_list()
    if not numbers:
        return "–"
    mean = f"{statistics.fmean(numbers):.3f}"
    return mean if len(numbers) == 1 else f"{mean}±{statistics.stdev(numbers):.3f}"
