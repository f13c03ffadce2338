"""Results as a table of any rows by any columns: means with t-intervals over seeds, or every seed."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl
from rich.markup import escape
from rich.table import Table
from scipy.special import stdtrit

from fedpoison.errors import ConfigError
from fedpoison.metrics import DETECTION, METRICS, RUN_METRICS, SPREAD, TWO_CLASSES, VALIDATION, unknown, worth
from fedpoison.report.frame import LASTS, Runs, measured
from fedpoison.report.grouping import without_references
from fedpoison.report.remarks import remarks

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

    def render(self, form: Format, seeds: bool = False) -> Table | str:
        """The table for a terminal (without its note and remarks), a document or a machine (without them too)."""
        heads = [*self.row_keys, *(", ".join(column) for column in self.columns)]
        body = [[*row, *(cell.text(seeds) for cell in cells)] for row, cells in zip(self.rows, self.cells, strict=True)]
        if form == "text":
            made = Table()
            for i, head in enumerate(heads):
                made.add_column(escape(head), justify="left" if i < len(self.row_keys) else "right")
            for line in body:
                made.add_row(*map(escape, line))
            return made
        if form == "markdown":
            return "\n\n".join([_markdown(heads, body, len(self.row_keys)), self.note, *self.remarks])
        if form == "latex":
            return _latex(heads, body, len(self.row_keys), [self.note, *self.remarks])
        return self._plain().write_csv() if form == "csv" else self._plain().write_json()

    def _plain(self) -> pl.DataFrame:
        """A row a cell and metric: mean, the interval's half width, seeds, whether it is a lower bound, every value."""
        lines: list[dict[str, Any]] = []
        for row, cells in zip(self.rows, self.cells, strict=True):
            for column, cell in zip(self.columns, cells, strict=True):
                lines.append(
                    {
                        **dict(zip(self.row_keys, row, strict=True)),
                        "column": ", ".join(column),
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
    rows: Sequence[str],
    columns: Sequence[str],
    metrics: Sequence[str] = (),
    at: str = "last",
    tuned: bool = False,
) -> Pivot:
    """Arrange runs by keys of theirs: `rule`, `attack`, or any dotted key of the configuration.

    `at`: "last"; "best", the round with the highest validation accuracy, the first of them; "best_auc" or the like, by
    another metric of validation; "last5" or the like, the mean of the last five evaluations; or a round's number.
    ConfigError for an unknown key or metric, for what was not measured, and for runs that fall into one cell though
    they differ in more than the seed. `tuned`: each rule has settings of its own, so these may differ.
    """
    keys = [*rows, *columns]
    compared = any(key == "attack" or key.startswith("threat.") for key in keys)
    frame = runs.rows() if compared else without_references(runs)  # a clean run is a cell of its own, or in the way
    if not len(frame):
        raise ConfigError(["none of these runs has come to the end of a round"])
    there_are = (*METRICS, *RUN_METRICS)
    known = [c for c in frame.columns if "." in c or c in ("rule", "attack", "seed", "name", "rounds")]
    same = {key: str(value) for key, value in runs.shared().items()}
    problems = [
        f"there is no key {k!r} in which these runs differ; there are {', '.join(known)}"
        for k in keys
        if k not in known and k not in same
    ]
    problems += unknown(metrics, there_are)
    if problems:
        raise ConfigError(problems)
    frame = frame.with_columns(pl.lit(same[key]).alias(key) for key in keys if key not in known)
    last = _at(frame, at).join(runs.summary(), on="run", how="left")
    chosen = list(metrics) or [m for m in ("accuracy", "attack_success") if last[m].is_not_null().any()]
    empty = [m for m in chosen if not measured(last, m)]
    if empty:
        raise ConfigError([f"these runs have no {m}" for m in empty])
    _check_alike(last, keys, [] if tuned else [c for c in known if c not in ("seed", "rule", "attack", "name")])
    last = last.with_columns(pl.col(key).cast(pl.String).fill_null("–") for key in keys)
    row_values: list[tuple[str, ...]] = sorted(set(last.select(rows).rows()), key=_order) if rows else [()]
    column_values: list[tuple[str, ...]] = sorted(set(last.select(columns).rows()), key=_order) if columns else [()]
    cells = []
    for row in row_values:
        here = last.filter(pl.all_horizontal(pl.lit(True), *(pl.col(k) == v for k, v in zip(rows, row, strict=True))))
        line = []
        for column in column_values:
            of = [pl.col(k) == v for k, v in zip(columns, column, strict=True)]
            part = here.filter(pl.all_horizontal(pl.lit(True), *of)).sort("seed")
            line += [_cell(part, metric) for metric in chosen]
        cells.append(line)
    heads = [(*column, metric.replace("_", " ")) for column in column_values for metric in chosen]
    if len(chosen) == 1 and columns:
        heads = list(column_values)
    count = last["seed"].n_unique()
    what = f"{chosen[0].replace('_', ' ')} {_when(at)}" if len(chosen) == 1 else _when(at)
    lasting = f"durability: rounds after the attack's last one until its success is no longer above {LASTS}"
    parts = [] if set(chosen) <= set(RUN_METRICS) else [what]
    parts += [lasting] if "durability" in chosen else []
    spread = f", mean ± half of the 95 % t-interval over {count} seeds" if count > 1 else ""
    return Pivot(tuple(rows), row_values, heads, cells, "; ".join(parts) + spread, tuple(remarks(runs)))


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


_BEST = {"best" if name == "accuracy" else f"best_{name}": validated for validated, name in VALIDATION.items()}
"""What --at calls the round in which a metric of validation is best."""


def _at(frame: pl.DataFrame, at: str) -> pl.DataFrame:
    """A row a run: the one round that is told of, or the mean of several."""
    if at == "last":
        return frame.filter(pl.col("round") == pl.col("round").max().over("run"))
    if at in _BEST:
        return _best(frame, _BEST[at])
    if at.startswith("last") and at[4:].isdigit() and int(at[4:]):
        return _mean_of_last(frame, int(at[4:]))
    if not at.isdigit():
        raise ConfigError([f"--at takes last, {', '.join(_BEST)}, last5 or a round's number, not {at!r}"])
    found = frame.filter(pl.col("round") == int(at))
    if not len(found):
        raise ConfigError([f"no run has a round {at}"])
    return found


def _when(at: str) -> str:
    """The same in words."""
    if at in _BEST:
        return f"in the round of the best {_BEST[at].replace('_', ' ')}"
    if at == "last":
        return "in the last round"
    return f"in round {at}" if at.isdigit() else f"as the mean of the last {at[4:]} evaluations"


def _best(frame: pl.DataFrame, validated: str) -> pl.DataFrame:
    """The first of the rounds in which a metric of validation is best."""
    measured = frame.drop_nulls(validated)
    if measured["run"].n_unique() < frame["run"].n_unique():
        hint = " and data of two classes" if VALIDATION[validated] in TWO_CLASSES else ""
        wanted = validated.replace("_", " ")
        raise ConfigError([f"the best round is that of the best {wanted}: set data.validation{hint}"])
    turned = pl.col(validated) * worth(VALIDATION[validated], 1.0)
    best = measured.filter(turned == turned.max().over("run"))
    return best.filter(pl.col("round") == pl.col("round").min().over("run"))


def _mean_of_last(frame: pl.DataFrame, count: int) -> pl.DataFrame:
    """The mean of the last evaluations; of a model's metric none where one of them has none."""
    evaluated = frame.drop_nulls("accuracy").sort("round")
    kept = evaluated.group_by("run", maintain_order=True).tail(count)
    fewest = min([0] if kept["run"].n_unique() < frame["run"].n_unique() else kept.group_by("run").len()["len"])
    if fewest < count:
        raise ConfigError([f"--at last{count} is the mean of {count} evaluations, and a run has {fewest}"])
    rounds_own = {*DETECTION, *SPREAD}  # a round without attackers has no recall, and the others stand for it
    whole = {name: name in rounds_own or pl.col(name).is_not_null().all() for name in METRICS}
    means = [pl.when(whole[name]).then(pl.col(name).mean()).alias(name) for name in METRICS]
    others = [pl.col(name).last() for name in frame.columns if name not in {*METRICS, "run"}]
    return kept.group_by("run", maintain_order=True).agg(*others, *means)


def _check_alike(last: pl.DataFrame, keys: list[str], settings: list[str]) -> None:
    """Refuse to average over anything but seeds."""
    hidden = [k for k in settings if k not in keys]
    mixed = [
        k for k in hidden if (last.group_by([*keys, "seed"]).agg(pl.col(k).fill_null("–").n_unique())[k] > 1).any()
    ]
    if mixed:
        hint = "make them rows or columns, or give fewer runs"
        raise ConfigError([f"runs that differ in {', '.join(mixed)} would share a cell: {hint}"])
    twice = last.group_by([*keys, "seed"]).len()
    if (twice["len"] > 1).any():
        raise ConfigError(["several runs of one seed would share a cell: give more keys to --rows or --cols"])


def _markdown(heads: list[str], body: list[list[str]], names: int) -> str:
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (heads, *body)]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(heads))]
    rule = ["-" * width if i < names else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    padded = [
        [
            cell.ljust(width) if i < names else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in (padded[0], rule, *padded[1:]))


_TEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}"}
_TEX |= {"≥": r"$\geq$"}
_TEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "…": r"\ldots{}"}


def _latex(heads: list[str], body: list[list[str]], names: int, notes: Sequence[str]) -> str:
    """A booktabs table; needs nothing but that package."""

    def row(cells: list[str]) -> str:
        return " & ".join("".join(_TEX.get(letter, letter) for letter in cell) for cell in cells) + r" \\"

    captions = ["% " + "".join(_TEX.get(letter, letter) for letter in note) for note in notes]
    lines = [r"% \usepackage{booktabs}", rf"\begin{{tabular}}{{{'l' * names}{'r' * (len(heads) - names)}}}"]
    lines += [r"\toprule", row(heads), r"\midrule", *map(row, body), r"\bottomrule", r"\end{tabular}", *captions]
    return "\n".join(lines)
