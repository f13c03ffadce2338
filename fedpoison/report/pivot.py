"""Results as a table of any rows by any columns: means with t-intervals over seeds, or every seed."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl
from rich.table import Table
from scipy.special import stdtrit

from fedpoison.common.dotted import telling
from fedpoison.common.errors import ConfigError
from fedpoison.common.plain import plain
from fedpoison.common.spelling import hint
from fedpoison.measures.metrics import METRICS, RUN_METRICS, spelled
from fedpoison.report.formats import latex, markdown, text
from fedpoison.report.grouping import without_references
from fedpoison.report.origins import COUNTS, origins, own, with_origins
from fedpoison.report.remarks import remarks
from fedpoison.report.rounds import at_round, in_words
from fedpoison.runs.frame import LASTS, Runs, measured

_FEW = ("accuracy", "attack_success")
_MORE = ("accuracy", "auc", "damage", "attack_success", "clean_success", "asr_untriggered", "detection_f1")
"""What is shown unless metrics are given: of several attacks and of a single one."""
Format = Literal["text", "markdown", "latex", "csv", "json"]
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Cell:
    """What the seeds of one cell gave for one metric; `at_least`: of which values only a lower bound is known."""

    values: tuple[float, ...]
    at_least: tuple[bool, ...] = ()

    def text(self, seeds: bool) -> str:
        """Mean ± half of the 95 % t-interval; each seed's value too if asked for."""
        if not self.values:
            return "–"
        mean = f"{statistics.fmean(self.values):.3f}"
        if any(self.at_least):
            mean = f"≥{mean}"
        half = self.half_width
        interval = mean if half is None else f"{mean}±{half:.3f}"
        bounds = self.at_least or (False,) * len(self.values)
        listed = " ".join(f"{'≥' * least}{value:.3f}" for value, least in zip(self.values, bounds, strict=True))
        return f"{interval} ({listed})" if seeds and len(self.values) > 1 else interval

    @property
    def half_width(self) -> float | None:
        """Half the width of the mean's 95 % confidence interval, by Student's t; None for a single seed or a bound."""
        n = len(self.values)
        if n < 2 or any(self.at_least):
            return None
        quantile = float(stdtrit(n - 1, (1 + _CONFIDENCE) / 2))
        return quantile * statistics.stdev(self.values) / math.sqrt(n)


@dataclass(frozen=True)
class Pivot:
    """Rows and columns by the values of their keys; `cells[row][column]` is a Cell, a column being one of a metric."""

    row_keys: tuple[str, ...]
    rows: list[tuple[str, ...]]
    columns: list[tuple[str, ...]]
    cells: list[list[Cell]]
    note: str
    remarks: tuple[str, ...] = ()

    def render(self, form: Format, seeds: bool = False, width: int = 120) -> list[Table] | str:
        """The table for a document (with its note and remarks), for a machine, or for a terminal of this width."""
        heads = [*self.row_keys, *(plain(", ".join(column)) for column in self.columns)]
        lines = zip(self.rows, self.cells, strict=True)
        body = [[*map(plain, row), *(cell.text(seeds) for cell in cells)] for row, cells in lines]
        names = len(self.row_keys)
        if form == "text":
            return text(heads, body, names, width)
        if form == "markdown":
            return "\n\n".join([markdown(heads, body, names), self.note, *self.remarks])
        if form == "latex":
            return latex(heads, body, names, [self.note, *self.remarks])
        return self._plain().write_csv() if form == "csv" else self._plain().write_json()

    def _plain(self) -> pl.DataFrame:
        """A row a cell and metric: mean, the interval's half width, seeds, whether it is a lower bound, every value."""
        lines: list[dict[str, Any]] = []
        for row, cells in zip(self.rows, self.cells, strict=True):
            for column, cell in zip(self.columns, cells, strict=True):
                lines.append(
                    {
                        **dict(zip(self.row_keys, map(plain, row), strict=True)),
                        "column": plain(", ".join(column)),
                        "mean": statistics.fmean(cell.values) if cell.values else None,
                        "half_width": cell.half_width,
                        "seeds": len(cell.values),
                        "at_least": any(cell.at_least),
                        "values": " ".join(repr(value) for value in cell.values),
                    }
                )
        return pl.DataFrame(lines, infer_schema_length=None)


