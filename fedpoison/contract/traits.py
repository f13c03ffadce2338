"""What an algorithm says of itself, checked when it is registered."""

import inspect
from collections.abc import Mapping
from typing import Any

_SHOWN: dict[str, dict[str, tuple[str, ...]]] = {
    "aggregator": {"base_rows": ("n", "f"), "check": ("layers",)},
    "preaggregator": {"rows": ("n",)},
    "update_attack": {"harmless": ("n", "n_malicious", "benign")},
    "engine": {"bits": ()},
    "sanitizer": {"check": ()},
    "monitor": {"check": ("samples",)},
    "data_attack": {"goal": (), "aim": ("images", "labels", "n_classes"), "check": ("n_classes",)},
}
"""What traits that are functions are called with, besides all options by name."""


def check_traits(
    kind: str, name: str, traits: Mapping[str, Any], options: tuple[str, ...], asks: tuple[str, ...]
) -> None:
    """TypeError for a bound that cannot be read and a function that does not take what it is called with."""
    known = ("n", "f", "comb", *options)
    _check_bounds(name, "needs", "condition", traits.get("needs"), known)
    _check_bounds(name, "kappa", "bound", traits.get("kappa"), (*known, "kappa") if kind == "preaggregator" else known)
    if (scores := traits.get("scores")) is not None:
        unknown = [word for word in inspect.signature(scores).parameters if word not in asks]
        if unknown:
            raise TypeError(f"{name}: scores asks for {', '.join(unknown)}, which the rule does not")
    for trait, shown in _SHOWN.get(kind, {}).items():
        if (given := traits.get(trait)) is not None and not isinstance(given, str):
            _check_function(name, trait, given, shown, options)


def _check_bounds(name: str, trait: str, noun: str, given: str | None, known: tuple[str, ...]) -> None:
    for bound in (given or "").split("; "):
        try:
            unknown = set(compile(bound or "True", f"<{trait}>", "eval").co_names).difference(known)
        except SyntaxError as error:
            raise TypeError(f"{name}: {trait} = {bound!r} is no {noun}: {error.msg}") from error
        if unknown:
            raise TypeError(f"{name}: {trait} = {bound!r} speaks of {', '.join(unknown)}; known are {', '.join(known)}")


def _check_function(name: str, trait: str, given: Any, shown: tuple[str, ...], options: tuple[str, ...]) -> None:
    called = ", ".join((*shown, *(f"{option}=…" for option in options)))
    try:
        inspect.signature(given).bind(*shown, **dict.fromkeys(options))
    except TypeError as error:
        raise TypeError(f"{name}: {trait} must be a function that is called as {trait}({called}): {error}") from error
    except ValueError:  # some functions written in C do not tell what they take
        return
