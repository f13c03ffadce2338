"""One registered algorithm: the function, what it asks the round for, its options, and what it says of itself."""

import inspect
import json
import math
import operator
import re
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor

from fedpoison.common.errors import AlgorithmError
from fedpoison.common.seeding import Stream, drawing_from, settings_kept
from fedpoison.common.spelling import among
from fedpoison.contract.vocabulary import GOALS
from fedpoison.contract.words import WORDS
from fedpoison.types import LARGEST


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
    scores: Callable[..., Tensor] | None = None
    returns: str = ""
    references: tuple[str, ...] = ()
    base_rows: Callable[..., int] | None = None
    rows: Callable[..., int] | None = None
    keeps_clients: bool = False
    goal: str | Callable[..., str] = ""
    aim: Callable[..., Any] | None = None
    samples: tuple[str, ...] = ()
    check: Callable[..., list[str]] | None = None
    plants: bool = False
    harmless: Callable[..., str | None] | None = None
    places: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()
    recipe: Any = None
    bits_of: str = ""
    bits: Callable[..., list[Any]] | None = None
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
            f"{self.name}.f = {f!r}: a whole number from 0 to {_MOST} is needed"
            for f in own.values()
            if type(f) is not int or not 0 <= f <= _MOST
        ]
        values: dict[str, Any] = {}
        for name, parameter in self.options.items():
            value = given.get(name, parameter.default)
            try:
                values[name] = _checked(parameter.annotation, value)
                if self.ours:
                    _bounded(value)
            except ValueError as error:
                messages = [e["msg"] for e in error.errors()] if isinstance(error, ValidationError) else [str(error)]
                expected = "; or ".join(dict.fromkeys(messages))
                problems.append(f"{self.name}.{name} = {value!r}: {expected}")
        if problems:
            raise ValueError("; ".join(problems))
        return values | own

    def call(self, supply: Mapping[str, Any], options: Mapping[str, Any], stream: Stream | None = None) -> Any:
        """Call the function with what it asks for out of `supply`, and the options; a user's may draw from `stream`.

        A user's gets copies of what it is lent: what it writes through NumPy is not seen. AlgorithmError if it writes
        otherwise, unless to a block of columns, or fails.
        """
        given = {word: supply[word] for word in self.asks}
        words = WORDS[self.kind]
        lent = {word: value for word, value in given.items() if words[word].lent and isinstance(value, Tensor)}
        if not self.ours:
            lent = {word: value.clone() for word, value in lent.items()}
        before = [value._version for value in lent.values()]
        with self.drawing(stream):
            result = self.guarded(self.function, **{**given, **lent}, **options)
        if [value._version for value in lent.values()] != before and not self.coordinatewise:
            raise self.fault("changed in place what it was shown")
        return result

    def drawing(self, stream: Stream | None) -> AbstractContextManager[None]:
        """What a user's function is called in: the global generators, which it may draw from, begin at the stream."""
        return nullcontext() if self.ours or stream is None else drawing_from(stream)

    def tell(self, trait: str, /, *known: Any, **options: Any) -> Any:
        """What its function, or a trait that is one, makes of these; AlgorithmError if a user's fails."""
        return self.guarded(getattr(self, trait), *known, **options)

    def count(self, trait: str, /, *known: Any, **options: Any) -> int:
        """The same of a trait that says how many rows there are."""
        rows = self.tell(trait, *known, **options)
        try:
            return operator.index(rows)
        except TypeError as error:
            raise self.fault(f"must say by {trait} how many rows there are, a whole number and not {rows!r}") from error

    def fault(self, what: str, error: BaseException | None = None) -> AlgorithmError:
        """An error that says what it did wrong, behind its file and line where it is a user's."""
        place = "" if self.ours else f"{place_of(self.function, error)}: "
        return AlgorithmError(f"{place}{self.name} {what}", type(error).__name__ if error else "result")

    def _value(self, bound: str, names: Mapping[str, Any]) -> Any:
        try:
            return eval(bound, _NAMES, dict(names))
        except Exception as error:
            raise self.fault(f"says {bound!r}, which fails with {in_words(error)}", error) from error

    def guarded(self, function: Callable[..., Any], /, *known: Any, **named: Any) -> Any:
        """Call a function of its file's; AlgorithmError if a user's fails, and no setting of torch's outlives it."""
        try:
            with settings_kept():
                return function(*known, **named)
        except (AlgorithmError, KeyboardInterrupt):  # another algorithm's, called from inside this one; or the user's
            raise
        except BaseException as error:  # sys.exit among them
            if self.ours:
                raise
            raise self.fault(f"fails with {in_words(error)}", error) from error

    def requirement(self, n: int, f: int, options: Mapping[str, Any]) -> str | None:
        """None if n rows with f malicious ones can be taken, else the sentence that says why not."""
        for bound in (self.needs or "").split("; "):
            if bound and not self._value(bound, {**options, "n": n, "f": f}):
                named = {"n": n, "f": f, **{k: v for k, v in options.items() if k in re.findall(r"\w+", bound)}}
                return f"{self.name} needs {bound}: {', '.join(f'{k} = {v}' for k, v in named.items())}"
        return None

    def without_effect(self, n: int, n_malicious: int, benign: int, options: Mapping[str, Any]) -> str | None:
        """None unless the attack says that with these numbers it sends the honest mean; else its sentence."""
        why = self.tell("harmless", n, n_malicious, benign, **options) if self.harmless else None
        return None if why is None else f"{self.name}: {why}"

    def robustness(self, n: int, f: int, options: Mapping[str, Any], kappa: float | None = None) -> float | None:
        """The κ at which it is known to be (f, κ)-robust for n rows, or None; `kappa`: that of what follows a step.

        Allouah et al. 2023: ‖F(x) − x̄_S‖² ≤ κ/|S| · Σ_{i∈S} ‖x_i − x̄_S‖² for every set S of n − f rows.
        """
        if self.kappa is None or not 0 <= 2 * f < n or self.requirement(n, f, options) is not None:
            return None
        value = self._value(self.kappa, {**options, "n": n, "f": f, "kappa": kappa})
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
    goal: str = entry.goal if isinstance(entry.goal, str) else entry.tell("goal", **options)
    if goal not in GOALS:
        raise entry.fault(f"says that its goal is {goal!r}; there are {', '.join(GOALS)}")
    return goal


