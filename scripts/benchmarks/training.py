"""Seconds a round of local training and averaging: fedpoison and others on the same work in turn.

Every contender trains the same clients from the same weights on the same batches, so their final models must agree;
that is checked. Each is a process of its own; the first round, with its imports and warm-up, is told apart. CPU seconds
are those of all processes of a contender.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.table import Table
from turns import (
    OURS,
    Bar,
    Program,
    Turn,
    announce,
    arguments,
    console,
    draw,
    measured_peak,
    print_bars,
    ratio,
    take_turns,
    write,
)

from fedpoison.clients.training import Local, batches
from fedpoison.common.parallel import available_cores
from fedpoison.common.seeding import Stream
from fedpoison.contract.lookup import find
from fedpoison.models.vector import flatten

PROGRAMS = {
    OURS: Program("training/fedpoison.py"),
    "plain": Program("training/plain.py"),
    "flower": Program("training/flower.py"),
    "pfl": Program("training/pfl.py", "pfl"),
    "byzfl": Program("training/byzfl.py", "byzfl"),
    "blazefl": Program("training/blazefl.py", "blazefl", ("1",)),
    "blazefl-threads": Program("training/blazefl.py", "blazefl", (str(available_cores()),)),
}
SHAPE, CLASSES = (1, 28, 28), 10
AGREE = 1e-3
"""How far a parameter of the final model may be from ours."""

Summary = dict[str, dict[str, Any]]


def main() -> int:
    """Let the contenders take turns and print what they took; exit code 1 if their models differ."""
    parser = arguments(__doc__)
    parser.add_argument("--net", choices=("mlp", "cnn"), default="mlp")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--samples", type=int, default=600, help="of each client")
    parser.add_argument("--steps", type=int, help="steps a round instead of an epoch")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--contenders", nargs="+", default=list(PROGRAMS), choices=list(PROGRAMS))
    given = parser.parse_args()
    names = [OURS, *(name for name in given.contenders if name != OURS)]
    local = Local(batch_size=32, lr=0.05, **({"steps": given.steps} if given.steps else {"epochs": 1}))
    peak = measured_peak()
    with tempfile.TemporaryDirectory() as folder:
        flops = write_work(Path(folder), given, local)
        models: dict[str, np.ndarray] = {}

        def keep(name: str, turn: Turn) -> None:
            models[name] = np.load(Path(folder) / "result.npy")

        turns, why = take_turns({name: PROGRAMS[name] for name in names}, Path(folder), given.repeats, keep)
    found = {name: summary(turns[name]) for name in names if turns[name]}
    for name in found:
        found[name]["largest_difference"] = float(np.abs(models[name] - models[OURS]).max())
    bars = bars_of(found, given, flops / peak)
    show(found, why, given, flops, peak)
    print_bars(bars)
    figures = {"peak_gflops": peak / 1e9, "gflop_a_round": flops / 1e9, "contenders": found, "failed": why}
    write(f"training-{given.net}{f'-steps{given.steps}' if given.steps else ''}", given, figures, bars)
    draw("training", given)
    wrong = [name for name, row in found.items() if not row["largest_difference"] < AGREE]
    for name in wrong:
        announce(f"{name}'s final model differs from fedpoison's by {found[name]['largest_difference']:.2g}")
    return 1 if wrong or OURS not in found else 0


def write_work(folder: Path, given: argparse.Namespace, local: Local) -> float:
    """Write what is to be trained into `folder`; the floating-point operations of a round."""
    rng = np.random.default_rng(0)
    count = given.clients * given.samples
    labels = rng.integers(0, CLASSES, count)
    prototypes = rng.random((CLASSES, *SHAPE), dtype=np.float32)
    images = 0.5 * prototypes[labels] + 0.5 * rng.random((count, *SHAPE), dtype=np.float32)
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", labels)
    torch.manual_seed(0)
    net = find("model", given.net).function(SHAPE, CLASSES)
    np.save(folder / "params.npy", flatten(net).numpy())
    made = [
        [
            np.concatenate(list(batches(Stream(0, "batches", number, client), given.samples, local)))
            for client in range(given.clients)
        ]
        for number in range(1, given.rounds + 1)
    ]
    np.save(folder / "orders.npy", np.array(made))  # [round, client, samples trained on]
    work = {"net": given.net, "clients": given.clients, "samples": given.samples, "rounds": given.rounds}
    (folder / "work.json").write_text(
        json.dumps({**work, "steps": given.steps, "batch_size": 32, "lr": 0.05}), encoding="utf-8"
    )
    trained = np.array(made).shape[2] * given.clients
    return 2.0 * trained * multiplications(net)


def multiplications(net: torch.nn.Module) -> int:
    """Of a forward and a backward pass of one sample, the gradient of the input left out."""
    total, first, sample = 0, True, torch.zeros(1, *SHAPE)
    for layer in net:
        sample = layer(sample)
        weight = getattr(layer, "weight", None)
        if weight is not None:
            total += weight.numel() * (sample[0, 0].numel() if sample.dim() == 4 else 1) * (2 if first else 3)
            first = False
    return total


def summary(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds after the first of all turns."""
    walls, cpus = [], []
    for turn in turns:
        walls += np.diff(turn["ended"]).tolist()
        cpus += np.diff(turn["cpu"]).tolist()
    first = median(turn["ended"][0] - turn["began"] for turn in turns)
    return {
        "seconds": median(walls),
        "cpu_seconds": median(cpus),
        "first_round_after": first,
        "uses": turns[-1]["uses"],
        "rounds": {"seconds": walls, "cpu_seconds": cpus},
    }


