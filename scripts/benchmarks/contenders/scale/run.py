"""One run of fedpoison of a given size: seconds a round, and how far resident memory rose."""

import gc
import json
import os
import resource
import sys
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

folder = Path(sys.argv[1])
task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
if hasattr(os, "sched_setaffinity"):  # before torch counts the cores
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: task["cores"]])

from fedpoison.config.sweep import load  # noqa: E402
from fedpoison.runs.simulation import build, simulate  # noqa: E402

HERE = Path(__file__).parent


def config(clients: int, per_round: int):
    """The run with so many clients."""
    data = {
        "name": f"{HERE / 'images.py'}:pictures",
        "partition": {"name": f"{HERE / 'images.py'}:pieces", "samples": task["samples"]},
    }
    table = {
        "name": "scale",
        "rounds": task["rounds"],
        "evaluate_every": task["rounds"],
        "workers": task["cores"],
        "data": data,
        "model": {"name": "mlp", "hidden": [task["hidden"]]},
        "clients": {"count": clients, "per_round": per_round, "local": {"epochs": 1, "batch_size": 32, "lr": 0.05}},
        "defence": {"f": per_round // 5, "aggregator": task["rule"]},
    }
    return load(table).runs[0]


def peak() -> int:
    """The most bytes that were resident: since `forget_peak`, on Linux."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(status.read_text(encoding="utf-8").split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def forget_peak() -> None:
    """Let the peak be what is resident now; reading data takes more for a moment than keeping them does."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


build(config(10, 10))  # so that the data are in memory
gc.collect()
forget_peak()
before, ended, cpu = peak(), [], []


def ended_round(record) -> None:
    """Note the time."""
    ended.append(time.perf_counter())
    cpu.append(time.process_time())


simulate(config(task["clients"], task["per_round"]), folder / "results", ended_round)
# the first round warms up, the last one is evaluated
told = {
    "seconds": [b - a for a, b in pairwise(ended[:-1])],
    "cpu_seconds": [b - a for a, b in pairwise(cpu[:-1])],
    "peak": peak(),
    "rise": peak() - before,
}
(folder / "result.json").write_text(json.dumps(told), encoding="utf-8")
