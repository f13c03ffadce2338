"""What a round of fedpoison costs, in seconds and memory, against clients, parameters and cores, with the exponents.

Each point is a run in a process of its own, on pictures that are in memory whatever the number of clients is. Seconds
are those between the ends of rounds, without the first and without evaluation. Memory is how far the peak rose above
that of a process that holds the data. An exponent is the slope of a straight line through the points on log axes, once
through all points, and once through the last two, where what does not grow matters least.
"""

import argparse
import itertools
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.table import Table
from turns import Bar, Program, TurnError, announce, arguments, console, draw, print_bars, write

from fedpoison.common.parallel import available_cores

RUN = Program("scale/run.py")


@dataclass(frozen=True)
class Point:
    """A run's size."""

    clients: int
    per_round: int
    samples: int
    hidden: int
    cores: int

    @property
    def parameters(self) -> int:
        """Of an MLP with one hidden layer, for pictures of 28 × 28 and ten classes."""
        return 785 * self.hidden + 10 * (self.hidden + 1)


@dataclass(frozen=True)
class Line:
    """Runs that differ in one size: its name, the points, and what stays the same in words."""

    against: str
    points: tuple[Point, ...]
    same: str

    def at(self, point: Point) -> int:
        """The size of this point."""
        sizes = {"cohort": point.per_round, "population": point.clients, "parameters": point.parameters}
        return {**sizes, "cores": point.cores}[self.against]


def lines_of(given: argparse.Namespace, cores: int) -> list[Line]:
    """All that is measured."""
    few, small = given.samples, given.hidden
    most = max(given.clients)
    cohort = min(100, most)
    counts = sorted({2**i for i in range(cores.bit_length()) if 2**i <= cores} | {cores})
    middle = min(100, most)
    alike = f"{few} pictures each, {Point(1, 1, 1, small, 1).parameters:,} parameters, {cores} cores"
    return [
        Line("cohort", tuple(Point(n, n, few, small, cores) for n in given.clients), f"all take part; {alike}"),
        Line(
            "population",
            tuple(Point(n, cohort, few, small, cores) for n in given.clients if n >= cohort),
            f"{cohort} of them a round; {alike}",
        ),
        Line(
            "parameters",
            tuple(Point(middle, middle, few, hidden, cores) for hidden in given.hiddens),
            f"{middle} clients, {few} pictures each, {cores} cores",
        ),
        Line(
            "cores",
            tuple(Point(middle, middle, 100, 200, count) for count in counts),
            f"{middle} clients, 100 pictures each, {Point(1, 1, 1, 200, 1).parameters:,} parameters",
        ),
    ]


def main() -> int:
    """Make all runs in turn, print and write what they took; exit code 1 if one fails."""
    parser = arguments(__doc__)
    parser.add_argument("--clients", type=int, nargs="+", default=[10, 32, 100, 316, 1000, 3162, 10_000])
    parser.add_argument("--samples", type=int, default=6, help="pictures of each client")
    parser.add_argument("--hidden", type=int, default=32, help="hidden units where the clients' number varies")
    parser.add_argument("--hiddens", type=int, nargs="+", default=[8, 32, 128, 512, 2048])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--rule", default="trimmed_mean")
    given = parser.parse_args()
    lines = lines_of(given, available_cores())
    points = list(dict.fromkeys(point for line in lines for point in line.points))
    turns: dict[Point, list[dict[str, Any]]] = {point: [] for point in points}
    why: dict[Point, str] = {}
    for turn, point in itertools.product(range(given.repeats), points):
        if point in why:
            continue
        announce(f"turn {turn + 1} of {given.repeats}: {point} ...")
        try:
            turns[point].append(measure(point, given))
        except TurnError as reason:
            why[point] = str(reason)
            announce(str(reason))
    found = {point: summary(each) for point, each in turns.items() if each}
    told = [report(line, found) for line in lines]
    bars = bars_of(told)
    show(lines, told, found, given)
    for point, reason in why.items():
        console().print(f"{point}: {reason}", markup=False)
    print_bars(bars)
    write("scale", given, {"lines": told, "failed": [[asdict(point), reason] for point, reason in why.items()]}, bars)
    draw("scale", given)
    return 1 if why else 0


def measure(point: Point, given: argparse.Namespace) -> dict[str, Any]:
    """One run."""
    with tempfile.TemporaryDirectory() as folder:
        task = {**asdict(point), "rounds": given.rounds, "rule": given.rule}
        (Path(folder) / "task.json").write_text(json.dumps(task), encoding="utf-8")
        return RUN.run(Path(folder))


def summary(turns: list[dict[str, Any]]) -> dict[str, float]:
    """Medians over rounds and turns."""
    times = {key: median(itertools.chain(*(turn[key] for turn in turns))) for key in ("seconds", "cpu_seconds")}
    return {**times, **{key: median(turn[key] for turn in turns) for key in ("peak", "rise")}}


def exponent(sizes: list[float], costs: list[float]) -> float | None:
    """The slope of the line of least squares through the points on log axes; None through fewer than two."""
    if len(set(sizes)) < 2 or min(costs) <= 0:
        return None
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def report(line: Line, found: dict[Point, dict[str, float]]) -> dict[str, Any]:
    """A line's points with what they took, and its exponents, through all points and at the end."""
    points = [point for point in line.points if point in found]
    sizes = [float(line.at(point)) for point in points]
    exponents = {}
    for key in ("seconds", "cpu_seconds", "rise"):
        costs = [found[point][key] for point in points]
        exponents[key] = {"all": exponent(sizes, costs), "end": exponent(sizes[-2:], costs[-2:])}
    rows = [{"size": line.at(point), **asdict(point), **found[point]} for point in points]
    return {"against": line.against, "same": line.same, "points": rows, "exponents": exponents}


def bars_of(told: list[dict[str, Any]]) -> list[Bar]:
    """Memory must grow with the cohort and not with the population: bytes for a client more, in one and the other."""
    cohort, population = (added(line) for line in told if line["against"] in ("cohort", "population"))
    reached = None if cohort is None or population is None else cohort / max(population, 1.0)
    return [Bar("memory of a client more that takes part, to that of one that does not", 10, reached)]


def added(line: dict[str, Any]) -> float | None:
    """Bytes of memory that each unit of a line's size adds, from its first point to its last."""
    if len(line["points"]) < 2:
        return None
    first, last = line["points"][0], line["points"][-1]
    return float((last["rise"] - first["rise"]) / (last["size"] - first["size"]))


def show(
    lines: list[Line], told: list[dict[str, Any]], found: dict[Point, dict[str, float]], given: argparse.Namespace
) -> None:
    """Print a table a line."""
    for line, one in zip(lines, told, strict=True):
        table = Table(title=f"against {line.against}: {line.same}, {given.rule}", title_justify="left")
        for column in (line.against, "s a round", "CPU-s", "memory, MB more", "peak, MB"):
            table.add_column(column, justify="right")
        for row in one["points"]:
            figures = (f"{row['seconds']:.3g}", f"{row['cpu_seconds']:.3g}")
            table.add_row(f"{row['size']:,}", *figures, f"{row['rise'] / 1e6:.0f}", f"{row['peak'] / 1e6:.0f}")
        table.add_section()
        for which, label in (("all", "exponent"), ("end", "at the end")):
            values = (one["exponents"][key][which] for key in ("seconds", "cpu_seconds", "rise"))
            table.add_row(label, *("–" if value is None else f"{value:.2f}" for value in values), "")
        console().print(table)


if __name__ == "__main__":
    sys.exit(main())
