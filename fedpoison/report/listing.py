"""Runs one by one."""

import polars as pl
from rich.table import Table

from fedpoison.common.dotted import flatten, titles
from fedpoison.report.formats import text
from fedpoison.runs.frame import Runs
from fedpoison.runs.versions import Told

_FIGURES = ("accuracy", "damage", "attack_success")


def listing(runs: Runs, width: int) -> list[Table]:
    """A row a run for a terminal of this width: its folder, how far it came, its last figures, what it is."""
    called = titles(
        [flatten(run.config) for run in runs.runs], [(run.labels["rule"], run.labels["attack"]) for run in runs.runs]
    )
    frame = runs.rows().drop_nulls("accuracy")
    last = frame.filter(pl.col("round") == pl.col("round").max().over("run"))
    measured = {row["run"]: row for row in last.rows(named=True)}
    figures = [name for name in _FIGURES if last[name].is_not_null().any()]
    body = []
    for run, title in sorted(zip(runs.runs, called, strict=True), key=lambda pair: _order(*pair)):
        found = measured.get(run.folder.path.name, {})
        values = (found.get(name) for name in figures)
        words = ["–" if value is None else f"{value:.3f}" for value in values]
        body.append([run.folder.path.name, title, _state(run), *words])
    return text(["run", "what it is", "rounds", *(name.replace("_", " ") for name in figures)], body, 2, width)


def _order(run: Told, title: str) -> tuple[str, bool, str, int]:
    """By attack, the plain mean first, seeds by size."""
    return run.labels["attack"], run.labels["rule"] != "mean", title.rsplit(" · ", 1)[0], run.config["seed"]


def _state(run: Told) -> str:
    done, rounds = len(run.folder.records()), run.config["rounds"]
    if run.folder.ended:
        return str(rounds) if done == rounds else f"{done} of {rounds}, ended by a monitor"
    failed = (run.folder.path / "error.txt").is_file()
    return f"{done} of {rounds}, {'failed' if failed else 'cut'}"
