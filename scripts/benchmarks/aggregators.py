"""Seconds of aggregation: fedpoison, Flower, byzfl, byzpy and the lines of torch and numpy that people write.

All are given the same rows, in turn, each library in a process and an environment of its own. A rule has one go on few
columns first. What comes out is compared with ours; where it differs, the table says why.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.table import Table
from turns import (
    OURS,
    Bar,
    Program,
    Turn,
    announce,
    arguments,
    best,
    console,
    draw,
    print_bars,
    ratio,
    take_turns,
    write,
)

PROGRAMS = {
    OURS: Program("aggregators/fedpoison.py"),
    "flower": Program("aggregators/flower.py"),
    "byzfl": Program("aggregators/byzfl.py", "byzfl"),
    "byzpy": Program("aggregators/byzpy.py", "byzpy"),
    "torch": Program("aggregators/torch_lines.py"),
    "numpy": Program("aggregators/numpy_lines.py"),
}
FEW = ("geometric_median", "nnm + trimmed_mean", "bulyan", "bulyan, one shot")
"""Rules that are given fewer columns, or some would take minutes."""
RULES = ("mean", "median", "trimmed_mean", "meamed", "krum", "multi_krum", "centered_clipping", *FEW)
AGREE = 1e-3
"""How far a result may be from ours, in standard deviations of an honest value."""
DIFFERS = {
    ("byzfl", "krum"): "scores by n − f − 1 neighbours, not n − f − 2",
    ("byzfl", "multi_krum"): "scores by n − f − 1 neighbours, not n − f − 2",
    ("byzpy", "krum"): "scores by n − f − 1 neighbours, not n − f − 2",
    ("byzpy", "multi_krum"): "scores by n − f − 1 neighbours, not n − f − 2",
    ("byzfl", "geometric_median"): "stops after 3 iterations",
    ("torch", "median"): "of two middle values the lower, not their mean",
    ("byzpy", "meamed"): "around the lower of two middle values",
    ("byzpy", "median"): "of two middle values the lower, not their mean",
}
"""What is known of results that are not ours."""

Found = dict[str, dict[str, dict[str, Any]]]
"""By rule and library."""


def main() -> int:
    """Let the libraries take turns and print what they took; exit code 1 for a difference that nobody can explain."""
    parser = arguments(__doc__)
    parser.set_defaults(repeats=3)
    parser.add_argument("--n", type=int, default=100, help="rows, the clients' updates")
    parser.add_argument("--d", type=int, default=1_000_000, help="columns, the parameters")
    parser.add_argument("--few", type=int, default=100_000, help=f"columns for {', '.join(FEW)}")
    parser.add_argument("--f", type=int, help="how many rows may be malicious, a fifth of them unless given")
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=RULES)
    parser.add_argument("--libraries", nargs="+", default=list(PROGRAMS), choices=list(PROGRAMS))
    given = parser.parse_args()
    given.f = given.n // 5 if given.f is None else given.f
    libraries = [OURS, *(name for name in given.libraries if name != OURS)]
    with tempfile.TemporaryDirectory() as folder:
        write_task(Path(folder), given)
        turns, why, outputs = take_all(libraries, Path(folder), given.repeats)
    found = found_in(turns, outputs, given.rules)
    bars = bars_of(found)
    show(found, why, given)
    print_bars(bars)
    write("aggregators", given, {"rules": found, "few": FEW, "failed": why}, bars)
    draw("aggregators", given)
    wrong = [(rule, name) for rule, row in found.items() for name, one in row.items() if one["note"] == UNEXPLAINED]
    for rule, name in wrong:
        announce(f"{name}'s {rule} differs from ours by {found[rule][name]['difference']:.2g} standard deviations")
    return 1 if wrong or OURS in why else 0


UNEXPLAINED = "differs"


def write_task(folder: Path, given: argparse.Namespace) -> None:
    """Write rows and task.json: honest rows of different spread around one mean, and f that lie together apart."""
    rng = np.random.default_rng(0)
    columns = {rule: min(given.few, given.d) if rule in FEW else given.d for rule in given.rules}
    matrix = np.lib.format.open_memmap(
        folder / "matrix.npy", "w+", np.float32, (given.n, max(columns.values(), default=1))
    )
    middle = rng.standard_normal(matrix.shape[1], dtype=np.float32)
    spread = np.linspace(0.7, 1.3, given.n)
    rng.shuffle(spread)  # no two rows are as good as each other, so small errors choose nobody else
    for row in range(given.n):
        matrix[row] = middle + spread[row] * rng.standard_normal(len(middle), dtype=np.float32)
    for row in rng.permutation(given.n)[: given.f]:
        matrix[row] += 1
    matrix.flush()
    # half of an honest row's usual length, which is about that of two standard deviations a column
    told = {"f": given.f, "tau": 0.5 * float(np.sqrt(2 * given.d)), "iterations": 3, "columns": columns}
    (folder / "task.json").write_text(json.dumps(told), encoding="utf-8")


Outputs = dict[str, dict[str, np.ndarray]]


def take_all(libraries: list[str], folder: Path, repeats: int) -> tuple[dict[str, list[Turn]], dict[str, str], Outputs]:
    """The libraries' turns, why one that failed did, and what came out."""
    outputs: Outputs = {}

    def keep(name: str, turn: Turn) -> None:
        outputs[name] = {rule: np.load(folder / f"result-{rule}.npy") for rule in turn["rules"]}

    turns, why = take_turns({name: PROGRAMS[name] for name in libraries}, folder, repeats, keep)
    return turns, why, outputs


