"""How long one waits at the start: imports, --help, show, and a whole small experiment against Flower's first round.

Every command is a new process whose files are in the page cache, and all take turns. The experiment trains ten clients
on the 5,000 embedded pictures for three rounds, evaluates after each and writes its files; Flower's simulation trains
as many clients on as many pictures of that size, and is timed until its first round has ended.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table
from training import PROGRAMS, write_work
from turns import ROOT, Bar, TurnError, announce, arguments, console, draw, print_bars, ratio, write

from fedpoison.clients.training import Local

EXPERIMENT = """\
name = "startup"
rounds = 3
data = { name = "fashion_mnist_mini" }
model = { name = "mlp", hidden = [200] }
clients = { count = 10, local = { epochs = 1, batch_size = 32, lr = 0.05 } }
"""
PYTHON, HELP, SHOW, RUN, FLOWER = "python alone", "fedpoison --help", "fedpoison show", "fedpoison run", "flower"
TORCH, LIGHT, WHOLE = "import torch", "import fedpoison", "import torch and all of fedpoison"

Found = dict[str, dict[str, Any]]


def main() -> int:
    """Let all commands take turns and print how long they took; exit code 1 if one of ours failed."""
    parser = arguments(__doc__)
    parser.set_defaults(repeats=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        turns, why = take_turns(Path(folder), given.repeats)
    found = summary(turns)
    bars = bars_of(found)
    show(found, why)
    print_bars(bars)
    write("startup", given, {"commands": found, "failed": why}, bars)
    draw("startup", given)
    return 1 if set(why) - {FLOWER} else 0


def commands(folder: Path) -> dict[str, list[str]]:
    """What is timed until it ends; the run makes what `show` shows."""
    python, line = sys.executable, [sys.executable, "-m", "fedpoison.cli"]
    return {
        PYTHON: [python, "-c", "pass"],
        TORCH: [python, "-c", "import torch"],
        LIGHT: [python, "-c", "import fedpoison"],
        WHOLE: [python, "-c", "import torch, fedpoison; fedpoison.run, fedpoison.aggregate, fedpoison.craft"],
        HELP: [*line, "--help"],
        RUN: [*line, "run", str(folder / "startup.toml"), "--out", str(folder / "results")],
        SHOW: [*line, "show", str(folder / "results" / "startup")],
    }


def take_turns(folder: Path, repeats: int) -> tuple[dict[str, list[dict[str, float]]], dict[str, str]]:
    """Wall and CPU seconds of each command in each turn, after a turn that is not counted; why one failed."""
    (folder / "startup.toml").write_text(EXPERIMENT, encoding="utf-8")
    (folder / "work").mkdir()
    work = argparse.Namespace(net="mlp", clients=10, samples=500, steps=None, rounds=1)
    write_work(folder / "work", work, Local(batch_size=32, lr=0.05))
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in (*commands(folder), FLOWER)}
    why: dict[str, str] = {}
    for turn in range(repeats + 1):
        announce(f"turn {turn} of {repeats} ..." if turn else "a turn that is not counted ...")
        for name, command in commands(folder).items():
            if name == RUN:
                remove_results(folder)
            try:
                one = timed(command)
                turns[name] += [one] if turn else []
            except TurnError as reason:
                why[name] = str(reason)
        if FLOWER not in why:
            try:
                told = PROGRAMS["flower"].run(folder / "work")
                first = {"seconds": told["ended"][0] - told["began"], "cpu_seconds": told["cpu"][0]}
                turns[FLOWER] += [first] if turn else []
            except TurnError as reason:
                why[FLOWER] = str(reason)
    return turns, why


def remove_results(folder: Path) -> None:
    """So that the run is made again."""
    for path in sorted((folder / "results").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def timed(command: list[str]) -> dict[str, float]:
    """Wall and CPU seconds until it ends."""
    before, began = os.times(), time.perf_counter()
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False, cwd=ROOT)
    seconds, after = time.perf_counter() - began, os.times()
    if done.returncode:
        raise TurnError(f"failed (exit code {done.returncode}): {done.stderr.strip().splitlines()[-1:]}"[:200])
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": seconds, "cpu_seconds": cpu}


def summary(turns: dict[str, list[dict[str, float]]]) -> Found:
    """Medians over turns."""
    found: Found = {}
    for name, each in turns.items():
        if each:
            values = {key: [turn[key] for turn in each] for key in ("seconds", "cpu_seconds")}
            found[name] = {**{key: median(value) for key, value in values.items()}, "turns": values}
    return found


def beyond_torch(found: Found) -> float | None:
    """Seconds that all of fedpoison takes to import once torch is imported: the median over turns of the difference."""
    if not {TORCH, WHOLE} <= set(found):
        return None
    both = zip(found[WHOLE]["turns"]["seconds"], found[TORCH]["turns"]["seconds"], strict=True)
    return median(whole - torch for whole, torch in both)


def bars_of(found: Found) -> list[Bar]:
    """How many times the seconds of our whole run Flower's first round takes."""
    seconds = {name: row["seconds"] for name, row in found.items()}
    reached = ratio(seconds.get(FLOWER), seconds.get(RUN))
    return [Bar("start: seconds until Flower's first round ends, to those of a whole small run", 5, reached)]


def show(found: Found, why: dict[str, str]) -> None:
    """Print the table."""
    table = Table(title="seconds until the end, new processes in turn", title_justify="left")
    for column in ("command", "s", "CPU-s", "s, least", "s, most"):
        table.add_column(column, justify="left" if column == "command" else "right")
    for name, row in found.items():
        label = "Flower's simulation, until its first round ends" if name == FLOWER else name
        every = row["turns"]["seconds"]
        table.add_row(label, *(f"{x:.2f}" for x in (row["seconds"], row["cpu_seconds"], min(every), max(every))))
    console().print(table)
    extra = beyond_torch(found)
    if extra is not None:
        console().print(f"all of fedpoison takes {extra:.2f} s to import beyond torch itself")
    for name, reason in why.items():
        console().print(f"{name}: {reason}", markup=False)


if __name__ == "__main__":
    sys.exit(main())
