"""Accuracy and attack success over rounds: a line a rule, the spread over seeds, the attack's span shaded."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedpoison.common.errors import ConfigError
from fedpoison.common.plain import lettered
from fedpoison.common.schedule import Schedule
from fedpoison.measures.metrics import DETECTION, METRICS, MODEL, spelled
from fedpoison.report.grouping import grouped
from fedpoison.report.remarks import remarks
from fedpoison.runs.frame import Runs, measured

_WHOLE = {"attack_success", "asr", "asr_untriggered", "target_success", "clean_success", *DETECTION}
"""Shares that are drawn from 0 to 1; others of the model's from the tenth below the lowest."""
_LEVELS = {f"{of}{name}" for name in MODEL if name != "loss" for of in ("", "clean_")}
_CLEAN = "mean, no attack"
_TITLE = 36
"""Characters in a line of a panel's title."""
_ABREAST, _WRAPPED = 6, 4
"""Panels that stand side by side, and how many do where there are more."""
_SMALL = 7
"""Points of the remarks' letters, each about half as wide."""
_FORMATS = (".png", ".pdf", ".svg")


def plot(runs: Runs, out: Path, metrics: Sequence[str] = ()) -> Path:
    """Draw the metrics over rounds (accuracy and attack success unless given) and save the figure.

    A row a metric, a column an attack, a line a rule: the mean over seeds in a band from the lowest to the
    highest; the remarks on the runs stand below. ConfigError for an unknown metric or format, or one that these runs
    did not measure.
    """
    frame = grouped(runs)
    metrics = spelled(metrics, METRICS)
    if out.suffix not in _FORMATS:
        raise ConfigError([f"figures are saved as {', '.join(_FORMATS)}, not {out.name!r}"])
    chosen = metrics or [m for m in ("accuracy", "attack_success") if frame[m].is_not_null().any()]
    empty = [m for m in chosen if not measured(frame, m)]
    if empty:
        raise ConfigError([f"these runs have no {m}" for m in empty])
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError([f"{out} cannot be written: {error.strerror}"]) from error
    with plt.style.context(str(files("fedpoison.report") / "paper.mplstyle")):
        figure = draw(frame, chosen, runs.schedules())
        _say(figure, remarks(runs))
        figure.savefig(out)
        plt.close(figure)
    return out


