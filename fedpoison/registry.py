"""Every algorithm by name, and the contract that its signature makes.

An algorithm is a plain function with a decorator. A parameter without a default is supplied by the round
and must be a word of its kind's vocabulary; one with a default is an option of the TOML, typed by its
annotation. The decorated function stays itself. Both rules are checked when the file is imported.
"""

import difflib
import inspect
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from fedpoison.types import Chosen, Noisy
from fedpoison.vocabulary import CLAIMS, GOALS, REFERENCES, SAMPLES, VOCABULARY, WITHSTANDS

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry:
    """One registered algorithm: the function, what it asks the round for, and what it says of itself."""

    kind: str
    name: str
    function: Callable[..., Any]
    asks: tuple[str, ...]
    options: Mapping[str, inspect.Parameter]
    summary: str
    traits: Mapping[str, Any] = field(default_factory=dict)
    file_hash: str | None = None

    def __getattr__(self, trait: str) -> Any:
        if trait not in _TRAITS:
            raise AttributeError(trait)
        return self.traits.get(trait)

    def validate(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All options with their defaults filled in; ValueError names every unknown or ill-typed one."""
        problems = [
            f"{self.name} has no option {name!r}; {among(name, self.options, 'options')}"
            for name in given
            if name not in self.options
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
        return values

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
        return {
            "name": self.name,
            "summary": self.summary,
            "asks": list(self.asks),
            "options": {name: _jsonable(p.default) for name, p in self.options.items()},
            **{key: value for key, value in self.traits.items() if isinstance(value, str | bool | tuple | None)},
            **({"goal": goal_of((self, self.validate({})))} if self.goal else {}),
        }


def _choose(n: int, k: int) -> int:
    return math.comb(n, k) if 0 <= k <= n else 0


_NAMES: dict[str, Any] = {"__builtins__": {}, "comb": _choose}
"""What a bound may name besides n, f and options: comb(n, k) is n choose k."""
_NOT_BY_BLOCKS = {"state", "rng", "previous", "params", "root_update", "layers", "base", "probe"}
_TRAITS = {"paper", "source", "evidence", "needs", "coordinatewise", "decides", "references", "claims", "returns"}
_TRAITS |= {
    "recipe",
    "rows",
    "keeps_clients",
    "goal",
    "samples",
    "aim",
    "check",
    "licence",
    "places",
    "contents",
    "base_rows",
}
_TRAITS |= {"kappa", "kappa_source"}
_TRAITS |= {"withstands"}

Step = tuple[Entry, Mapping[str, Any]]
"""An entry and its validated options."""


def goal_of(step: Step) -> str:
    """What an attack on data with these options is after, one of vocabulary.GOALS."""
    entry, options = step
    goal: str = entry.goal if isinstance(entry.goal, str) else entry.goal(**options)
    return goal


ENTRIES: dict[str, dict[str, Entry]] = {kind: {} for kind in VOCABULARY}
LEFT_OUT: dict[str, dict[str, str]] = {kind: {} for kind in VOCABULARY}
"""What the field has and the package has not, by kind and name, with what is missing."""


def register(kind: str, function: F, **traits: Any) -> F:
    """Check a function's signature against its kind's vocabulary and enter it.

    A function of this package is found by its name; any other is found where it was defined
    (`file.py:name` or `package.module:name`), so it cannot shadow ours.
    """
    name = getattr(function, "__name__", str(function))
    parameters = inspect.signature(function, eval_str=True).parameters
    asks = tuple(p.name for p in parameters.values() if p.default is p.empty)
    unknown = [word for word in asks if word not in VOCABULARY[kind]]
    if unknown:
        raise TypeError(
            f"{kind} {name}: nothing supplies {', '.join(unknown)} (a parameter without a default); "
            f"{'an' if kind[0] in 'aeiou' else 'a'} {kind} may ask for {', '.join(VOCABULARY[kind]) or 'nothing'}"
        )
    options = {p.name: p for p in parameters.values() if p.default is not p.empty}
    untyped = [p.name for p in options.values() if p.annotation is p.empty]
    if untyped:
        raise TypeError(f"{kind} {name}: the options {', '.join(untyped)} need a type annotation")
    doc = inspect.getdoc(function) or ("" if kind == "model" else None)
    if doc is None:
        raise TypeError(f"{kind} {name} needs a docstring: its first line is shown in lists")
    known = ("n", "f", "comb", *options)
    _check_bounds(name, "needs", "condition", traits.get("needs"), known)
    _check_bounds(name, "kappa", "bound", traits.get("kappa"), (*known, "kappa") if kind == "preaggregator" else known)
    if kind == "aggregator":
        traits["returns"] = _result_of(name, function)
        if traits.get("coordinatewise") and (traits["returns"] != "update" or _NOT_BY_BLOCKS & set(asks)):
            raise TypeError(
                f"aggregator {name}: a coordinate-wise rule returns an Update and asks for none of "
                f"{', '.join(sorted(_NOT_BY_BLOCKS))}: it is shown blocks of columns, in any order"
            )
    entry = Entry(kind, name, function, asks, options, (doc or name).splitlines()[0], traits)
    function.entry = entry  # type: ignore[attr-defined]
    if function.__module__.startswith("fedpoison."):
        if name in ENTRIES[kind]:
            raise TypeError(f"two {kind}s are called {name}")
        ENTRIES[kind][name] = entry
    return function


def _check_bounds(name: str, trait: str, noun: str, given: str | None, known: tuple[str, ...]) -> None:
    for bound in (given or "").split("; "):
        try:
            unknown = set(compile(bound or "True", f"<{trait}>", "eval").co_names).difference(known)
        except SyntaxError as error:
            raise TypeError(f"{name}: {trait} = {bound!r} is no {noun}: {error.msg}") from error
        if unknown:
            raise TypeError(f"{name}: {trait} = {bound!r} speaks of {', '.join(unknown)}; known are {', '.join(known)}")


def _result_of(name: str, rule: Callable[..., Any]) -> str:
    annotation = inspect.signature(rule, eval_str=True).return_annotation
    first = getattr(annotation, "__args__", (annotation,))[0]  # tuple[Weights, State] has memory
    shapes = {"r": "weights", "d": "update"}
    result = {Noisy: "weights", Chosen: "update"}.get(first) or shapes.get(str(getattr(first, "dim_str", "")).strip())
    if result is None:
        raise TypeError(
            f"aggregator {name} must say by its return annotation that it returns Weights, Noisy, Update or Chosen"
        )
    return result


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


def among(name: str, known: Mapping[str, Any], noun: str) -> str:
    """What there is instead of an unknown name, for an error's sentence."""
    close = difflib.get_close_matches(name, known, n=1)
    listed = f"the {noun} are {', '.join(sorted(known))}" if known else f"it has no {noun}"
    return f"did you mean {close[0]!r}? {listed}" if close else listed


def _jsonable(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _decorator(kind: str, traits: dict[str, Any]) -> Callable[[F], F]:
    return lambda function: register(kind, function, **traits)


def leave_out(kind: str, **names: str) -> None:
    """Say of algorithms by what name the field has them and what is missing here, a sentence each."""
    LEFT_OUT[kind] |= names


def aggregator(
    *,
    paper: str = "",
    source: str = "",
    evidence: str = "",
    needs: str | None = None,
    coordinatewise: bool = False,
    decides: bool = False,
    references: tuple[str, ...] = (),
    base_rows: Callable[..., int] | None = None,
    claims: tuple[str, ...] = ("permutation", "unanimity"),
    kappa: str | None = None,
    kappa_source: str = "",
    withstands: str = "huge rows",
) -> Callable[[F], F]:
    """Enter an aggregation rule.

    A rule returns `Weights` (one a row of its Gram or distance matrix, or one a client) or an `Update` [d]; `Noisy`
    weights have noise added to what they give, a `Chosen` update says whom it is made of.
    `needs`: the condition on n, f and options, such as "n > 2*f + 2"; several are parted by "; ".
    `coordinatewise`: the rule may be shown any block of columns. `decides`: a client with weight 0 counts as flagged.
    `references`: rows that follow the clients' in `gram` and `squared_distances`, of "origin", "previous",
    "root_update" and "zero_model" (minus the parameters). `base_rows(n, f, **options)`: the fewest rows with f
    malicious ones that a rule which asks for `base` gives it, if not n.
    `kappa`: the κ at which it is (f, κ)-robust wherever n > 2f and its needs hold, of n, f and options, such as
    "f/(n - 2*f)"; `kappa_source`: who says so.
    `claims`: what `fedpoison check` holds it to, of permutation, unanimity, translation, scale, rotation.
    `withstands`: what f clients may send without carrying the aggregate away: "huge rows", "huge rows in one
    direction" or "nothing".
    """
    _known("references", references, REFERENCES)
    _known("claims", claims, CLAIMS)
    _known("withstands", (withstands,), WITHSTANDS)
    return _decorator(
        "aggregator",
        {
            "paper": paper,
            "source": source,
            "evidence": evidence,
            "needs": needs,
            "coordinatewise": coordinatewise,
            "decides": decides,
            "references": references,
            "base_rows": base_rows,
            "claims": claims,
            "kappa": kappa,
            "kappa_source": kappa_source,
            "withstands": withstands,
        },
    )


def preaggregator(
    *,
    paper: str = "",
    source: str = "",
    evidence: str = "",
    needs: str | None = None,
    rows: Callable[..., int] | None = None,
    keeps_clients: bool = False,
    references: tuple[str, ...] = (),
    kappa: str | None = None,
    kappa_source: str = "",
) -> Callable[[F], F]:
    """Enter a step before the rule: it returns a `Mixing` [m, n].

    `rows(n, **options)` says how many rows come out, if not n. `keeps_clients`: row i is made of client i alone.
    `references`: ("origin",) if rows of the mixing do not sum to 1.
    `kappa`: the κ of the step and what follows it, of n, f, options and `kappa`, that of what follows.
    """
    _known("references", references, REFERENCES)
    traits: dict[str, Any] = {"paper": paper, "source": source, "evidence": evidence, "needs": needs}
    traits |= {"rows": rows, "keeps_clients": keeps_clients, "references": references}
    traits |= {"kappa": kappa, "kappa_source": kappa_source}
    return _decorator("preaggregator", traits)


def update_attack(*, paper: str = "", source: str = "", evidence: str = "") -> Callable[[F], F]:
    """Enter an attack on the updates: it returns `Crafted` [n_malicious, d]. Its signature is its threat model."""
    return _decorator("update_attack", {"paper": paper, "source": source, "evidence": evidence})


def data_attack(
    *,
    aim: Callable[..., Any],
    goal: str | Callable[..., str],
    paper: str = "",
    source: str = "",
    evidence: str = "",
    samples: tuple[str, ...] = SAMPLES,
    check: Callable[..., list[str]] | None = None,
) -> Callable[[F], F]:
    """Enter an attack on a shard: it returns (images, labels).

    `goal`: "availability", "targeted", "source_to_target" or "backdoor", or a function of the options that says which.
    `aim(images, labels, n_classes, **options)` says what the attacker wants of test samples: (images as they are
    presented, the wanted label or −1 where nothing is wanted).
    `samples`: the kinds it is for, of "pictures", "rows" and "tokens".
    `check(n_classes, **options)` lists what is wrong with the options for that many classes.
    """
    if isinstance(goal, str):
        _known("goal", (goal,), GOALS)
    _known("samples", samples, SAMPLES)
    traits = {
        "paper": paper,
        "source": source,
        "evidence": evidence,
        "goal": goal,
        "samples": samples,
        "aim": aim,
        "check": check,
    }
    return _decorator("data_attack", traits)


def dataset(
    *, licence: str, places: tuple[str, ...] = (), contents: tuple[str, ...] = (), recipe: Any = None
) -> Callable[[F], F]:
    """Enter a data set: a function of its options alone that returns a `Dataset`.

    `places`: options that say where the files lie and cannot change a sample, because checksums are checked.
    `contents`: options that name a file or folder of the user's; what it holds, not its name, tells runs apart.
    `recipe`: how it is fetched (a `fedpoison.data.store.Recipe`), if it has to be.
    """
    return _decorator("dataset", {"licence": licence, "places": places, "contents": contents, "recipe": recipe})


def partition(*, paper: str = "") -> Callable[[F], F]:
    """Enter a way to split samples over clients: it returns one index array a client."""
    return _decorator("partition", {"paper": paper})


def model() -> Callable[[F], F]:
    """Enter a net: it returns an `nn.Module`."""
    return _decorator("model", {})


def engine() -> Callable[[F], F]:
    """Enter an engine: it returns an object with `train(params, plan) -> Trained`."""
    return _decorator("engine", {})


def _known(trait: str, given: tuple[str, ...], known: tuple[str, ...]) -> None:
    unknown = [word for word in given if word not in known]
    if unknown:
        raise TypeError(f"unknown {trait} {unknown}; there are {', '.join(known)}")