def bars_of(found: Summary, given: argparse.Namespace, least: float) -> list[Bar]:
    """The bars of this net and length of a round; `least`: the seconds of a round at the measured peak."""

    def times(name: str, key: str = "seconds") -> float | None:
        return ratio(*(found.get(who, {}).get(key) for who in (name, OURS)))

    peak = ratio(least, found.get(OURS, {}).get("seconds"))
    if given.steps == 1 and given.net == "mlp":
        return [Bar("MLP, a step a round: wall seconds of a plain loop", 6, times("plain"))]
    if given.steps:
        return []
    if given.net == "mlp":
        return [
            Bar("MLP: wall seconds of Flower", 10, times("flower")),
            Bar("MLP: wall seconds of pfl", 4, times("pfl")),
            Bar("MLP: share of the measured peak", 0.75, peak, "%"),
        ]
    return [
        Bar("CNN: CPU seconds of Flower", 3, times("flower", "cpu_seconds")),
        Bar("CNN: CPU seconds of blazefl", 1.7, times("blazefl", "cpu_seconds")),
        Bar("CNN: share of the measured peak", 0.8, peak, "%"),
    ]


def show(found: Summary, why: dict[str, str], given: argparse.Namespace, flops: float, peak: float) -> None:
    """Print the table; ratios are to fedpoison."""
    length = f"{given.steps} step(s)" if given.steps else "1 epoch"
    title = (
        f"{given.net}, {given.clients} clients × {given.samples} samples, {length}, {available_cores()} cores; "
        f"{flops / 1e9:.1f} GFLOP a round, {peak / 1e9:.0f} GFLOP/s measured peak"
    )
    table = Table(title=title, title_justify="left")
    for column in ("", "s a round", "×", "CPU-s", "×", "of peak", "first round ends after", "×", "uses", "difference"):
        table.add_column(column, justify="right" if column else "left")
    ours = found.get(OURS)
    for name, row in found.items():
        columns = []
        for key, unit in (("seconds", ""), ("cpu_seconds", ""), ("first_round_after", " s")):
            columns += [f"{row[key]:.3g}{unit}", f"{row[key] / ours[key]:.1f}" if ours else "–"]
        columns.insert(4, f"{flops / row['seconds'] / peak:.0%}")
        table.add_row(name, *columns, row["uses"], f"{row['largest_difference']:.1e}")
    console().print(table)
    for name, reason in why.items():
        console().print(f"{name}: {reason}", markup=False)


if __name__ == "__main__":
    sys.exit(main())