def found_in(turns: dict[str, list[dict[str, Any]]], outputs: Outputs, rules: list[str]) -> Found:
    """For each rule and library the median seconds over turns, the difference to ours, and what it comes from."""
    found: Found = {rule: {} for rule in rules}
    for name, library in turns.items():
        for rule in library[0]["rules"] if library else ():
            each = {key: [turn["rules"][rule][key] for turn in library] for key in ("seconds", "cpu_seconds")}
            one: dict[str, Any] = {key: median(values) for key, values in each.items()}
            one |= {"uses": library[-1]["uses"], "turns": each, "difference": None, "note": "nothing to compare with"}
            if rule in outputs.get(OURS, {}):
                one["difference"] = float(np.abs(outputs[name][rule] - outputs[OURS][rule]).max())
                agrees = one["difference"] <= AGREE
                one["note"] = "" if agrees else DIFFERS.get((name, rule), UNEXPLAINED)
            found[rule][name] = one
    return found


def bars_of(found: Found) -> list[Bar]:
    """How many times the seconds of the best peer, or of one of them, ours are."""

    def times(rule: str, *peers: str) -> float | None:
        row = found.get(rule, {})
        seconds = {name: one["seconds"] for name, one in row.items()}
        return ratio(best([seconds.get(peer) for peer in peers]), seconds.get(OURS))

    libraries = ("flower", "byzfl", "byzpy")
    return [
        Bar("median: wall seconds of the best of Flower, byzfl, byzpy", 10, times("median", *libraries)),
        Bar("trimmed mean: wall seconds of the best of Flower, byzfl, byzpy", 10, times("trimmed_mean", *libraries)),
        Bar("Krum: wall seconds of byzpy", 2, times("krum", "byzpy")),
        Bar("Bulyan: wall seconds of Flower's older one", 10, times("bulyan", "flower")),
        Bar("Bulyan that chooses at once: wall seconds of Flower", 10, times("bulyan, one shot", "flower")),
    ]


def show(found: Found, why: dict[str, str], given: argparse.Namespace) -> None:
    """Print the table; ratios are to fedpoison."""
    title = f"{given.n} rows × {given.d:,} columns ({given.few:,} for {', '.join(FEW)}), f = {given.f}"
    table = Table(title=title, title_justify="left")
    for column in ("rule", "library", "s", "×", "CPU-s", "×", "uses", "cores busy", "difference", ""):
        table.add_column(column, justify="left" if column in ("rule", "library", "uses", "") else "right")
    for rule, row in found.items():
        ours = row.get(OURS)
        for name, one in row.items():
            times = [f"{one[key] / ours[key]:.1f}" if ours else "–" for key in ("seconds", "cpu_seconds")]
            seconds, cpu = f"{one['seconds']:.3g}", f"{one['cpu_seconds']:.3g}"
            busy = f"{one['cpu_seconds'] / one['seconds']:.1f}"
            differs = "–" if one["difference"] is None else f"{one['difference']:.1e}"
            table.add_row(
                rule if one is ours else "",
                name,
                seconds,
                times[0],
                cpu,
                times[1],
                one["uses"],
                busy,
                differs,
                one["note"],
            )
        table.add_section()
    console().print(table)
    for name, reason in why.items():
        console().print(f"{name}: {reason}", markup=False)


if __name__ == "__main__":
    sys.exit(main())