def pivot(
    runs: Runs,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    metrics: Sequence[str] = (),
    at: str = "last",
    tuned: bool = False,
) -> Pivot:
    """Arrange runs by keys of theirs: `rule`, `attack`, or any dotted key of the configuration.

    Without keys: rules by attacks, and by as many more keys as tell the runs apart (see `_usual`).
    `at`: "last"; "best", the round with the highest validation accuracy, the first of them; "best_auc" or the like, by
    another metric of validation; "last5" or the like, the mean of the last five evaluations; or a round's number.
    ConfigError for an unknown key or metric, for what was not measured, and for runs that fall into one cell though
    they differ in more than the seed.
    Runs that are not finished are left out, unless `at` is a number. `tuned`: each rule has settings of its own, so
    these may differ.
    """
    runs = runs if at.isdigit() else runs.finished()  # the last round of one that was cut is no other's last
    usual = not rows and not columns
    compared = usual or any(key == "attack" or key.startswith("threat.") for key in (*rows, *columns))
    frame = runs.rows() if compared else without_references(runs)
    if not len(frame):
        raise ConfigError(["none of these runs has come to the end of a round"])
    known = [c for c in frame.columns if "." in c or c in ("rule", "attack", "seed", "name", "rounds")]
    settings = [c for c in known if c not in ("seed", "rule", "attack", "name")]
    same = {key: str(value) for key, value in runs.shared().items()}
    problems = [
        f"there is no key {k!r} in which these runs differ; {hint(k, [*known, *same])}there are {', '.join(known)}"
        for k in (*rows, *columns)
        if k not in known and k not in same
    ]
    if problems:
        raise ConfigError(problems)
    metrics = spelled(metrics, (*METRICS, *RUN_METRICS))
    last = at_round(frame, at).join(runs.summary(), on="run", how="left")
    if usual:
        rows, columns, last = _usual(last, settings, runs.clean())
    keys = [*rows, *columns]
    if not usual and set(keys) & set(COUNTS) and set(keys) & {"attack", *own(last)}:
        last = with_origins(last)
    last = last.with_columns(pl.lit(same[key]).alias(key) for key in keys if key not in known)
    hidden = [] if tuned else [key for key in settings if key not in keys]
    last = _without(last, runs.clean(), keys, hidden)
    _check_alike(last, keys, hidden)
    last = last.with_columns(pl.col(key).cast(pl.String).fill_null("–") for key in keys)
    row_values: list[tuple[str, ...]] = sorted(set(last.select(rows).rows()), key=_order) if rows else [()]
    column_values: list[tuple[str, ...]] = sorted(set(last.select(columns).rows()), key=_order) if columns else [()]
    offered = list(metrics) or (_MORE if usual and len(column_values) == 1 else _FEW)
    empty = [m for m in metrics if not measured(last, m)]
    if empty:
        raise ConfigError([f"these runs have no {m}" for m in empty])
    filled = {
        (*column, metric): [_cell(_part(last, keys, (*row, *column)), metric) for row in row_values]
        for column in column_values
        for metric in offered
        if metrics or measured(_part(last, columns, column), metric)  # what was not asked for is no column of dashes
    }
    told = list(dict.fromkeys(metric for *_, metric in filled))
    heads = [(*column, metric.replace("_", " ")) for *column, metric in filled]
    if len(told) == 1 and columns:
        heads = [tuple(column) for *column, _ in filled]
    cells = [list(line) for line in zip(*filled.values(), strict=True)]
    return Pivot(tuple(rows), row_values, heads, cells, _note(last, columns, told, at), tuple(remarks(runs)))


