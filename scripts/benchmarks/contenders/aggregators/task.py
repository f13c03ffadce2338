"""What every library is given to aggregate, and how it is timed."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


class Task:
    """The rows and what is to be known of them, from the benchmark's folder, which is the first argument."""

    def __init__(self) -> None:
        self.folder = Path(sys.argv[1])
        told = json.loads((self.folder / "task.json").read_text(encoding="utf-8"))
        self.f, self.tau, self.iterations = told["f"], told["tau"], told["iterations"]
        self._columns: dict[str, int] = told["columns"]  # of each rule that is to be timed
        self._matrix = np.load(self.folder / "matrix.npy", mmap_mode="r")
        self.n = len(self._matrix)

    def time(
        self,
        rules: dict[str, Callable[[Any], Any]],
        uses: str,
        given: Callable[[np.ndarray], Any] = lambda rows: rows,
    ) -> None:
        """Time those rules that are asked for, once each after one go on few columns, and write result.json.

        `given` makes of the rows what a library wants, outside of the timed part; a rule may spoil it.
        """
        found: dict[str, dict[str, float]] = {}
        for name, rule in rules.items():
            if name not in self._columns:
                continue
            rule(given(np.array(self._matrix[:, :1000])))
            rows = given(np.array(self._matrix[:, : self._columns[name]]))
            cpu, wall = time.process_time(), time.perf_counter()
            result = rule(rows)
            seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
            found[name] = {"seconds": seconds, "cpu_seconds": cpu_seconds}
            np.save(self.folder / f"result-{name}.npy", np.asarray(result, dtype=np.float32).reshape(-1))
            del rows, result
        (self.folder / "result.json").write_text(json.dumps({"rules": found, "uses": uses}), encoding="utf-8")
