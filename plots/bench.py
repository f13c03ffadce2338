"""Draw what scripts/bench measured.

python plots/bench.py [training|aggregators|startup|scale ...] — from results/bench to plots/gallery/bench_NAME.png.
Two more arguments, folders that exist, are read from and drawn into instead.
"""

import json
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

ROOT = Path(__file__).resolve().parents[1]
OURS, THEIRS, FAINT = "#D55E00", "#0072B2", "0.75"
Told = dict[str, Any]

TRAININGS = {
    "training-mlp": "MLP, an epoch",
    "training-mlp-steps1": "MLP, one step",
    "training-cnn": "CNN, an epoch",
}
NAMES = {
    "fedpoison": "fedpoison",
    "plain": "a plain loop",
    "flower": "Flower on Ray",
    "pfl": "pfl",
    "byzfl": "byzfl",
    "blazefl": "blazefl",
    "blazefl-threads": "blazefl, threads",
    "byzpy": "byzpy",
    "torch": "a line of torch",
    "numpy": "a line of numpy",
}


MARKS = {
    "fedpoison": ("o", OURS, 6.0),
    "flower": ("s", "#0072B2", 4.2),
    "byzfl": ("^", "#009E73", 5.0),
    "byzpy": ("D", "#CC79A7", 4.0),
    "torch": ("x", "0.3", 4.5),
    "numpy": ("+", "0.3", 5.5),
}
"""By library: mark, colour, size."""
RULES = {
    "krum": "Krum",
    "multi_krum": "Multi-Krum",
    "meamed": "MeaMed",
    "nnm + trimmed_mean": "NNM + trimmed mean",
    "bulyan": "Bulyan",
    "bulyan, one shot": "Bulyan, one shot",
}


def training(told: dict[str, Told]) -> Figure:
    """A panel a kind of work, a row a contender: wall and CPU seconds of a round."""
    shown = [name for name in TRAININGS if name in told]
    seconds = [{who: row["seconds"] for who, row in told[name]["contenders"].items()} for name in shown]
    whole = {who for panel in seconds for who in panel}
    order = sorted(whole, key=lambda who: [-panel.get(who, 0) for panel in seconds])
    size = (2.6 * len(shown) + 1.2, 0.25 * len(order) + 1.3)
    figure, axes = plt.subplots(1, len(shown), figsize=size, squeeze=False, sharey=True)
    for ax, name in zip(axes[0], shown, strict=True):
        one, options = told[name], told[name]["options"]
        each = one["contenders"]
        for place, who in enumerate(order):
            if who not in each:
                continue
            values = [each[who][key] for key in ("seconds", "cpu_seconds")]
            _dumbbell(ax, place, *values, OURS if who == "fedpoison" else THEIRS)
            times = each[who]["seconds"] / each["fedpoison"]["seconds"]
            _beside(ax, place, max(values), "" if who == "fedpoison" else _times(times))
        floor = one["gflop_a_round"] / one["peak_gflops"]
        ax.axvline(floor, color="0.45", linewidth=0.9, linestyle=(0, (1, 1)), label="all cores at their measured peak")
        _rows(ax, [NAMES[who] for who in order])
        ax.set_title(f"{TRAININGS[name]}\n{options['clients']} clients × {options['samples']} samples")
        ax.set_xlabel("seconds a round")
    _legend(figure, axes[0][0], "× that of fedpoison")
    return figure


