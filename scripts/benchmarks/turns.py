"""What all benchmarks share: contenders that take turns, each a process of its own; bars; files; the machine's peak."""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from fedpoison.common.parallel import available_cores
from fedpoison.runs.records import environment

ROOT = Path(__file__).resolve().parents[2]
CONTENDERS = Path(__file__).parent / "contenders"
OURS = "fedpoison"


class TurnError(Exception):
    """A contender could not take its turn; the message is the line that the table shows."""


@dataclass(frozen=True)
class Program:
    """A contender: its file below contenders/, the environment it runs in (.venvs/NAME; ours if None), arguments."""

    file: str
    environment: str | None = None
    arguments: tuple[str, ...] = ()

    def run(self, folder: Path) -> dict[str, Any]:
        """One turn, with the work in `folder`: what it wrote to result.json, and when it was started (time.time)."""
        report = folder / "result.json"
        report.unlink(missing_ok=True)
        began = time.time()
        command = [self.python(), str(CONTENDERS / self.file), str(folder), *self.arguments]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False, cwd=ROOT)
        if done.returncode or not report.exists():
            (folder / f"{Path(self.file).stem}.log").write_text(done.stdout + done.stderr, encoding="utf-8")
            last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
            raise TurnError(f"failed (exit code {done.returncode}): {''.join(last)}"[:200])
        return {**json.loads(report.read_text(encoding="utf-8")), "began": began}

    def python(self) -> str:
        """The interpreter; TurnError, with the reason, where the environment could not be made."""
        if self.environment is None:
            return sys.executable
        place = ROOT / ".venvs" / self.environment
        if (place / "bin" / "python").exists():
            return str(place / "bin" / "python")
        why = place.with_name(f"{place.name}.failed")
        raise TurnError(
            why.read_text(encoding="utf-8").strip()
            if why.exists()
            else "not installed: run scripts/bench, which does it"
        )


Turn = dict[str, Any]


def take_turns(
    programs: Mapping[str, Program], folder: Path, repeats: int, keep: Callable[[str, Turn], None]
) -> tuple[dict[str, list[Turn]], dict[str, str]]:
    """Each contender's turns, and why one that failed did; who failed once is not asked again.

    `keep(name, turn)` is called after each, while its files are in the folder.
    """
    turns: dict[str, list[Turn]] = {name: [] for name in programs}
    why: dict[str, str] = {}
    for number in range(repeats):
        for name, program in programs.items():
            if name in why:
                continue
            announce(f"turn {number + 1} of {repeats}: {name} ...")
            try:
                turn = program.run(folder)
            except TurnError as reason:
                why[name] = str(reason)
                announce(f"{name}: {reason}")
            else:
                turns[name].append(turn)
                keep(name, turn)
    return turns, why


@dataclass(frozen=True)
class Bar:
    """Something to be reached, and what was; None where it was not measured."""

    what: str
    needed: float
    reached: float | None
    unit: str = "×"

    @property
    def passed(self) -> bool | None:
        """Whether it is reached."""
        return None if self.reached is None else self.reached >= self.needed


def ratio(theirs: float | None, ours: float | None) -> float | None:
    """How many times as much; None if either was not measured."""
    return theirs / ours if theirs is not None and ours is not None else None


def best(values: list[float | None]) -> float | None:
    """The least of those that were measured."""
    return min((value for value in values if value is not None), default=None)


def print_bars(bars: list[Bar]) -> None:
    """A table: what, reached, bar, yes or no."""
    table = Table(title="bars", title_justify="left")
    for column in ("what", "reached", "bar", ""):
        table.add_column(column, justify="left" if column in ("what", "") else "right")
    for bar in bars:
        answer = {True: "yes", False: "no", None: "not measured"}[bar.passed]
        table.add_row(bar.what, shown(bar.reached, bar.unit), shown(bar.needed, bar.unit), answer)
    console().print(table)


def shown(value: float | None, unit: str = "×") -> str:
    """A number with its unit, with as many digits as say something."""
    if value is None:
        return "–"
    return f"{value:.0%}" if unit == "%" else f"{value:.2g} {unit}" if value < 10 else f"{value:.0f} {unit}"


def console() -> Console:
    """Standard output; a pipe gets lines of 150 columns."""
    return Console(width=None if sys.stdout.isatty() else 150, highlight=False)


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with what all benchmarks take."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2, help="how often each contender has its turn")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "bench", help="the folder of the JSON file")
    return parser


def write(name: str, given: argparse.Namespace, found: dict[str, Any], bars: list[Bar]) -> None:
    """Write NAME.json: the machine, the options, what was found, the bars."""
    options = {key: value for key, value in vars(given).items() if key != "out"}
    machine = {**environment(), "cores": available_cores(), "at": time.strftime("%Y-%m-%d %H:%M")}
    machine["load"] = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    told = {"machine": machine, "options": options, **found, "bars": [asdict(bar) for bar in bars]}
    given.out.mkdir(parents=True, exist_ok=True)
    place = given.out / f"{name}.json"
    place.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(place)


def draw(name: str, given: argparse.Namespace) -> None:
    """Draw bench_NAME.png from what is in the folder of JSON files: in the gallery, or beside them if moved."""
    usual = given.out.resolve() == ROOT / "results" / "bench"
    gallery = ROOT / "plots" / "gallery" if usual else given.out
    command = [sys.executable, str(ROOT / "plots" / "bench.py"), name, str(given.out), str(gallery)]
    subprocess.run(command, check=True)


def announce(text: str) -> None:
    """Say what is being done, where it does not end up in a file of tables."""
    print(text, file=sys.stderr, flush=True)


def measured_peak() -> float:
    """Operations a second of large float32 products, a thread a core, each with one intra-op thread."""
    size, cores, before = 1536, available_cores(), torch.get_num_threads()
    torch.set_num_threads(1)
    pairs = [(torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)) for _ in range(cores)]

    def work(core: int) -> None:
        left, right, out = pairs[core]
        for _ in range(5):
            torch.mm(left, right, out=out)

    most = 0.0
    with ThreadPoolExecutor(cores) as pool:
        for _ in range(4):
            began = time.perf_counter()
            list(pool.map(work, range(cores)))
            most = max(most, 2 * size**3 * 5 * cores / (time.perf_counter() - began))
    torch.set_num_threads(before)
    return most
