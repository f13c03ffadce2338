"""Attacks on data in the terminal: counts, sizes, what detectors find, and small pictures out of block characters."""

from collections.abc import Iterator

import torch
from rich.console import Console, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text
from torch import Tensor

from fedpoison.preview.poison import Poisoned, Poisoning

_WIDE = 12
"""Classes that have a column each."""
_FEATURES, _SAMPLES, _TOKENS = 10, 4, 16
_PIXELS = 32
"""Pixels of a side of a picture in the terminal, at the most."""
_SHADES = " ░▒▓█"


def tables(found: Poisoning) -> Iterator[RenderableType]:
    """All there is to say of one attack, piece by piece."""
    yield Text(f"{found.label} on {found.on}", style="bold")
    yield Text(f"goal: {found.goal.replace('_', ' ')}; by {found.whom}")
    if found.clients:
        yield _counts(found)
        yield Text(size_text(found))
    if found.sight:
        yield Text(f"pictures as training sees them once: {found.sight}")
    if found.dataset.kind == "rows" and found.sizes["l2_max"]:
        yield _features(found)
    if found.dataset.kind == "tokens" and found.sizes["tokens_max"]:
        yield _tokens(found)
    if found.aim:
        how = "with the trigger" if found.triggered else "as they are"
        wanted = ", ".join(map(str, found.aim.wanted.unique().tolist()))
        yield Text(f"at test time: {len(found.aim.labels)} samples, presented {how}, wanted as {wanted}")
    if found.detections:
        yield _detection(found)
    for remark in found.remarks:
        yield Text(f"note: {remark}")


def size_text(found: Poisoning) -> str:
    """How much changed samples are changed, in a line."""
    size = {name: value for name, value in found.sizes.items() if value is not None}
    if not size:
        return "no sample is changed"
    if "tokens_mean" in size:
        return (
            f"change of a changed sample: {size['tokens_mean']:.1f} tokens on average, at most {size['tokens_max']:.0f}"
        )
    inf = f"L∞ {size['l_inf_mean']:.3f} (max {size['l_inf_max']:.3f})"
    two = f"L2 {size['l2_mean']:.3f} (max {size['l2_max']:.3f})"
    noise = f", PSNR {size['psnr_mean']:.1f} dB" if "psnr_mean" in size else ""
    return f"mean change of a changed sample: {inf}, {two}{noise}"


def _counts(found: Poisoning) -> Table:
    """A row a client: samples, changed ones, relabelled ones, and each class's count before and, if other, after."""
    made, n_classes = Table(), found.dataset.n_classes
    for head in ("client", "samples", "changed", "relabelled"):
        made.add_column(head, justify="right", no_wrap=True)
    wide = n_classes <= _WIDE
    if wide:
        made.add_column("label")
        for label in range(n_classes):
            made.add_column(str(label), justify="right", no_wrap=True)
    else:
        made.add_column("label: before → after")
    parts = ([getattr(p, name) for p in found.clients] for name in ("clean", "images", "labels", "relabelled"))
    clean, images, labels, relabelled = map(torch.cat, parts)
    everyone = Poisoned(-1, clean, images, labels, relabelled)
    for p in (*found.clients, everyone) if len(found.clients) > 1 else found.clients:
        counts = list(zip(*(count.tolist() for count in p.counts(n_classes)), strict=True))
        if wide:
            names = "before\nafter" if p.flipped.any() else "before"
            both = (Text.assemble((f"{b or '·'}", "dim"), f"\n{a}" if a != b else "") for b, a in counts)
            cells = [Text(names), *both]
        else:
            differing = [f"{label}: {b}→{a}" for label, (b, a) in enumerate(counts) if a != b]
            cells = [Text(", ".join(differing) or "as before")]
        name = "all" if p is everyone else str(p.client)
        made.add_row(name, str(len(p.labels)), _share(p.changed), _share(p.flipped), *cells)
    return made


def _share(mask: Tensor) -> str:
    count = int(mask.sum())
    return f"{count} ({count / len(mask):.0%})" if count else "·"


def _features(found: Poisoning) -> Table:
    """Which features are changed, and by how much."""
    change = torch.cat([p.images - p.clean for p in found.clients])
    touched = change != 0
    order = change.abs().sum(dim=0).argsort(descending=True, stable=True)
    order = order[touched.any(dim=0)[order]]
    more = len(order) - _FEATURES
    caption = f"and {more} features that change less" if more > 0 else None
    made = Table(caption=caption, caption_justify="left")
    for head in ("feature", "samples changed", "mean change of these", "largest"):
        made.add_column(head, justify="right")
    for feature in order[:_FEATURES].tolist():
        values = change[touched[:, feature], feature]
        made.add_row(str(feature), str(len(values)), f"{values.mean():+.3f}", f"{values.abs().max():.3f}")
    return made