def aggregators(told: dict[str, Told]) -> Figure:
    """A row a rule, a mark a library: wall seconds."""
    one = told["aggregators"]
    options, rules = one["options"], {rule: row for rule, row in one["rules"].items() if row}
    libraries = [name for name in MARKS if any(name in row for row in rules.values())]
    order = list(reversed(rules))
    figure, ax = plt.subplots(figsize=(6.6, 0.29 * len(order) + 1.3))
    for place, rule in enumerate(order):
        seconds = [row["seconds"] for row in rules[rule].values()]
        ax.plot([min(seconds), max(seconds)], [place, place], color=FAINT, linewidth=0.8, linestyle="-", zorder=1)
        peers = [rules[rule][who]["seconds"] for who in ("flower", "byzfl", "byzpy") if who in rules[rule]]
        if peers and "fedpoison" in rules[rule]:
            times = min(peers) / rules[rule]["fedpoison"]["seconds"]
            ax.text(1.10, place, _times(times), transform=ax.get_yaxis_transform(), fontsize=7, va="center", ha="right")
    for name in libraries:
        marker, colour, size = MARKS[name]
        at = [(rules[rule][name]["seconds"], place) for place, rule in enumerate(order) if name in rules[rule]]
        label = "Flower" if name == "flower" else NAMES[name]
        ax.plot(*zip(*at, strict=True), marker, color=colour, markersize=size, label=label, linestyle="", zorder=3)
    _rows(ax, [f"{RULES.get(rule, rule.replace('_', ' '))}" for rule in order])
    for place, rule in enumerate(order):
        columns = _count(options["few"] if rule in one["few"] else options["d"])
        ax.text(
            0.99, place, columns, transform=ax.get_yaxis_transform(), fontsize=7, va="center", ha="right", color="0.45"
        )
    head = {"transform": ax.transAxes, "fontsize": 7, "va": "bottom", "ha": "right"}
    ax.text(0.99, 1.01, "columns", color="0.45", **head)
    ax.text(1.10, 1.01, "best\nlibrary", **head)
    ax.set_xlabel("wall seconds")
    ax.set_title(f"Aggregating {options['n']} updates, f = {options['f']}, on {one['machine']['cores']} cores")
    figure.legend(loc="outside lower center", ncols=len(libraries), handletextpad=0.2, columnspacing=1.2)
    return figure


def startup(told: dict[str, Told]) -> Figure:
    """A row a command: wall seconds, each turn and the median."""
    one = told["startup"]["commands"]
    labels = {
        "flower": "Flower's simulation,\nuntil its first round ends",
        "fedpoison run": "fedpoison run,\n3 rounds and the end",
    }
    order = sorted(one, key=lambda name: -one[name]["seconds"])
    figure, ax = plt.subplots(figsize=(5.4, 0.36 * len(order) + 0.7))
    for place, name in enumerate(order):
        colour = OURS if "fedpoison" in name else THEIRS
        every = one[name]["turns"]["seconds"]
        ax.plot(
            every, [place] * len(every), "o", color=colour, alpha=0.3, markersize=4, linestyle="", markeredgewidth=0
        )
        ax.plot([one[name]["seconds"]], [place], "|", color=colour, markersize=11, markeredgewidth=2)
        _beside(ax, place, max(every), f"{one[name]['seconds']:.2g} s")
    _rows(ax, [labels.get(name, name) for name in order])
    ax.set_xlabel("wall seconds of a new process: turns, and their median")
    ax.set_title("Waiting at the start")
    return figure


def scale(told: dict[str, Told]) -> Figure:
    """A column a size, seconds above and memory below, with the exponents."""
    lines = told["scale"]["lines"]
    named = {
        "cohort": "clients, all in each round",
        "population": "clients, 100 in a round",
        "parameters": "parameters",
        "cores": "cores",
    }
    figure, axes = plt.subplots(2, len(lines), figsize=(2.2 * len(lines) + 0.6, 3.9), sharex="col", sharey="row")
    for column, line in enumerate(lines):
        sizes = [row["size"] for row in line["points"]]
        for row, (key, unit) in enumerate((("seconds", 1.0), ("rise", 1e6))):
            ax: Axes = axes[row][column]
            ax.plot(sizes, [max(point[key] / unit, 1e-9) for point in line["points"]], "o-", color=OURS, markersize=3.5)
            if key == "seconds":
                ax.plot(sizes, [p["cpu_seconds"] for p in line["points"]], "s--", color=THEIRS, markersize=3)
            ax.set_xscale("log", base=2 if line["against"] == "cores" else 10)
            ax.set_yscale("log")
            whole, end = (line["exponents"][key][which] for which in ("all", "end"))
            text = f"exponent {_exponent(whole)}" + ("" if len(sizes) < 3 else f"\nat the end {_exponent(end)}")
            ax.text(0.04, 0.96, text, transform=ax.transAxes, va="top", fontsize=7, color=OURS)
            ax.yaxis.set_minor_formatter(NullFormatter())
        if line["against"] == "cores":
            axes[1][column].set_xticks(sizes, [f"{size}" for size in sizes])
        axes[0][column].set_title(f"against {line['against']}")
        axes[1][column].set_xlabel(named[line["against"]])
    axes[0][0].set_ylabel("seconds a round")
    axes[1][0].set_ylabel("memory added, MB")
    for row in axes:
        low, high = row[0].get_ylim()
        row[0].set_ylim(low, high * (high / low) ** 0.22)  # room for the exponents
    handles = [plt.Line2D([], [], color=OURS, marker="o", markersize=3.5, linestyle="-")]
    handles.append(plt.Line2D([], [], color=THEIRS, marker="s", markersize=3, linestyle="--"))
    figure.legend(handles, ["wall seconds, memory", "CPU seconds"], loc="outside lower center", ncols=2)
    return figure


