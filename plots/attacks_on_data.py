"""The README's picture of the attacks on pictures: a clean sample, what becomes of it, and what is shown at test time.

python plots/attacks_on_data.py   (trains a small net for the attacks that need one: a minute)
"""

from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

import fedpoison
from fedpoison.config.sweep import load
from fedpoison.preview.poison import Poisoning, poisonings

ROOT = Path(__file__).resolve().parents[1]
TARGETED = {"source": 7, "target": 9, "victim": 2}
ATTACKS: list[dict[str, Any]] = [
    {"name": "badnets"},
    {"name": "blended"},
    {"name": "dba"},
    {"name": "wanet", "share": 0.5, "s": 2.0},
    {"name": "sig", "share": 1.0, "delta": 0.3},
    {"name": "label_consistent", "epsilon": 0.2},
    {"name": "hidden_trigger", "epsilon": 0.3, "size": 6},
    {"name": "feature_collision", **TARGETED},
    {"name": "bullseye_polytope", "epsilon": 0.3, **TARGETED},
    {"name": "witches_brew", "epsilon": 0.3, **TARGETED},
    {"name": "adversarial_poisoning", "epsilon": 0.3},
    {"name": "noisy_samples"},
]
ABREAST = 3


def experiment(backbone: Path) -> dict[str, Any]:
    """One malicious client for each attack, behind a trained net."""
    return {
        "name": "gallery",
        "rounds": 1,
        "data": {"name": "fashion_mnist_mini"},
        "model": {"name": "mlp", "hidden": [100]},
        "warm_start": {"file": str(backbone), "train_last": 1},
        "clients": {"count": 10},
        "sweep": {"threat": [{"malicious": 1, "data": attack} for attack in ATTACKS]},
    }


def show(axes: list[Axes], found: Poisoning) -> None:
    """Four pictures: clean, poisoned, difference, test time."""
    p = found.clients[0]
    places = p.examples(len(p.labels)).tolist()
    place = ([i for i in places if p.flipped[i]] or places)[2]
    clean, made = p.clean[place, 0], p.images[place, 0]
    label, given = int(p.labels[place]), int(p.relabelled[place])
    names = [f"class {label}", f"trained as {given}", "difference", ""]
    pictures = [clean, made, made - clean]
    if found.aim is not None and (found.triggered or found.goal == "targeted"):
        pictures.append(found.aim.presented[0, 0])
        names[3] = f"{int(found.aim.labels[0])} wanted as {int(found.aim.wanted[0])}"
    largest = float((made - clean).abs().max())
    for ax, name, picture in zip(axes, names, pictures, strict=False):
        signed = name == "difference"
        cmap, lowest, highest = ("RdBu_r", -largest, largest) if signed else ("gray", 0.0, 1.0)
        ax.imshow(picture, cmap=cmap, vmin=lowest, vmax=highest)
        ax.set_title(name, fontsize="small", pad=2)
    for ax in axes:
        ax.set_axis_off()
    title = axes[0].text(0, 1.28, found.label.split(" (")[0], transform=axes[0].transAxes, fontweight="bold")
    title.set_in_layout(False)


def main() -> None:
    """Craft and draw."""
    backbone = fedpoison.run(ROOT / "experiments" / "backbone.toml", out=ROOT / "results").folders[0].model
    found = poisonings(load(experiment(backbone)))
    with plt.style.context(str(files("fedpoison.report") / "paper.mplstyle")):
        rows = -(-len(found) // ABREAST)
        columns = ([1] * 4 + [0.12]) * (ABREAST - 1) + [1] * 4
        figure, axes = plt.subplots(rows, len(columns), figsize=(11.5, 1.32 * rows), width_ratios=columns)
        engine = figure.get_layout_engine()
        if engine is not None:
            engine.set(rect=(0, 0, 1, 0.97))
        for ax in axes.flat:
            ax.set_axis_off()
        for number, attack in enumerate(found):
            row, column = divmod(number, ABREAST)
            show(list(axes[row, 5 * column : 5 * column + 4]), attack)
        out = ROOT / "plots" / "gallery" / "attacks_on_data.png"
        figure.savefig(out)
    print(out)


if __name__ == "__main__":
    main()
