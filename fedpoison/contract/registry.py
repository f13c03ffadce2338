"""Every algorithm by name, and the contract that its signature makes.

An algorithm is a plain function with a decorator. A parameter without a default is supplied by the round
and must be a word of its kind's vocabulary; one with a default is an option of the TOML, typed by its
annotation. The decorated function stays itself. Both rules are checked when the file is imported.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import torch

from fedpoison.contract.entry import Entry
from fedpoison.contract.traits import check_traits
from fedpoison.contract.vocabulary import CLAIMS, GOALS, REFERENCES, SAMPLES, WITHSTANDS
from fedpoison.contract.words import WORDS
from fedpoison.types import Chosen, Noisy, Planted

F = TypeVar("F", bound=Callable[..., Any])

ENTRIES: dict[str, dict[str, Entry]] = {kind: {} for kind in WORDS}
LEFT_OUT: dict[str, dict[str, str]] = {}
"""What the field has and the package has not, by kind and name, with what is missing."""


def register(kind: str, function: F, **traits: Any) -> F:
    """Check a function's signature against its kind's vocabulary and enter it.

    A function of this package is found by its name; any other is found where it was defined
    (`file.py:name` or `package.module:name`), so it cannot shadow ours.
    """
    name = getattr(function, "__name__", type(function).__name__)
    if isinstance(function, torch.nn.Module):
        raise TypeError(f"this is a net that is built already ({name}): give a function that builds it")
    parameters = inspect.signature(function, eval_str=True).parameters
    asks = tuple(p.name for p in parameters.values() if p.default is p.empty)
    unknown = [word for word in asks if word not in WORDS[kind]]
    if unknown:
        raise TypeError(
            f"{kind} {name}: nothing supplies {', '.join(unknown)} (a parameter without a default); "
            f"{'an' if kind[0] in 'aeiou' else 'a'} {kind} may ask for {', '.join(WORDS[kind]) or 'nothing'}"
        )
    options = {p.name: p for p in parameters.values() if p.default is not p.empty}
    untyped = [p.name for p in options.values() if p.annotation is p.empty]
    if untyped:
        raise TypeError(f"{kind} {name}: the options {', '.join(untyped)} need a type annotation")
    doc = inspect.getdoc(function) or ("" if kind == "model" else None)
    if doc is None:
        raise TypeError(f"{kind} {name} needs a docstring: its first line is shown in lists")
    check_traits(kind, name, traits, tuple(options), asks)
    if kind == "aggregator":
        traits["returns"] = _result_of(name, function)
        whole = {word for word, told in WORDS[kind].items() if told.whole}
        if traits.get("coordinatewise") and (traits["returns"] != "update" or whole & set(asks)):
            raise TypeError(
                f"aggregator {name}: a coordinate-wise rule returns an Update and asks for none of "
                f"{', '.join(sorted(whole))}: it is shown blocks of columns, in any order"
            )
    if kind == "data_attack":
        traits["plants"] = inspect.signature(function, eval_str=True).return_annotation is Planted
    entry = Entry(kind, name, function, asks, options, (doc or name).splitlines()[0], tuple(traits), **traits)
    function.entry = entry  # type: ignore[attr-defined]
    if entry.ours:
        if name in ENTRIES[kind]:
            raise TypeError(f"two {kind}s are called {name}")
        ENTRIES[kind][name] = entry
    return function


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


def _with_parentheses(decorator: F) -> F:
    """A decorator that says so when it stands above a function without its parentheses."""

    @wraps(decorator)
    def made(*given: Any, **traits: Any) -> Any:
        if given and callable(given[0]):
            raise TypeError(f"@{made.__name__} needs parentheses: @{made.__name__}() above {given[0].__name__}")
        return decorator(*given, **traits)

    return cast(F, made)


def _decorator(kind: str, **traits: Any) -> Callable[[F], F]:
    return lambda function: register(kind, function, **traits)


def leave_out(kind: str, **names: str) -> None:
    """Say of algorithms by what name the field has them and what is missing here, a sentence each."""
    LEFT_OUT.setdefault(kind, {}).update(names)


@_with_parentheses
def aggregator(
    *,
    paper: str = "",
    source: str = "",
    evidence: str = "",
    needs: str | None = None,
    coordinatewise: bool = False,
    decides: bool = False,
    scores: Callable[..., torch.Tensor] | None = None,
    references: tuple[str, ...] = (),
    base_rows: Callable[..., int] | None = None,
    claims: tuple[str, ...] = ("permutation", "unanimity"),
    kappa: str | None = None,
    kappa_source: str = "",
    withstands: str = "huge rows",
    check: Callable[..., list[str]] | None = None,
) -> Callable[[F], F]:
    """Enter an aggregation rule.

    A rule returns `Weights` (one a row of its Gram or distance matrix, or one a client) or an `Update` [d]; `Noisy`
    weights have noise added to what they give, a `Chosen` update says whom it is made of.
    `needs`: the condition on n, f and options, such as "n > 2*f + 2"; several are parted by "; ".
    `coordinatewise`: the rule may be shown any block of columns (one of this package the updates themselves, not to be
    written to). `decides`: a client with weight 0 counts as flagged. `scores`: a function of some of the words that
    the rule asks for, which gives how suspect each row is [n], more being worse.
    `references`: rows that follow the clients' in `gram` and `squared_distances`, of "origin", "previous",
    "root_update" and "zero_model" (minus the parameters). `base_rows(n, f, **options)`: the fewest rows with f
    malicious ones that a rule which asks for `base` gives it, if not n.
    `kappa`: the κ at which it is (f, κ)-robust wherever n > 2f and its needs hold, of n, f and options, such as
    "f/(n - 2*f)"; `kappa_source`: who says so.
    `claims`: what `fedpoison check` holds it to, of permutation, unanimity, translation, scale, rotation.
    `withstands`: what f clients may send without carrying the aggregate away: "huge rows", "huge rows in one
    direction" or "nothing". `check(layers, **options)` lists what is wrong with a net of these layers.
    """
    _known("references", references, REFERENCES)
    _known("claims", claims, CLAIMS)
    _known("withstands", (withstands,), WITHSTANDS)
    return _decorator(
        "aggregator",
        paper=paper,
        source=source,
        evidence=evidence,
        needs=needs,
        coordinatewise=coordinatewise,
        decides=decides,
        scores=scores,
        references=references,
        base_rows=base_rows,
        claims=claims,
        kappa=kappa,
        kappa_source=kappa_source,
        withstands=withstands,
        check=check,
    )


@_with_parentheses
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
    return _decorator(
        "preaggregator",
        paper=paper,
        source=source,
        evidence=evidence,
        needs=needs,
        rows=rows,
        keeps_clients=keeps_clients,
        references=references,
        kappa=kappa,
        kappa_source=kappa_source,
    )


@_with_parentheses
def sanitizer(
    *,
    paper: str = "",
    source: str = "",
    evidence: str = "",
    check: Callable[..., list[str]] | None = None,
) -> Callable[[F], F]:
    """Enter a sanitizer: it returns a `Cleaned`, which samples of a client's are kept and how suspect each is.

    It never learns which are poisoned. Of a class of which nothing would be left the least suspect sample is kept.
    `check(**options)` lists what it lacks here, before anything runs.
    """
    return _decorator("sanitizer", paper=paper, source=source, evidence=evidence, check=check)


@_with_parentheses
def monitor(
    *,
    paper: str = "",
    source: str = "",
    evidence: str = "",
    check: Callable[..., list[str]] | None = None,
) -> Callable[[F], F]:
    """Enter a monitor: it is shown each round that was aggregated and returns an `Alarm`, or None.

    It sees what the server sees and never the truth. What is done on an alarm is the configuration's.
    `check(samples, **options)` lists what it lacks where the server has these sets of samples, of "root" and
    "validation".
    """
    return _decorator("monitor", paper=paper, source=source, evidence=evidence, check=check)


@_with_parentheses
def update_attack(
    *,
    paper: str = "",
    source: str = "",
    evidence: str = "",
    harmless: Callable[..., str | None] | None = None,
) -> Callable[[F], F]:
    """Enter an attack on the updates: it returns `Crafted` [n_malicious, d]. Its signature is its threat model.

    `harmless(n, n_malicious, benign, **options)` says why all attackers send the honest mean in a cohort of n of whom
    they know `benign` honest updates, or None if they do not: it is said before the start and with the results.
    """
    return _decorator("update_attack", paper=paper, source=source, evidence=evidence, harmless=harmless)


@_with_parentheses
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

    One that sets a trigger returns `Planted` and says so by its return annotation: with augmentation the trigger is set
    after it.
    `goal`: "availability", "targeted", "source_to_target" or "backdoor", or a function of the options that says which.
    `aim(images, labels, n_classes, **options)` says what the attacker wants of test samples: (images as they are
    presented, the wanted label or −1 where nothing is wanted).
    `samples`: the kinds it is for, of "pictures", "rows" and "tokens".
    `check(n_classes, **options)` lists what is wrong with the options for that many classes.
    """
    if isinstance(goal, str):
        _known("goal", (goal,), GOALS)
    _known("samples", samples, SAMPLES)
    return _decorator(
        "data_attack", paper=paper, source=source, evidence=evidence, goal=goal, samples=samples, aim=aim, check=check
    )