DRAWN: dict[str, tuple[Callable[[dict[str, Told]], Figure], tuple[str, ...]]] = {
    "training": (training, tuple(TRAININGS)),
    "aggregators": (aggregators, ("aggregators",)),
    "startup": (startup, ("startup",)),
    "scale": (scale, ("scale",)),
}


def main(arguments: list[str]) -> None:
    names = [name for name in arguments if name in DRAWN] or list(DRAWN)
    folders = [Path(name) for name in arguments if name not in DRAWN]
    if len(folders) not in (0, 2):
        sys.exit(__doc__)
    source, target = folders or (ROOT / "results" / "bench", ROOT / "plots" / "gallery")
    for name in names:
        function, parts = DRAWN[name]
        told = {
            part: json.loads((source / f"{part}.json").read_text(encoding="utf-8"))
            for part in parts
            if (source / f"{part}.json").exists()
        }
        if not told:
            print(f"there is no {name}.json in {source}: run scripts/bench {name}")
            continue
        with plt.style.context(str(files("fedpoison.report") / "paper.mplstyle")):
            figure = function(told)
            place = target / f"bench_{name}.png"
            figure.savefig(place)
            plt.close(figure)
        print(place)


def _dumbbell(ax: Axes, place: int, wall: float, cpu: float, colour: str) -> None:
    """Wall seconds as a dot, CPU seconds as a ring, a line between."""
    ax.plot([wall, cpu], [place, place], color=colour, linewidth=1, linestyle="-", alpha=0.5, zorder=2)
    ax.plot([wall], [place], "o", color=colour, markersize=5, linestyle="", zorder=3)
    ax.plot([cpu], [place], "o", color="white", markeredgecolor=colour, markersize=4.5, linestyle="", zorder=3)


def _beside(ax: Axes, place: int, right: float, text: str) -> None:
    """A small text to the right of what is drawn in a row."""
    ax.annotate(text, (right, place), (6, 0), textcoords="offset points", va="center", fontsize=7)


def _rows(ax: Axes, labels: list[str]) -> None:
    """Names on the left, seconds on a log axis with room for texts on the right."""
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    ax.set_xlim(low, high * (high / low) ** 0.16)
    narrow = ax.get_xlim()[1] / ax.get_xlim()[0] < 300
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,), numticks=9))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_yticks(range(len(labels)), labels, fontsize=8)
    ax.set_ylim(-0.6, len(labels) - 0.4)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)


def _legend(figure: Figure, ax: Axes, note: str) -> None:
    """What dots, rings and the dotted line are."""
    wall = plt.Line2D([], [], color="0.3", marker="o", markersize=5, linestyle="")
    cpu = plt.Line2D([], [], color="white", markeredgecolor="0.3", marker="o", markersize=4.5, linestyle="")
    (floor,) = ax.get_legend_handles_labels()[0]
    labels = [f"wall seconds ({note})", "CPU seconds", "all cores at their measured peak"]
    figure.legend([wall, cpu, floor], labels, loc="outside lower center", ncols=3 if figure.get_figwidth() > 7 else 1)


def _times(value: float) -> str:
    return f"{value:.1f}×" if value < 100 else f"{value:.0f}×"


def _count(columns: int) -> str:
    return f"{columns // 1_000_000} M" if columns >= 1_000_000 else f"{columns // 1000} k"


def _exponent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main(sys.argv[1:])