def _note(last: pl.DataFrame, columns: Sequence[str], metrics: Sequence[str], at: str) -> str:
    """What the numbers are: the metric or the columns' keys where headings do not say them, the round, the interval."""
    count = last["seed"].n_unique()
    what = f"{metrics[0].replace('_', ' ')} {in_words(at)}" if len(metrics) == 1 else in_words(at)
    lasting = f"durability: rounds after the attack's last one until its success is no longer above {LASTS}"
    parts = [] if set(metrics) <= set(RUN_METRICS) else [what]
    parts += [lasting] if "durability" in metrics else []
    spread = f", mean ± half of the 95 % t-interval over {count} seeds" if count > 1 else ""
    by = f"; columns by {', '.join(columns)}" if len(columns) > 1 else ""
    return "; ".join(parts) + spread + by


def _usual(last: pl.DataFrame, settings: list[str], references: set[str]) -> tuple[list[str], list[str], pl.DataFrame]:
    """Rules by attacks, with the settings that tell runs of one rule and attack apart: attacks' options beside the
    attack, all others beside the rule. Of a single attack there is no column of its clean runs: more of it is shown.
    """
    others = last.filter(_attacked(references))
    chosen = others if len(others) else last
    told = _telling(chosen, settings)
    if set(told) & set(COUNTS) or _telling(chosen.filter(origins(chosen)), own(last)):
        chosen = last = with_origins(chosen)
        told = _telling(chosen, settings)
    beside = [key for key in told if key in own(last)]
    rows, columns = ["rule", *(key for key in told if key not in beside)], ["attack", *beside]
    return rows, columns, chosen if chosen["attack"].n_unique() == 1 else last


def _telling(runs: pl.DataFrame, settings: list[str]) -> list[str]:
    return telling(runs.select(settings).to_dicts(), runs.select("rule", "attack", "seed").rows())


def _attacked(references: set[str]) -> pl.Expr:
    """Whether a run is none of the clean ones that others are compared with."""
    return (pl.col("attack") != "none") | ~pl.col("run").is_in(list(references))


def _part(last: pl.DataFrame, keys: Sequence[str], values: Sequence[str]) -> pl.DataFrame:
    """The runs that have these values, by seed."""
    return last.filter(pl.lit(True), *(pl.col(k) == v for k, v in zip(keys, values, strict=True))).sort("seed")


def _cell(part: pl.DataFrame, metric: str) -> Cell:
    measured = part.drop_nulls(metric)
    bounds = tuple(measured["outlasts"].to_list()) if metric == "durability" else ()
    return Cell(tuple(measured[metric].to_list()), bounds)


def _order(values: tuple[str, ...]) -> list[tuple[int, float, str]]:
    """Numbers by size, then words by the alphabet; what others are held against, and what is missing, comes first."""
    ranks = []
    for value in values:
        try:
            ranks.append((1, float(value), ""))
        except ValueError:
            ranks.append((0 if value in ("mean", "none", "–") else 2, 0.0, value))
    return ranks


def _without(last: pl.DataFrame, references: set[str], keys: list[str], hidden: list[str]) -> pl.DataFrame:
    """A clean run that others are compared with is a cell of its own, unless several of them would share one."""
    others = last.filter(_attacked(references))
    return others if len(others) and _mixed(last, keys, hidden) and not _mixed(others, keys, hidden) else last


def _mixed(last: pl.DataFrame, keys: list[str], hidden: list[str]) -> list[str]:
    """The settings in which runs of one seed differ that would share a cell."""
    cells = last.group_by([*keys, "seed"])
    return [key for key in hidden if (cells.agg(pl.col(key).n_unique())[key] > 1).any()]


def _check_alike(last: pl.DataFrame, keys: list[str], hidden: list[str]) -> None:
    """Refuse to average over anything but seeds."""
    mixed = _mixed(last, keys, hidden)
    if mixed:
        hint = "make them rows or columns, or give fewer runs"
        raise ConfigError([f"runs that differ in {', '.join(mixed)} would share a cell: {hint}"])
    twice = last.group_by([*keys, "seed"]).len()
    if (twice["len"] > 1).any():
        raise ConfigError(["several runs of one seed would share a cell: give more keys to --rows or --cols"])
