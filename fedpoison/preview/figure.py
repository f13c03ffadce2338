"""Attacks on data as a picture: some samples clean, poisoned, their difference, and as presented at test time."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from fedpoison.attacks.poisoning import Aim
from fedpoison.common.plain import lettered
from fedpoison.preview.poison import Poisoned, Poisoning
from fedpoison.preview.split import save_figure
from fedpoison.preview.table import size_text, token_window

_SHOWN = 6
"""Samples of a client."""
_FEATURES, _TOKENS = 32, 14
_ABREAST = 2
"""Attacks above which they stand two abreast."""
_WIDTH = 5.6
_CHANGED = "#D00000"


def save(found: Sequence[Poisoning], out: Path) -> Path | None:
    """Draw each different attack once and save the picture; None where no sample and no label changes."""
    shown = {(p.label, p.data, p.sight): p for p in reversed(found) if _example(p)}
    blocks = list(reversed(shown.values()))
    return save_figure(lambda: draw(blocks), out) if blocks else None


def draw(found: Sequence[Poisoning]) -> Figure:
    """A block an attack, in the current style; the tall ones first where two stand abreast."""
    columns = 1 if len(found) <= _ABREAST else 2
    order = found if columns == 1 else sorted(found, key=_height, reverse=True)
    rows = [order[i : i + columns] for i in range(0, len(order), columns)]
    heights = [max(map(_height, row)) for row in rows]
    figure = plt.figure(figsize=(_WIDTH * columns, sum(heights)))
    made = figure.subfigures(len(rows), columns, squeeze=False, height_ratios=heights)
    for line, row in zip(made, rows, strict=True):
        for block, attack in zip(line, row, strict=False):
            _block(block, attack, max(map(_panels, row)))
    return figure


def _example(found: Poisoning) -> Poisoned | None:
    """The first client of which a sample is changed, or else a label."""
    changed = [p for p in found.clients if p.changed.any()]
    return next(iter([*changed, *(p for p in found.clients if p.flipped.any())]), None)


def _panels(found: Poisoning) -> int:
    """Rows of pictures (or heat maps): one, or clean, poisoned and difference; and one of test samples."""
    p = _example(found)
    return (3 if p is not None and p.changed.any() else 1) + found.triggered


def _height(found: Poisoning) -> float:
    if found.dataset.kind == "tokens":
        return 0.9 + 0.42 * _SHOWN + 0.21 * found.triggered * _SHOWN
    return 0.75 + _panels(found)


def _block(figure: SubFigure, found: Poisoning, panels: int) -> None:
    """One attack, in the grid of so many rows that its neighbour has too."""
    p = _example(found)
    if p is None:
        return
    where = f"client {p.client}, {found.goal.replace('_', ' ')}; {size_text(found)}"
    figure.suptitle(
        lettered("\n".join([*textwrap.wrap(found.label, 74), *textwrap.wrap(where, 84)])),
        fontsize="medium",
        x=0.01,
        ha="left",
    )
    places = p.examples(_SHOWN)
    aim = _aimed(found)
    {"pictures": _pictures, "rows": _rows, "tokens": _tokens}[found.dataset.kind](figure, p, places, aim, panels)


def _aimed(found: Poisoning) -> Aim | None:
    """Some test samples with their trigger, of as many classes as there are."""
    if not found.triggered or found.aim is None:
        return None
    aim = found.aim
    as_poison = Poisoned(-1, aim.plain, aim.presented, aim.labels, aim.wanted)
    places = as_poison.examples(_SHOWN)
    return Aim(aim.goal, aim.presented[places], aim.plain[places], aim.labels[places], aim.wanted[places])


def _titles(p: Poisoned, places: Tensor) -> list[str]:
    return [f"{int(p.labels[i])} → {int(p.relabelled[i])}" for i in places]


def _pictures(figure: SubFigure, p: Poisoned, places: Tensor, aim: Aim | None, panels: int) -> None:
    """A column a sample; rows: clean, poisoned, difference, and test samples as they are presented."""
    clean, images = p.shown(places)
    change = _largest(images - clean)
    limit = float(change.abs().max())
    difference = "difference" if clean.shape[1] == 1 else "difference\n(largest of\nchannels)"
    names = ["clean", "poisoned", difference] if limit else ["unchanged"]
    axes = figure.subplots(panels, _SHOWN, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for column, title in enumerate(_titles(p, places)):
        _picture(axes[0][column], clean[column])
        axes[0][column].set_title(title, fontsize="small", loc="center")
        if limit:
            _picture(axes[1][column], images[column])
            drawn = axes[2][column].imshow(change[column], cmap="RdBu_r", vmin=-limit, vmax=limit)
            if not column:
                figure.colorbar(drawn, ax=list(axes[2]), pad=0.01, aspect=10).ax.tick_params(labelsize="x-small")
    for row, name in zip(axes, names, strict=False):
        _name(row[0], name)
    if aim:
        last = axes[len(names)]
        for ax, image, label, wanted in zip(last, aim.presented, aim.labels, aim.wanted, strict=False):
            _picture(ax, image)
            ax.set_title(f"{int(label)}, wanted {int(wanted)}", fontsize="small", loc="center")
        _name(last[0], "at test\ntime")


def _largest(change: Tensor) -> Tensor:
    """Of each pixel the channel that changes most: [samples, channels, …] → [samples, …]."""
    place = change.abs().argmax(dim=1, keepdim=True)
    return change.gather(1, place).squeeze(1)


def _picture(ax: Axes, image: Tensor) -> None:
    if len(image) == 3:
        ax.imshow(image.permute(1, 2, 0).clamp(0, 1))
    else:
        ax.imshow(image.mean(dim=0), cmap="gray", vmin=0, vmax=1)


def _name(ax: Axes, name: str) -> None:
    ax.text(-0.12, 0.5, name, transform=ax.transAxes, ha="right", va="center", fontsize="small")


def _rows(figure: SubFigure, p: Poisoned, places: Tensor, aim: Aim | None, panels: int) -> None:
    """Heat maps of samples by features, one below the other, of the features that change most."""
    clean, images = p.clean[places], p.images[places]
    change = images - clean
    limit = float(change.abs().max())
    order = change.abs().sum(dim=0).argsort(descending=True, stable=True)
    kept = order[:_FEATURES].sort().values
    parts = [("clean" if limit else "unchanged", clean, _titles(p, places))]
    if limit:
        parts += [("poisoned", images, _titles(p, places)), ("difference", change, _titles(p, places))]
    if aim:
        wanted = [f"{int(y)}, wanted {int(w)}" for y, w in zip(aim.labels, aim.wanted, strict=True)]
        parts.append(("at test time", aim.presented, wanted))
    shown = torch.cat([values for name, values, _ in parts if name != "difference"])[:, kept]
    scale = {"cmap": "viridis", "vmin": float(shown.min()), "vmax": float(shown.max())}
    signed = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    axes = figure.subplots(panels, 1, squeeze=False)
    for (ax,) in axes[len(parts) :]:
        ax.set_axis_off()
    for (ax,), (name, values, ticks) in zip(axes, parts, strict=False):
        look: dict[str, Any] = signed if name == "difference" else scale
        drawn = ax.imshow(values[:, kept], aspect="auto", interpolation="nearest", **look)
        figure.colorbar(drawn, ax=ax, pad=0.01, aspect=8).ax.tick_params(labelsize="x-small")
        ax.set_yticks(range(len(ticks)), ticks, fontsize="x-small")
        ax.set_ylabel(name, fontsize="small")
        ax.set_xticks([])
        ax.grid(visible=False)
    step = -(-len(kept) // 20)
    (last,) = axes[len(parts) - 1]
    last.set_xticks(range(0, len(kept), step), [str(int(f)) for f in kept[::step]], fontsize="x-small")
    of = clean.shape[1]
    last.set_xlabel("feature" if of <= _FEATURES else f"feature (of {of}, the {_FEATURES} that change most)")


def _tokens(figure: SubFigure, p: Poisoned, places: Tensor, aim: Aim | None, _: int) -> None:
    """Lines of token ids about the first change, before and after; what changed is red."""
    ax = figure.subplots()
    ax.set_axis_off()
    lines: list[tuple[str, Tensor, Tensor]] = []
    for title, place in zip(_titles(p, places), places.tolist(), strict=True):
        before, after = p.clean[place], p.images[place]
        if not torch.equal(before, after):
            lines.append((f"{title}  before", before, after))
        lines.append((title if torch.equal(before, after) else "after", after, before))
    if aim:
        for plain, image, label, wanted in zip(aim.plain, aim.presented, aim.labels, aim.wanted, strict=True):
            lines.append((f"test: {int(label)}, wanted {int(wanted)}", image, plain))
    for number, (name, tokens, other) in enumerate(lines):
        window = token_window(tokens, other, _TOKENS)
        ax.text(-0.5, number, name, ha="right", va="center", fontsize="small")
        differs = (tokens != other)[window].tolist()
        for place, (token, marked) in enumerate(zip(tokens[window].tolist(), differs, strict=True)):
            look: dict[str, Any] = {"color": _CHANGED, "fontweight": "bold"} if marked else {"color": "0.35"}
            ax.text(place, number, str(token), ha="center", va="center", fontsize="small", family="monospace", **look)
    ax.set_xlim(-4.5, _TOKENS)
    ax.set_ylim(len(lines) - 0.4, -0.6)
