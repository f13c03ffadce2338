"""Run a library's functions on every input and write what they gave, or how they failed, to tests/golden."""

import json
import math
import signal
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"
ENUMERATED = 1000
"""Rules that try every subset are run where there are at most so many."""
HONEST = ("gaussian", "shifted", "small", "ties", "clusters")
"""The kinds of inputs that attacks are shown."""
PATIENCE = 5
"""Seconds of this process's own time; what ends here ends in less than one."""

Function = Callable[[Tensor, int], object]
"""Of rows [n, d], which it may spoil, and f."""


def few_subsets(n: int, f: int) -> bool:
    """Whether n rows have few enough subsets of n − f to try them all."""
    return math.comb(n, f) <= ENUMERATED


def give_up(*_: object) -> None:
    """What happens when patience is at an end."""
    raise TimeoutError("it does not end")


def record(
    library: str, functions: dict[str, Function], enumerating: set[str], only: dict[str, tuple[str, ...]]
) -> None:
    """Write LIBRARY.safetensors: a tensor FUNCTION/INPUT for each result, versions and errors as metadata.

    `enumerating`: functions that try every subset. `only`: the kinds of inputs a function is run on, if not all.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGPROF, give_up)
    results: dict[str, Tensor] = {}
    errors: dict[str, str] = {}
    for name, rows in load_file(GOLDEN / "inputs.safetensors").items():
        kind, _, f = name.split("-")
        for function, call in functions.items():
            if function in enumerating and not few_subsets(len(rows), int(f)):
                continue
            if kind not in only.get(function, (kind,)):
                continue
            torch.manual_seed(0)
            signal.setitimer(signal.ITIMER_PROF, PATIENCE)
            try:
                result = call(rows.clone(), int(f))
                if isinstance(result, list):
                    result = torch.stack(result)
                if not isinstance(result, Tensor):
                    raise ValueError(f"the result is {result}")
                results[f"{function}/{name}"] = result.float().contiguous()
            except Exception as error:
                errors[f"{function}/{name}"] = f"{type(error).__name__}: {error}"[:100]
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
    told = {
        "version": version(library),
        "torch": torch.__version__.split("+")[0],
        "errors": dict(sorted(errors.items())),
    }
    save_file(results, GOLDEN / f"{library}.safetensors", {"golden": json.dumps(told)})
    size = (GOLDEN / f"{library}.safetensors").stat().st_size
    print(f"{library}: {len(results)} results, {len(errors)} errors, {size:,} bytes")