def _tokens(found: Poisoning) -> Table:
    """Some samples' tokens before and after, about the first change."""
    made = Table(caption="tokens about the first change; what changed is in brackets", caption_justify="left")
    made.add_column("label")
    made.add_column("before")
    made.add_column("after")
    p = next(p for p in found.clients if p.changed.any())
    for place in p.examples(_SAMPLES).tolist():
        window = token_window(p.clean[place], p.images[place], _TOKENS)
        made.add_row(
            f"{int(p.labels[place])} → {int(p.relabelled[place])}",
            *(_marked(p.clean[place], p.images[place], window, of) for of in (0, 1)),
        )
    return made


def token_window(before: Tensor, after: Tensor, length: int) -> slice:
    """A stretch of so many tokens that begins shortly before the first that differs."""
    first = int((before != after).nonzero()[0]) if (before != after).any() else 0
    start = max(0, min(first - 2, len(before) - length))
    return slice(start, start + length)


def _marked(before: Tensor, after: Tensor, window: slice, of: int) -> Text:
    text = Text()
    for pair in zip(before[window].tolist(), after[window].tolist(), strict=True):
        text.append(
            f"[{pair[of]}] " if pair[0] != pair[1] else f"{pair[of]} ", "bold red" if pair[0] != pair[1] else ""
        )
    return text


def _detection(found: Poisoning) -> Table:
    one = found.detections[0]
    title = f"AUROC of detectors (1 finds poison, .5 guesses) on {one.samples} samples, {one.poisoned} poisoned"
    made = Table(title=title, title_justify="left")
    made.add_column("features")
    for name in one.auroc:
        made.add_column(name.replace("_", " "), justify="right")
    for detection in found.detections:
        values = ("–" if value is None else f"{value:.3f}" for value in detection.auroc.values())
        made.add_row(Text(detection.features), *values)
    return made


def pictures(found: Poisoning, console: Console, count: int = 2) -> Iterator[RenderableType]:
    """Some changed pictures in grey: clean, poisoned, difference; nothing where there are none.

    The difference is red where it is brighter and blue where it is darker; without colours it is its size in shades.
    """
    p = next((p for p in found.clients if p.changed.any()), None)
    if found.dataset.kind != "pictures" or p is None:
        return
    for place in p.examples(count).tolist():
        clean, poisoned = (_grey(images[0]) for images in p.shown(torch.tensor([place])))
        change = poisoned - clean
        change = change / change.abs().max().clamp(min=1e-9)
        yield Text(f"{int(p.labels[place])} → {int(p.relabelled[place])}: clean, poisoned, difference")
        if console.color_system:
            panels = [(clean, clean, clean), (poisoned, poisoned, poisoned)]
            panels.append((1 + change.clamp(max=0), 1 - change.abs(), 1 - change.clamp(min=0)))
            yield _blocks([torch.stack(panel) for panel in panels])
        else:
            yield _shades([clean, poisoned, change.abs()])


def _grey(image: Tensor) -> Tensor:
    """One picture [channels, height, width] as [height, width] of an even height, with every so-many-th pixel."""
    step = -(-max(image.shape[1:]) // _PIXELS)
    grey = image.mean(dim=0)[::step, ::step].clamp(0, 1)
    return torch.cat([grey, grey.new_zeros(len(grey) % 2, grey.shape[1])])


def _blocks(panels: list[Tensor]) -> Text:
    """Colour pictures [3, height, width] beside one another; a character is two pixels, one above the other."""
    text = Text(no_wrap=True)
    for row in range(0, panels[0].shape[1], 2):
        for panel in panels:
            for upper, lower in zip(panel[:, row].T.tolist(), panel[:, row + 1].T.tolist(), strict=True):
                text.append("▀", Style(color=_hex(upper), bgcolor=_hex(lower)))
            text.append("  ")
        text.append("\n")
    return text


def _hex(colour: list[float]) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in colour)


def _shades(panels: list[Tensor]) -> Text:
    lines = []
    for row in range(0, panels[0].shape[0], 2):
        means = [(panel[row] + panel[row + 1]) / 2 for panel in panels]
        levels = [(mean * (len(_SHADES) - 1)).ceil().int().tolist() for mean in means]
        lines.append("  ".join("".join(_SHADES[level] for level in line) for line in levels))
    return Text("\n".join(lines), no_wrap=True)
