"""Finding an algorithm by its name: one of ours, or a function in somebody's file or module."""

import hashlib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from fedpoison.common.spelling import among
from fedpoison.contract import notebook, usercode
from fedpoison.contract.entry import Entry, in_words, line_in, place_of
from fedpoison.contract.registry import ENTRIES, LEFT_OUT, register
from fedpoison.contract.usercode import UserCode


def entries(kind: str) -> dict[str, Entry]:
    """Every algorithm of a kind that the package has, by name."""
    _load_rooms()
    return ENTRIES[kind]


def left_out(kind: str) -> dict[str, str]:
    """What the field has of a kind and the package has not, by name, with what is missing."""
    _load_rooms()
    return LEFT_OUT.get(kind, {})


def find(kind: str, name: str | Callable[..., Any], folder: Path | None = None) -> Entry:
    """The entry called `name`: one of ours, `file.py:function` (relative to `folder`) or `module:function`.

    A decorated function stands for itself. ValueError lists the choices for an unknown name.
    """
    if not isinstance(name, str):
        entry = getattr(name, "entry", None)
        if not isinstance(entry, Entry) or entry.kind != kind:
            raise ValueError(_undecorated(kind, name))
        return entry
    if ":" in name:
        return _find_outside(kind, name, folder or Path())
    known = entries(kind)
    if name not in known:
        raise ValueError(f"there is no {kind} {name!r}; {among(name, known, f'{kind}s')}")
    return known[name]


def name_of(kind: str, function: Callable[..., Any]) -> str:
    """The name by which `find` finds a function (or a net's class) that is given itself.

    What a module holds is found by the module, and loaded from its file. ValueError if it cannot be told by its source.
    """
    if kind == "model" and "entry" not in getattr(function, "__dict__", {}):
        try:
            register("model", function)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{function!r} is no model: {error}") from error
    entry = find(kind, function)
    if entry.ours:
        return entry.name
    home, name = function.__module__, function.__qualname__
    for code in usercode.of([function]):
        if getattr(code.module, name, None) is function:
            return f"{code.place}:{name}"
    if home != "__main__" and getattr(sys.modules.get(home), name, None) is function:
        return f"{home}:{name}"
    traits = {trait: getattr(entry, trait) for trait in entry.told}
    GIVEN[kind, f"{home}:{name}"] = replace(entry, file_hash=notebook.digest(function, traits))
    return f"{home}:{name}"


GIVEN: dict[tuple[str, str], Entry] = {}
"""The functions that were given themselves and that no module holds, by kind and name: only this process has them."""


def _find_outside(kind: str, name: str, folder: Path) -> Entry:
    if (kind, name) in GIVEN:
        return GIVEN[kind, name]
    place, _, attribute = name.rpartition(":")
    if place == "__main__":
        raise ValueError(f"{kind} {name!r} was given as a function in another process: put it in a file and name that")
    code: UserCode | None
    if place.endswith(".py"):
        path = (folder / place).resolve()
        if not os.path.isfile(path):
            raise ValueError(f"{kind} {name!r}: there is no file {path}")
        code = _load(path)
        module = code.module
    else:
        try:
            code = usercode.load(place)
            module = code.module if code else importlib.import_module(place)
        except (Exception, SystemExit) as error:
            raise ValueError(f"{kind} {name!r}: cannot import {place}: {_sentence(error)}") from error
    function = getattr(module, attribute, None)
    if kind == "model" and callable(function) and "entry" not in getattr(function, "__dict__", {}):
        try:
            function = register("model", function)
        except TypeError as error:
            raise ValueError(f"{name}: {error}") from error
    entry = getattr(function, "__dict__", {}).get("entry")
    if entry is None and inspect.isfunction(function):
        raise ValueError(_undecorated(kind, function))
    if not isinstance(entry, Entry) or entry.kind != kind:
        has = [k for k, v in vars(module).items() if getattr(getattr(v, "entry", None), "kind", None) == kind]
        raise ValueError(f"{kind} {name!r}: {place} has no {kind} {attribute!r}; it has {has or 'none'}")
    digest = code.digest if code else hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest()[:16]
    return replace(entry, name=attribute, file_hash=digest)


def in_file(kind: str, path: Path) -> list[Entry]:
    """Every algorithm of a kind that is defined in a user's file, in its order; ValueError if there is none."""
    if not os.path.isfile(path):
        raise ValueError(f"there is no file {path.resolve()}")
    module = load_file(path.resolve())
    names = [name for name, value in vars(module).items() if _is_made_in(module, kind, value)]
    if not names:
        plain = [value for value in vars(module).values() if inspect.isfunction(value) and not hasattr(value, "entry")]
        made = [_undecorated(kind, value) for value in plain if value.__module__ == module.__name__]
        others = [f"the {k} {n}" for n, v in vars(module).items() for k in ENTRIES if _is_made_in(module, k, v)]
        has = f", it has {' and '.join(others)}" if others else ""
        raise ValueError("; ".join([f"{path} has no {kind}{has}", *made]))
    return [find(kind, f"{path}:{name}") for name in names]


def _undecorated(kind: str, thing: Any) -> str:
    place = f"{place_of(thing)}: " if inspect.isfunction(thing) else ""
    entry = getattr(thing, "entry", None)
    advice = f"it has @{entry.kind}()" if isinstance(entry, Entry) else f"write @{kind}() above it"
    return f"{place}{getattr(thing, '__name__', repr(thing))} is not a function with the {kind} decorator: {advice}"


def _is_made_in(module: ModuleType, kind: str, value: Any) -> bool:
    entry = getattr(value, "__dict__", {}).get("entry")
    return isinstance(entry, Entry) and entry.kind == kind and value.__module__ == module.__name__


def load_file(path: Path) -> ModuleType:
    """Import a user's file, once for each content of it and of what it imports of its own."""
    return _load(path).module


def _load(path: Path) -> UserCode:
    try:
        code = usercode.load(path)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{path} cannot be imported: {_sentence(error)}{line_in(str(path), error)}") from error
    assert code is not None
    return code


def _sentence(error: BaseException) -> str:
    """An error in words, with the user's modules by the names that they have for the user."""
    return re.sub(r"\buser_\d+\.", "", in_words(error))


def _load_rooms() -> None:
    for room in _ROOMS:
        importlib.import_module(f"fedpoison.{room}")


_ROOMS = (
    "defences.aggregators",
    "defences.preaggregators",
    "defences.monitors",
    "attacks",
    "clients.losses",
    "clients.sanitizers",
    "data",
    "models",
    "engines",
)
"""Where algorithms are: to import one of them registers what is in it."""
