"""One registered algorithm: the function, what it asks the round for, its options, and what it says of itself."""

import inspect
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from fedpoison.spelling import among


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What an algorithm may say of itself; each kind's decorator in registry.py says which of them mean what."""

    paper: str = ""
    source: str = ""
    evidence: str = ""
    licence: str = ""
    needs: str | None = None
    kappa: str | None = None
    kappa_source: str = ""
    claims: tuple[str, ...] = ()
    withstands: str = ""
    coordinatewise: bool = False
    decides: bool = False
    returns: str = ""
    references: tuple[str, ...] = ()
    base_rows: Callable[..., int] | None = None
    rows: Callable[..., int] | None = None
    keeps_clients: bool = False
    goal: str | Callable[..., str] = ""
    aim: Callable[..., Any] | None = None
    samples: tuple[str, ...] = ()
    check: Callable[..., list[str]] | None = None
    places: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()
    recipe: Any = None
    revision: int = 0


@dataclass(frozen=True)
class Entry(Traits):
    """One registered algorithm; `told`: the traits that its kind has."""

    kind: str
    name: str
    function: Callable[..., Any]
    asks: tuple[str, ...]
    options: Mapping[str, inspect.Parameter]
    summary: str
    told: tuple[str, ...] = ()
    file_hash: str | None = None

    @property
    def ours(self) -> bool:
        """Whether it is this package's own, and not a user's."""
        return self.function.__module__.startswith("fedpoison.")

    def validate(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All options with their defaults filled in; ValueError names every unknown or ill-typed one.

        Whatever asks for f can be given one of its own, as if it were an option.
        """
        own = {name: value for name, value in given.items() if name == "f" and name in self.asks}
        problems = [
            f"{self.name} has no option {name!r}; {among(name, self.options, 'options')}"
            for name in given
            if name not in self.options and name not in own
        ]
        problems += [
            f"{self.name}.f = {f!r}: a whole number of at least 0 is needed"
            for f in own.values()
            if type(f) is not int or f < 0
        ]
        values: dict[str, Any] = {}
        for name, parameter in self.options.items():
            value = given.get(name, parameter.default)
            try:
                values[name] = _checked(parameter.annotation, value)
            except ValueError as error:
                messages = [e["msg"] for e in error.errors()] if isinstance(error, ValidationError) else [str(error)]
                expected = "; or ".join(dict.fromkeys(messages))
                problems.append(f"{self.name}.{name} = {value!r}: {expected}")
        if problems:
            raise ValueError("; ".join(problems))
        return values | own

    def call(self, supply: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
        """Call the function with what it asks for out of `supply`, and the options."""
        return self.function(**{name: supply[name] for name in self.asks}, **options)

    def requirement(self, n: int, f: int, options: Mapping[str, Any]) -> str | None:
        """None if n rows with f malicious ones can be taken, else the sentence that says why not."""
        for bound in (self.needs or "").split("; "):
            if bound and not eval(bound, _NAMES, {**options, "n": n, "f": f}):
                named = {"n": n, "f": f, **{k: v for k, v in options.items() if k in re.findall(r"\w+", bound)}}
                return f"{self.name} needs {bound}: {', '.join(f'{k} = {v}' for k, v in named.items())}"
        return None

    def robustness(self, n: int, f: int, options: Mapping[str, Any], kappa: float | None = None) -> float | None:
        """The κ at which it is known to be (f, κ)-robust for n rows, or None; `kappa`: that of what follows a step.

        Allouah et al. 2023: ‖F(x) − x̄_S‖² ≤ κ/|S| · Σ_{i∈S} ‖x_i − x̄_S‖² for every set S of n − f rows.
        """
        if self.kappa is None or not 0 <= 2 * f < n or self.requirement(n, f, options) is not None:
            return None
        value = eval(self.kappa, _NAMES, {**options, "n": n, "f": f, "kappa": kappa})
        return None if value is None else float(value)

    def describe(self) -> dict[str, Any]:
        """A JSON-able description, as `fedpoison list KIND --json` prints it."""
        told = {trait: getattr(self, trait) for trait in self.told}
        return {
            "name": self.name,
            "summary": self.summary,
            "asks": list(self.asks),
            "options": {name: _jsonable(p.default) for name, p in self.options.items()},
            **{trait: value for trait, value in told.items() if isinstance(value, str | bool | tuple | None)},
            **({"goal": goal_of((self, self.validate({})))} if self.goal else {}),
        }


Step = tuple[Entry, Mapping[str, Any]]
"""An entry and its validated options, an f of its own among them."""


def own_f(step: Step) -> int | None:
    """The f that was given to a step alone."""
    entry, options = step
    return options.get("f") if "f" in entry.asks else None


def told(step: Step, f: int) -> tuple[Entry, Mapping[str, Any], int]:
    """A step's entry, the options of its function, and the f that it is told: its own, or else this one."""
    (entry, options), own = step, own_f(step)
    if own is None:
        return entry, options, f
    return entry, {name: value for name, value in options.items() if name != "f"}, own


def goal_of(step: Step) -> str:
    """What an attack on data with these options is after, one of vocabulary.GOALS."""
    entry, options = step
    goal: str = entry.goal if isinstance(entry.goal, str) else entry.goal(**options)
    return goal


def unpack(entry: Entry, result: Any) -> tuple[Any, dict[str, Any]]:
    """The result and the memory that a function with `state` returned; ValueError if it returned something else."""
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict):
        return result
    raise ValueError(f"{entry.name} asks for state and must return (result, state), not {type(result).__name__}")


def _checked(annotation: Any, value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
        raise ValueError("a number is needed")
    adapter: Any = TypeAdapter(annotation, config=ConfigDict(strict=True))
    if isinstance(value, list | tuple):  # TOML has lists only; read as JSON, a list may be a tuple
        return adapter.validate_json(json.dumps(value, default=str))
    return adapter.validate_python(value)


def _jsonable(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _choose(n: int, k: int) -> int:
    return math.comb(n, k) if 0 <= k <= n else 0


_NAMES: dict[str, Any] = {"__builtins__": {}, "comb": _choose}
"""What a bound may name besides n, f and options: comb(n, k) is n choose k."""
