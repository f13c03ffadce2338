"""Functions that are given themselves, from a notebook or a script, and the digest of their source."""

import dis
import hashlib
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedpoison.contract import usercode


def digest(function: Any, traits: Mapping[str, Any]) -> str:
    """A short digest of the source of a function or class, and of what it uses of the notebook or script.

    `traits`: what its decorator was given. ValueError names what has no source, and what no digest can be made of.
    """
    teller = _Teller(function)
    return hashlib.sha256(repr([teller.tell(function), teller.tell(dict(traits))]).encode()).hexdigest()[:16]


class _Teller:
    """What code says, as far as it can change what the code does."""

    def __init__(self, function: Any) -> None:
        self._name, self._home = function.__qualname__, function.__module__
        self._known: dict[int, str] = {}

    def tell(self, thing: Any, name: str = "") -> Any:
        """Nested lists of text; `name`: by which the code knows it."""
        if id(thing) in self._known:
            return self._known[id(thing)]
        if thing is None or isinstance(thing, _PLAIN):
            return repr(thing)
        if isinstance(thing, list | tuple):
            return [type(thing).__name__, *(self.tell(part, name) for part in thing)]
        if isinstance(thing, set | frozenset):
            return [type(thing).__name__, *sorted(repr(self.tell(part, name)) for part in thing)]
        if isinstance(thing, Mapping):
            return [[self.tell(key, name), self.tell(value, name)] for key, value in thing.items()]
        if isinstance(thing, Tensor | np.ndarray):
            array = thing.detach().cpu().numpy() if isinstance(thing, Tensor) else thing
            return [str(array.dtype), array.shape, hashlib.sha256(array.tobytes()).hexdigest()]
        if isinstance(thing, ModuleType):
            return self._of_others(thing.__name__, name)
        home, known_as = getattr(thing, "__module__", None) or "builtins", getattr(thing, "__qualname__", None)
        if isinstance(thing, FunctionType | type) and home == self._home:
            self._known[id(thing)] = thing.__qualname__
            return self._class(thing) if isinstance(thing, type) else self._function(thing)
        if known_as is None:
            raise self._refusal(f"{name}, a {type(thing).__name__}, of which no digest can be made: make it an option")
        return [self._of_others(home, name), known_as]

    def _of_others(self, module: str, name: str) -> str:
        if usercode.is_own(module):
            raise self._refusal(f"{name} of {module}, a module of your own: define it here")
        return module

    def _refusal(self, what: str) -> ValueError:
        return ValueError(f"{self._name} uses {what}, or put it in a file and name that")

    def _function(self, function: FunctionType) -> list[Any]:
        try:
            source = textwrap.dedent(inspect.getsource(function))
        except (OSError, TypeError) as error:
            raise ValueError(f"{function.__qualname__} has no source here: put it in a file and name that") from error
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        uses = {name: cell.cell_contents for name, cell in cells}
        names = sorted(set(_global_names(function.__code__)) & function.__globals__.keys())
        uses |= {name: function.__globals__[name] for name in names}
        told = [[name, self.tell(value, name)] for name, value in uses.items()]
        return [source, told, self.tell([function.__defaults__, function.__kwdefaults__], "a default")]

    def _class(self, made: type) -> list[Any]:
        members = {name: value for name, value in vars(made).items() if name not in _OF_A_CLASS}
        told = []
        for name, value in members.items():
            inner = getattr(value, "__func__", None) or getattr(value, "fget", None) or value
            told.append([name, type(value).__name__, self.tell(inner, name)])
        return [*(self.tell(base, base.__name__) for base in made.__bases__), *told]


_PLAIN = (str, bytes, int, float, complex, range, Path, np.generic, np.ufunc, torch.dtype, torch.device)
_OF_A_CLASS = {"__module__", "__dict__", "__weakref__", "__doc__", "__qualname__", "__annotations__", "entry"}
"""What a class has without saying it, or that changes nothing."""


def _global_names(code: CodeType) -> Iterator[str]:
    yield from (step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _global_names(constant)