@_with_parentheses
def training_attack(*, paper: str = "", source: str = "", evidence: str = "") -> Callable[[F], F]:
    """Enter an attack on how a malicious client trains: it returns a `fedpoison.Drill`, for each of them and round.

    What the client trains on is the data attack's doing, what it sends of it the update attack's.
    """
    return _decorator("training_attack", paper=paper, source=source, evidence=evidence)


@_with_parentheses
def loss(*, paper: str = "", source: str = "", evidence: str = "") -> Callable[[F], F]:
    """Enter a loss: it returns that of each sample of a minibatch [samples], differentiable in `logits`."""
    return _decorator("loss", paper=paper, source=source, evidence=evidence)


@_with_parentheses
def dataset(
    *,
    licence: str,
    places: tuple[str, ...] = (),
    contents: tuple[str, ...] = (),
    recipe: Any = None,
    revision: int = 0,
) -> Callable[[F], F]:
    """Enter a data set: a function of its options alone that returns a `Dataset`.

    `places`: options that say where the files lie and cannot change a sample, because checksums are checked.
    `contents`: options that name a file or folder of the user's; what it holds, not its name, tells runs apart.
    `recipe`: how it is fetched (a `fedpoison.data.store.Recipe`), if it has to be.
    `revision`: how often what it makes of the same options was changed; runs are told apart by it.
    """
    return _decorator("dataset", licence=licence, places=places, contents=contents, recipe=recipe, revision=revision)


@_with_parentheses
def partition(*, paper: str = "", revision: int = 0) -> Callable[[F], F]:
    """Enter a way to split samples over clients: it returns one index array a client.

    `revision`: how often what it makes of the same samples was changed; runs are told apart by it.
    """
    return _decorator("partition", paper=paper, revision=revision)


@_with_parentheses
def model() -> Callable[[F], F]:
    """Enter a net: it returns an `nn.Module`."""
    return _decorator("model")


@_with_parentheses
def engine(*, bits_of: str = "", bits: Callable[..., list[Any]] | None = None) -> Callable[[F], F]:
    """Enter an engine: it returns an object with `train(params, plan) -> Trained`.

    `bits_of`: the engine that it carries elsewhere, whose bits it has. `bits(**options)`: what of its options changes
    bits, a list; runs are told apart by that alone.
    """
    return _decorator("engine", bits_of=bits_of, bits=bits)


def _known(trait: str, given: tuple[str, ...], known: tuple[str, ...]) -> None:
    unknown = [word for word in given if word not in known]
    if unknown:
        raise TypeError(f"unknown {trait} {unknown}; there are {', '.join(known)}")