def place_of(function: Callable[..., Any], error: BaseException | None = None) -> str:
    """The file and line where an error left a function's own file, or where the function begins."""
    function = inspect.unwrap(function)
    steps = [] if error is None else traceback.walk_tb(error.__traceback__)
    own = [(f.f_code.co_filename, line) for f, line in steps if f.f_globals.get("__name__") == function.__module__]
    if not own and not hasattr(function, "__code__"):
        return function.__module__
    return shortest(*own[-1]) if own else shortest(function.__code__.co_filename, function.__code__.co_firstlineno)


def shortest(file: str, line: int) -> str:
    """A file and a line in it, seen from the working directory."""
    path = Path(file)
    return f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}:{line}"


def in_words(error: BaseException) -> str:
    """An error's type and message in one line."""
    try:
        message = " ".join(str(error).split())
    except Exception:  # a user's class may be broken in this too
        message = ""
    return ": ".join(filter(None, (type(error).__name__, message)))


def line_in(file: str, error: BaseException) -> str:
    """Where an error left a file that was being imported, to be put behind its words."""
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == file]
    return f" (line {lines[-1]})" if lines else ""


def _checked(annotation: Any, value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
        raise ValueError("a number is needed")
    adapter: Any = TypeAdapter(annotation, config=ConfigDict(strict=True))
    if isinstance(value, list | tuple):  # TOML has lists only; read as JSON, a list may be a tuple
        return adapter.validate_json(json.dumps(value, default=str))
    return adapter.validate_python(value)


def _bounded(value: Any) -> None:
    """ValueError for a number that no option of ours can mean."""
    if isinstance(value, list | tuple):
        for part in value:
            _bounded(part)
    elif isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise ValueError("a whole number of at most 64 bits is needed")
    elif isinstance(value, float) and abs(value) > LARGEST:
        raise ValueError(f"a number of at most {LARGEST:.0e} in size is needed")


def _jsonable(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _choose(n: int, k: int) -> int:
    """The number n choose k, or one that is less but beyond all bounds: of a million it would take minutes."""
    return math.comb(n, min(k, n - k, 64)) if 0 <= k <= n else 0


_MOST = 10_000_000
"""The largest f of a step's own."""
_NAMES: dict[str, Any] = {"__builtins__": {}, "comb": _choose}
"""What a bound may name besides n, f and options: comb(n, k) is n choose k."""
