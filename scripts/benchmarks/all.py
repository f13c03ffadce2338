"""All benchmarks one after the other, and one table of what they reached.

Each is the same script with the same options as by itself, but for fewer turns of some, and fewer clients of the CNN.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from turns import Bar, announce, arguments, print_bars

HERE = Path(__file__).parent
RUNS = {
    "training-mlp": ["training"],
    "training-cnn": ["training", "--net", "cnn", "--clients", "30", "--rounds", "3"],
    "training-mlp-steps1": ["training", "--steps", "1", "--rounds", "12"],
    "aggregators": ["aggregators", "--repeats", "2"],
    "startup": ["startup", "--repeats", "3"],
    "scale": ["scale"],
}
"""By the name of their JSON file."""


def main() -> int:
    """Run all, print the bars; exit code 1 if a benchmark failed. A bar that is not reached is no failure."""
    parser = arguments(__doc__)
    parser.set_defaults(repeats=None)
    given = parser.parse_args()
    failed, bars = [], []
    for name, (script, *options) in RUNS.items():
        began = time.time()
        options += ["--out", str(given.out)] + (["--repeats", str(given.repeats)] if given.repeats else [])
        done = subprocess.run([sys.executable, str(HERE / f"{script}.py"), *options], check=False)
        announce(f"{name}: {time.time() - began:.0f} s")
        if done.returncode:
            failed.append(f"{name} failed (exit code {done.returncode})")
        bars += bars_in(given.out / f"{name}.json", began)
    print_bars(bars)
    for line in failed:
        announce(line)
    return 1 if failed else 0


def bars_in(place: Path, since: float) -> list[Bar]:
    """The bars of a benchmark's file; none if it was not written since then."""
    if not place.exists() or place.stat().st_mtime < since:
        return []
    return [Bar(**bar) for bar in json.loads(place.read_text(encoding="utf-8"))["bars"]]


if __name__ == "__main__":
    sys.exit(main())
