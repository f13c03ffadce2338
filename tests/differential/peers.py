"""What other libraries' functions gave (tests/golden, written by scripts/golden) against ours."""

import ast
import fnmatch
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from fedpoison.contract.lookup import entries

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "golden"
Ours = Callable[[Tensor, int], Tensor]
"""Of rows [n, d] and f, as the libraries' functions were called."""


@dataclass(frozen=True)
class Difference:
    """Inputs (patterns) on which a library gives something else, why, and which of the two follows the paper.

    `shown`: whether the library's function, by its name, shows on an input, by its name, that this is why.
    """

    inputs: str
    why: str
    paper: str
    shown: Callable[["Library", str, str], bool]


@dataclass(frozen=True)
class Comparison:
    """A library's function and what of ours should give the same. `view`: of both results, before they are compared."""

    library: str
    function: str
    call: str
    rule: str
    ours: Ours
    differences: tuple[Difference, ...] = ()
    options: str = ""
    kind: str = "aggregator"
    view: Callable[[Tensor], Tensor] = torch.clone

    @property
    def registered(self) -> bool:
        """Whether fedpoison has the rule; one that it has not is waiting."""
        return self.rule in entries(self.kind)


@dataclass(frozen=True)
class Finding:
    """Something else that a library's results show; `holds` looks at them."""

    library: str
    call: str
    what: str
    shown_by: str
    paper: str
    holds: Callable[[], bool]


@dataclass(frozen=True)
class Library:
    """One library's results and errors by FUNCTION/INPUT, and the versions they were made with."""

    results: dict[str, Tensor]
    errors: dict[str, str]
    version: str

    def result(self, function: str, name: str) -> Tensor | None:
        """What a function gave on an input, or None."""
        return self.results.get(f"{function}/{name}")

    def error(self, function: str, name: str) -> str:
        """How it failed, or nothing."""
        return self.errors.get(f"{function}/{name}", "")

    def inputs_of(self, function: str) -> list[str]:
        """The inputs a function was run on."""
        return [name for name in inputs() if f"{function}/{name}" in self.results.keys() | self.errors.keys()]


@cache
def inputs() -> dict[str, Tensor]:
    """The rows that all were given, by KIND-N-F."""
    with safe_open(GOLDEN / "inputs.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@cache
def library(name: str) -> Library:
    """What a library gave."""
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        told = json.loads(file.metadata()["golden"])
        return Library({key: file.get_tensor(key) for key in file.keys()}, told["errors"], told["version"])  # noqa: SIM118


def faults_of(name: str) -> int:
    """The f in an input's name."""
    return int(name.split("-")[2])


def close(result: Tensor, expected: Tensor, rows: Tensor) -> bool:
    """Equal within float32's error: of what is expected, and of the rows' spread for what was iterated."""
    if result.shape != expected.shape:
        return False
    finite = rows[rows.isfinite().all(dim=1)].double()
    spread = (finite - finite.median(dim=0).values).abs().median()
    size = finite.abs().amax(dim=1).median()
    within = 5e-5 * spread + 1e-9 * size + 2e-6 * expected.double().abs().amax(dim=-1, keepdim=True)
    return bool(((result.double() - expected.double()).abs() <= within).all())


@cache
def outcomes(comparison: Comparison) -> dict[str, bool]:
    """For each input whether both give the same; what both refuse is left out."""
    theirs, found = library(comparison.library), {}
    for name in theirs.inputs_of(comparison.function):
        result = theirs.result(comparison.function, name)
        try:
            ours = comparison.ours(inputs()[name].clone(), faults_of(name))
        except ValueError:
            if result is not None:
                found[name] = False
            continue
        found[name] = result is not None and close(comparison.view(result), comparison.view(ours), inputs()[name])
    return found


def listed(comparison: Comparison, names: Iterable[str]) -> dict[str, Difference]:
    """The listed difference of each input that has one; AssertionError if a pattern is idle or one is listed twice."""
    names, found = list(names), {}
    for difference in comparison.differences:
        for pattern in difference.inputs.split():
            matching = fnmatch.filter(names, pattern)
            assert matching, f"{comparison.library} {comparison.function}: no input is called {pattern}"
            for name in matching:
                assert name not in found, f"{comparison.library} {comparison.function}: {name} is listed twice"
                found[name] = difference
    return found


def flower_tests() -> set[str]:
    """The names of the tests against Flower's strategies."""
    tree = ast.parse((HERE / "test_flwr.py").read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def _lines(comparison: Comparison) -> list[str]:
    versioned = f"{comparison.library} `{comparison.call}`"
    ours = f"`{comparison.rule}`" + (f", {comparison.options}" if comparison.options else "")
    if not comparison.registered:
        return [f"| {ours} | {versioned} | waits: fedpoison has no `{comparison.rule}` yet | | |"]
    found = outcomes(comparison)
    agree = f"the same on {sum(found.values())} of {len(found)} inputs"
    lines = [f"| {ours} | {versioned} | {agree} | | |"]
    for difference in comparison.differences:
        shown_by = ", ".join(f"`{pattern}`" for pattern in difference.inputs.split())
        lines.append(f"| | | {difference.why} | {shown_by} | {difference.paper} |")
    return lines


def readme(comparisons: list[Comparison], findings: list[Finding], flower: list[tuple[str, ...]], intro: str) -> str:
    """The text of README.md."""
    head = ["| ours | theirs | what comes out | shown by | who follows the paper |", "|---|---|---|---|---|"]
    rows = [line for comparison in comparisons for line in _lines(comparison)]
    further = [f"| | {f.library} `{f.call}` | {f.what} | {f.shown_by} | {f.paper} |" for f in findings]
    flwr = [f"| `{rule}` | flwr `{call}` | {what} | `{test}` | {paper} |" for rule, call, what, test, paper in flower]
    versions = ", ".join(f"{name} {library(name).version}" for name in ("byzfl", "krum", "byzpy"))
    return "\n".join(
        [
            intro.format(versions=versions, n=len(inputs())),
            *(head + rows),
            "\n## What else their results show\n",
            *(head + further),
            "\n## Flower's strategies\n\nThe tests named here are in `test_flwr.py`; they call flwr itself.\n",
            *(head + flwr),
            "",
        ]
    )
