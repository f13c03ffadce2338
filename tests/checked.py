"""What jaxtyping's import hook puts above every function of the package: the same checks in a third of the time."""

import dataclasses
import inspect
from collections import Counter
from collections.abc import Callable
from typing import Any, ForwardRef, get_args

import jaxtyping
from beartype import beartype
from jaxtyping import AbstractArray

_jaxtyped = jaxtyping.jaxtyped
_signatures: dict[tuple[Any, ...], Callable[..., Any]] = {}
_made: Counter[Any] = Counter()
often = True
"""Whether a function inside another is checked each time it is made, and not only the first hundred times."""


def install() -> None:
    """Check every annotation in what is imported of the package from now on; the hook looks this name up."""
    jaxtyping.jaxtyped = lambda typechecker: _checked
    jaxtyping.install_import_hook("fedpoison", "beartype.beartype")


def _checked(decorated: Any) -> Any:
    """Types are checked once a call, and shapes are remembered where there are any; jaxtyping does the rest itself."""
    if inspect.isclass(decorated):
        if dataclasses.is_dataclass(decorated) and "__init__" in vars(decorated):
            decorated.__init__ = _checked(decorated.__init__)
        return decorated
    if "<locals>" in decorated.__qualname__ and not often:
        _made[decorated.__code__] += 1
        if _made[decorated.__code__] > 100:
            return decorated
    annotations = decorated.__annotations__.values()
    left = (
        "<locals>" in decorated.__qualname__,  # made anew in each call
        inspect.isgeneratorfunction(decorated),
        any(_within(annotation, _is_name) for annotation in annotations),  # may be known to type checkers only
        "warn" in decorated.__code__.co_names,  # beartype's frame would make the package the one that is warned
    )
    if any(left):
        return _jaxtyped(decorated, typechecker=_made_once)
    checked = beartype(decorated)
    shapes = any(_within(annotation, _is_shape) for annotation in annotations)
    return _jaxtyped(checked, typechecker=None) if shapes else checked


def _made_once(signature: Callable[..., Any]) -> Callable[..., Any]:
    """A function inside another is made anew in each call, the check of its signature is not.

    jaxtyping hands over an empty function with the signature of the one that is to be checked.
    """
    annotations = tuple(signature.__annotations__.items())
    key = (signature.__module__, signature.__qualname__, signature.__code__, annotations)
    if key not in _signatures:
        _signatures[key] = beartype(signature)
    return _signatures[key]


def _within(annotation: Any, asked: Callable[[Any], bool]) -> bool:
    return asked(annotation) or any(_within(part, asked) for part in get_args(annotation))


def _is_name(annotation: Any) -> bool:
    return isinstance(annotation, str | ForwardRef)


def _is_shape(annotation: Any) -> bool:
    return inspect.isclass(annotation) and issubclass(annotation, AbstractArray)
