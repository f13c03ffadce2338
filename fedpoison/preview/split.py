"""What a partition made of the data: who holds how many samples of which class."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from textwrap import wrap
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from rich.table import Table
from torch import Tensor

from fedpoison.common.plain import lettered
from fedpoison.config.config import Config
from fedpoison.config.sweep import Experiment
from fedpoison.contract.component import Component
from fedpoison.data.reading import Reading
from fedpoison.round import World
from fedpoison.runs.world import build

_SHOWN = 40
"""Clients that a table or the ticks of a picture have room for; of more, the table shows the extremes."""
_TITLE = 36
"""Characters of a line of a panel's title."""
_FORMATS = (".png", ".pdf", ".svg")


@dataclass(frozen=True)
class Split:
    """One partition of one seed: samples a client and class [n, C], label skews [n], and who is malicious all along.

    `key`: what tells it from others; `reading`: how a table of the user's was read.
    """

    title: str
    counts: Tensor
    skews: Tensor
    malicious: frozenset[int]
    key: str = ""
    reading: Reading | None = None

    def describe(self) -> dict[str, Any]:
        """The same as plain values, for machines."""
        return {
            "title": self.title,
            "counts": self.counts.tolist(),
            "skew": self.skews.tolist(),
            "malicious": sorted(self.malicious),
            **({"reading": self.reading.describe()} if self.reading else {}),
        }


def splits(experiment: Experiment) -> list[Split]:
    """Each different split among the experiment's cells, with its first seed."""
    found: dict[str, Split] = {}
    seed = experiment.runs[0].seed
    for config in experiment.runs:
        if config.seed == seed and (key := split_key(config)) not in found:
            found[key] = _split(config, key)
    return list(found.values())


def split_key(config: Config) -> str:
    """What the split of a run depends on, but for its seed."""
    table = config.table()
    sizes = {k: table["clients"].get(k) for k in ("count", "held_out")}
    who = [(group.actor, group.clients) for group in config.threat.each]
    return json.dumps([table["data"], sizes, config.counts, config.threat.draw, who])


def with_options(component: Component) -> str:
    """The name of what was chosen, with those of its options that are not the usual ones."""
    usual = component.entry.options
    options = ", ".join(f"{k} = {v}" for k, v in component.options.items() if v != usual[k].default)
    return component.label + (f" ({options})" if options else "")


def always(world: World) -> frozenset[int]:
    """The clients that are malicious, or whose data are poisoned, all along."""
    return frozenset(client for threat in world.threats for client in threat.fixed_ids)


def split_title(config: Config, fixed: frozenset[int]) -> str:
    """The partition, the data, and how many are malicious, or poisoned, all along."""
    attackers = f", {len(fixed)} {'malicious' if config.hostile else 'poisoned'}" if fixed else ""
    return f"{with_options(config.data.partition)}: {config.data.dataset.label}{attackers}"


def _split(config: Config, key: str) -> Split:
    world, _ = build(config)
    federation, ids = world.federation, torch.arange(config.clients.count)
    labels, classes = federation.dataset.train_labels, federation.dataset.n_classes
    shards = (federation.shard(i) for i in ids.tolist())
    counts = torch.stack([torch.bincount(labels[shard.index], minlength=classes) for shard in shards])
    fixed = always(world)
    reading = federation.dataset.reading
    return Split(split_title(config, fixed), counts, federation.skew(ids), fixed, key, reading)


def table(split: Split) -> Table:
    """A row a client, or the extremes and the middle where there are many."""
    sizes, n_classes = split.counts.sum(dim=1), split.counts.shape[1]
    made = Table(title=split.title, title_justify="left")
    made.add_column("client", justify="right")
    made.add_column("samples", justify="right")
    made.add_column("skew", justify="right")
    wide = n_classes <= 12
    if wide:
        for c in range(n_classes):
            made.add_column(str(c), justify="right", style="dim")
    else:
        made.add_column("classes", justify="right")
    order = list(range(len(sizes)))
    if len(order) > _SHOWN:
        by_size = sizes.argsort(stable=True).tolist()
        middle = len(by_size) // 2
        order = [*by_size[:5], *by_size[middle - 2 : middle + 3], *by_size[-5:]]
    for client in order:
        row = split.counts[client].tolist()
        held = [str(v) if v else "·" for v in row] if wide else [str(sum(v > 0 for v in row))]
        name = f"{client} malicious" if client in split.malicious else str(client)
        made.add_row(name, str(int(sizes[client])), f"{float(split.skews[client]):.2f}", *held)
    return made


