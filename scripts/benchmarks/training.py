"""Seconds a round of local training and averaging: fedpoison, a plain loop and Flower on Ray, on the same work in turn.

Every contender trains the same clients from the same weights on the same batches, so their final models must agree;
that is checked. Each is a process of its own; the first round, with its imports and warm-up, is told apart. CPU seconds
are those of all processes of a contender.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from fedpoison.lookup import find
from fedpoison.models.vector import flatten
from fedpoison.parallel import available_cores
from fedpoison.seeding import Stream
from fedpoison.training import Local, batches

CONTENDERS = Path(__file__).parent / "contenders"
SHAPE, CLASSES = (1, 28, 28), 10


def main() -> int:
    """Let the contenders take turns and print what they took; exit code 1 if their models differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", choices=("mlp", "cnn"), default="mlp")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--samples", type=int, default=600, help="of each client")
    parser.add_argument("--steps", type=int, help="steps a round instead of an epoch")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=2, help="how often each contender has its turn")
    parser.add_argument("--contenders", nargs="+", default=["fedpoison", "plain", "flower"])
    parser.add_argument("--json", type=Path, help="where the figures are written as well")
    given = parser.parse_args()
    local = Local(batch_size=32, lr=0.05, **({"steps": given.steps} if given.steps else {"epochs": 1}))
    results: dict[str, list[dict[str, object]]] = {name: [] for name in given.contenders}
    with tempfile.TemporaryDirectory() as folder:
        flops = write_work(Path(folder), given, local)
        peak = measured_peak()
        for turn in range(given.repeats):
            for name in given.contenders:
                print(f"turn {turn + 1} of {given.repeats}: {name} ...", file=sys.stderr, flush=True)
                results[name].append(run(name, Path(folder)))
        agreement = differences(Path(folder), given.contenders)
    figures = {name: summary(turns) for name, turns in results.items()}
    shown = {"options": {**vars(given), "json": None}, "peak_gflops": peak / 1e9, "gflop_a_round": flops / 1e9}
    show(given, figures, agreement, flops, peak)
    if given.json:
        report = {**shown, "cores": available_cores(), "contenders": figures, "largest_difference": agreement}
        given.json.write_text(json.dumps(report, indent=1))
    wrong = [name for name, difference in agreement.items() if not difference < 1e-3]
    for name in wrong:
        print(f"{name}'s final model differs from fedpoison's by {agreement[name]:.2g}", file=sys.stderr)
    return 1 if wrong else 0


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
    (folder / "work.json").write_text(json.dumps({**work, "steps": given.steps, "batch_size": 32, "lr": 0.05}))
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


def measured_peak() -> float:
    """Operations a second of large products, a thread a core, each with one intra-op thread."""
    size, cores = 1536, available_cores()
    torch.set_num_threads(1)
    pairs = [(torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)) for _ in range(cores)]

    def work(core: int) -> None:
        left, right, out = pairs[core]
        for _ in range(5):
            torch.mm(left, right, out=out)

    best = 0.0
    with ThreadPoolExecutor(cores) as pool:
        for _ in range(4):
            began = time.perf_counter()
            list(pool.map(work, range(cores)))
            best = max(best, 2 * size**3 * 5 * cores / (time.perf_counter() - began))
    return best


def run(name: str, folder: Path) -> dict[str, object]:
    """One turn of a contender: wall and CPU seconds of each round, and when the first ended after the start."""
    began = time.time()
    command = [sys.executable, str(CONTENDERS / f"{name}.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    report = folder / f"{name}.json"
    if done.returncode or not report.exists():
        raise SystemExit(f"{name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    measured = json.loads(report.read_text())
    return {**measured, "first_round_after": measured["ended"][0] - began}


def summary(turns: list[dict[str, object]]) -> dict[str, float]:
    """Medians over the rounds after the first of all turns."""
    walls, cpus = [], []
    for turn in turns:
        walls += np.diff(turn["ended"]).tolist()
        cpus += np.diff(turn["cpu"]).tolist()
    first = median(turn["first_round_after"] for turn in turns)
    return {"seconds": median(walls), "cpu_seconds": median(cpus), "first_round_after": first}


def differences(folder: Path, names: list[str]) -> dict[str, float]:
    """The largest difference of a final parameter to fedpoison's."""
    ours = np.load(folder / f"{names[0]}.npy")
    return {name: float(np.abs(np.load(folder / f"{name}.npy") - ours).max()) for name in names}


Figures = dict[str, dict[str, float]]


def show(given: argparse.Namespace, figures: Figures, agreement: dict[str, float], flops: float, peak: float) -> None:
    """Print the table; ratios are to the first contender."""
    length = f"{given.steps} step(s)" if given.steps else "1 epoch"
    title = (
        f"{given.net}, {given.clients} clients × {given.samples} samples, {length}, {available_cores()} cores; "
        f"{flops / 1e9:.1f} GFLOP a round, {peak / 1e9:.0f} GFLOP/s measured peak"
    )
    table = Table(title=title, title_justify="left")
    for column in ("", "s a round", "×", "CPU-s", "×", "of peak", "first round ends after", "×", "largest difference"):
        table.add_column(column, justify="right" if column else "left")
    ours = next(iter(figures.values()))
    for name, row in figures.items():
        columns = []
        for key in ("seconds", "cpu_seconds", "first_round_after"):
            columns += [f"{row[key]:.3f}", f"{row[key] / ours[key]:.1f}"]
        columns.insert(4, f"{flops / row['seconds'] / peak:.0%}")
        table.add_row(name, *columns, f"{agreement[name]:.1e}")
    Console(width=None if sys.stdout.isatty() else 130).print(table)


if __name__ == "__main__":
    sys.exit(main())