def draw(frame: pl.DataFrame, metrics: Sequence[str], schedules: Mapping[str, Schedule]) -> Figure:
    """The figure itself, in the current style."""
    panels = frame["panel"].unique(maintain_order=True).to_list()
    lines = frame["line"].unique(maintain_order=True).to_list()
    titles = [lettered(textwrap.fill(panel, _TITLE)) for panel in panels]
    columns = len(panels) if len(panels) <= _ABREAST else _WRAPPED
    bands = -(-len(panels) // columns)
    width = max(3.4 * columns, 4.2)
    height = bands * (2.1 * len(metrics) + 0.16 * max(title.count("\n") for title in titles))
    figure, axes = plt.subplots(
        bands * len(metrics), columns, figsize=(width, height), squeeze=False, sharex="col", sharey="row"
    )
    styles = dict(zip(lines, _styles(len(lines)), strict=True))
    for row, metric in enumerate(metrics):
        for number, panel in enumerate(panels):
            band, column = divmod(number, columns)
            ax, part = axes[band * len(metrics) + row][column], frame.filter(pl.col("panel") == panel)
            _shade(ax, part, schedules)
            for line in lines:
                _line(ax, part.filter(pl.col("line") == line), metric, styles[line])
            if not ax.lines:
                ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center", va="center", color="0.5")
            if metric in MODEL:
                _reference(ax, part, metric)
            if row == 0:
                ax.set_title(titles[number])
            if row == len(metrics) - 1:
                ax.set_xlabel("round")
            if column == 0:
                ax.set_ylabel(metric.replace("_", " "))
            if metric in _WHOLE:
                ax.set_ylim(-0.02, 1.02)
            elif metric in _LEVELS:
                ax.set_ylim(*_limits(frame, metric))
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    for ax in axes.flat:
        ax.set_visible(bool(ax.lines or ax.texts))
    _add_legend(figure, axes, lines)
    return figure


def _say(figure: Figure, remarks: Sequence[str]) -> None:
    """Write the remarks along the lower edge, below all else, on as much height as they take."""
    width, height = figure.get_size_inches()
    lines = [line for remark in remarks for line in textwrap.wrap(remark, int(width * 72 / (0.55 * _SMALL)))]
    if not lines:
        return
    taken = (1.3 * len(lines) + 1) * _SMALL / 72
    figure.set_size_inches(width, height + taken)
    figure.set_layout_engine("constrained", rect=(0, taken / (height + taken), 1, height / (height + taken)))
    for legend in figure.legends:
        legend.borderaxespad += 72 * taken / legend.prop.get_size_in_points()
    figure.text(
        0.5,
        0.5 * _SMALL / 72 / (height + taken),
        "\n".join(map(lettered, lines)),
        fontsize=_SMALL,
        va="bottom",
        ha="center",
    )


def _limits(frame: pl.DataFrame, metric: str) -> tuple[float, float]:
    """From the tenth below the lowest of the model's shares to that above the highest, or all lie in a thin strip."""
    values = frame[metric].drop_nulls().to_list()
    if metric in MODEL:
        values += frame.filter(pl.col("rule") == "mean")[f"clean_{metric}"].drop_nulls().to_list()
    return math.floor(10 * min(values)) / 10, math.ceil(10 * max(values) + 0.2) / 10


def _styles(count: int) -> list[dict[str, Any]]:
    cycle = list(mpl.rcParams["axes.prop_cycle"])
    return [{**cycle[i % len(cycle)], "linewidth": 1.3 + 0.7 * (i // len(cycle))} for i in range(count)]


def _line(ax: Axes, runs: pl.DataFrame, metric: str, style: dict[str, Any]) -> None:
    measured = runs.drop_nulls(metric)
    if not len(measured):
        return
    value = pl.col(metric)
    over = measured.group_by("round").agg(mean=value.mean(), low=value.min(), high=value.max()).sort("round")
    label = lettered(runs["line"][0])
    marker = "o" if len(over) == 1 else ""
    ax.plot(over["round"], over["mean"], label=label, marker=marker, markersize=3, **style)
    if measured["seed"].n_unique() > 1:
        ax.fill_between(over["round"], over["low"], over["high"], color=style["color"], alpha=0.15, linewidth=0)


def _reference(ax: Axes, part: pl.DataFrame, metric: str) -> None:
    """The plain mean without an attack, where it was run."""
    clean = part.filter(pl.col("rule") == "mean").drop_nulls(f"clean_{metric}")
    if len(clean):
        over = clean.group_by("round").agg(pl.col(f"clean_{metric}").mean()).sort("round")
        ax.plot(
            over["round"],
            over[f"clean_{metric}"],
            color="0.45",
            linewidth=0.9,
            linestyle=(0, (1, 1)),
            label=_CLEAN,
        )


def _shade(ax: Axes, part: pl.DataFrame, schedules: Mapping[str, Schedule]) -> None:
    """Shade the rounds in which the attack is on."""
    rounds = part["round"].to_list()
    first, last = min(rounds), max(rounds)
    for schedule in {repr(s): s for run, s in schedules.items() if run in set(part["run"])}.values():
        for begin, stop in schedule.spans(first, last):
            ax.axvspan(begin - 0.5, stop + 0.5, color="#D55E00", alpha=0.07, linewidth=0, zorder=0)
    ax.set_xlim((first, last) if first < last else (first - 0.5, last + 0.5))


def _add_legend(figure: Figure, axes: Any, lines: list[str]) -> None:
    """A legend below the panels, in as many columns as fit, and the height that it takes."""
    found: dict[str, Any] = {}
    for ax in axes.flat:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    names = [name for name in (*map(lettered, lines), _CLEAN) if name in found]
    for columns in range(min(4, len(names)), 0, -1):
        legend = figure.legend(
            [found[name] for name in names], names, loc="outside lower center", ncols=columns, borderaxespad=0.4
        )
        figure.draw_without_rendering()
        box = legend.get_window_extent()
        if columns == 1 or box.width <= 0.98 * figure.bbox.width:
            figure.set_size_inches(
                max(figure.get_figwidth(), box.width / figure.dpi + 0.1),
                figure.get_figheight() + box.height / figure.dpi,
            )
            return
        legend.remove()