def summary(split: Split) -> str:
    """Sizes and skew in a line."""
    sizes = split.counts.sum(dim=1).double()
    smallest, middle, largest = (int(sizes.quantile(q)) for q in (0.0, 0.5, 1.0))
    mean = float(split.skews.mean())
    many = f"; of {len(sizes)} clients the smallest, middle and largest are shown" if len(sizes) > _SHOWN else ""
    return f"samples a client: {smallest} to {largest}, median {middle}; label skew: mean {mean:.2f}{many}"


def draw(found: Sequence[Split]) -> Figure:
    """Stacked bars, a bar a client and a colour a class, a panel a split; malicious clients have a red tick."""
    columns = len(found) if len(found) <= 3 else math.ceil(math.sqrt(len(found)))
    titles = [_title(split.title) for split in found]
    clients = max(len(split.counts) for split in found)
    height, lines = min(max(0.11 * clients, 1.3), 5.3), max(title.count("\n") + 1 for title in titles)
    figure, axes = _panels(-(-len(found) // columns), columns, height, 0.1 + 0.16 * lines)
    colours = _colours(max(split.counts.shape[1] for split in found))
    for ax, split, title in zip(axes, found, titles, strict=False):
        _bars(ax, split, colours)
        ax.set_title(lettered(title), fontsize="medium")
    for ax in axes[len(found) :]:
        ax.remove()
    for ax in axes[: len(found) : columns]:
        ax.set_ylabel("client")
    handles: list[Any] = [Patch(color=colour, label=str(c)) for c, colour in enumerate(colours)]
    shown = handles if len(handles) <= 20 else [*handles[:3], *handles[-3:]]
    if any(split.malicious for split in found):
        shown = [*shown, Line2D([], [], color="#D00000", marker="<", linestyle="", label="malicious")]
    figure.legend(handles=shown, title="class", loc="center right", frameon=False)
    return figure


def _title(title: str) -> str:
    """A panel's title in lines that are as wide as the panel; an option and its value stay together."""
    kept = title.replace(" = ", "\0=\0").split(": ", 1)
    return "\n".join(line for part in kept for line in wrap(part, _TITLE)).replace("\0", " ")


def _panels(rows: int, columns: int, height: float, title: float) -> tuple[Figure, list[Axes]]:
    """Axes of this height under titles of that height, in inches, left of a legend; none gives way to others."""
    left, below, width, gap, legend = 0.55, 0.45, 2.3, 0.5, 1.2
    whole = left + columns * width + (columns - 1) * gap + legend, rows * (title + height + below)
    figure, axes = plt.subplots(rows, columns, figsize=whole, squeeze=False, layout="none")
    figure.subplots_adjust(
        left=left / whole[0],
        right=1 - legend / whole[0],
        bottom=below / whole[1],
        top=1 - title / whole[1],
        wspace=gap / width,
        hspace=(title + below) / height,
    )
    return figure, list(axes.flat)


def save(found: Sequence[Split], out: Path) -> Path:
    """Draw the splits and save the picture; ValueError for another format than .png, .pdf or .svg."""
    return save_figure(lambda: draw(found), out)


def save_figure(make: Callable[[], Figure], out: Path) -> Path:
    """Make a figure in the paper's style and save it; ValueError for another format than .png, .pdf or .svg."""
    if out.suffix not in _FORMATS:
        raise ValueError(f"figures are saved as {', '.join(_FORMATS)}, not {out.name!r}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with plt.style.context(str(files("fedpoison.report") / "paper.mplstyle")):
        figure = make()
        figure.savefig(out)
        plt.close(figure)
    return out


def _bars(ax: Axes, split: Split, colours: list[Any]) -> None:
    places = list(range(len(split.counts)))
    left = torch.zeros(len(split.counts), dtype=torch.int64)
    for c, colour in enumerate(colours[: split.counts.shape[1]]):
        ax.barh(places, split.counts[:, c], left=left, color=colour, height=0.86 if len(places) <= _SHOWN else 1.0)
        left = left + split.counts[:, c]
    ends = left.tolist()
    bad = sorted(split.malicious)
    ax.plot(
        [ends[i] + 0.025 * max(ends) for i in bad],
        bad,
        color="#D00000",
        marker="<",
        markersize=3.5,
        linestyle="",
        clip_on=False,
    )
    ax.set_ylim(len(places) - 0.4, -0.6)
    ax.set_xlim(0, 1.05 * max(ends))
    ax.set_xlabel("samples")
    ax.grid(visible=False, axis="y")
    ax.locator_params(integer=True)


def _colours(count: int) -> list[Any]:
    if count <= 10:
        return list(mpl.colormaps["tab10"].colors)[:count]  # type: ignore[attr-defined]
    if count <= 20:
        return list(mpl.colormaps["tab20"].colors)[:count]  # type: ignore[attr-defined]
    return [mpl.colormaps["turbo"](i / (count - 1)) for i in range(count)]
