"""What a client sent over Flower, read with suspicion: its lengths before its numbers, its words cut and escaped."""

import json
import math
import threading
from typing import Any

import numpy as np
from flwr.app import Array
from numpy.typing import NDArray

from fedpoison.common.plain import MOST, plain
from fedpoison.contract.entry import in_words
from fedpoison.types import Event

_HEADER = 4096
"""Bytes that numpy's format may take for what is not numbers."""
_EVENTS = ("engine", "untouched")
"""What a client's engine may tell of its training."""
_LONGEST = 1 << 14
"""Characters of all that it tells."""


def said(words: Any) -> str:
    """What a client says, or what it sent in place of words, as an event may hold it."""
    return plain(words if isinstance(words, str) else repr(words), MOST)


def number(value: Any) -> float | None:
    """A number that a client sent, if it is one and finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        made = float(value)
    except OverflowError:  # a whole number of any length
        return None
    return made if math.isfinite(made) else None


def read(array: Array) -> NDArray[Any]:
    """An array's numbers, in one thread at a time.

    numpy parses their header as Python, and CPython 3.11 fails if two threads parse at once: "AST constructor recursion
    depth mismatch".
    """
    with _reading:
        return array.numpy()


_reading = threading.Lock()


def numbers(array: Array, shape: tuple[int, ...], dtype: str, name: str = "it") -> NDArray[Any] | str:
    """The numbers in an array, or why they are not of this shape and type."""
    try:
        if (tuple(array.shape), array.dtype) != (shape, dtype):
            return f"{name} is {said(tuple(array.shape))} {said(array.dtype)}, not {shape} {dtype}"
        if len(array.data) > math.prod(shape) * np.dtype(dtype).itemsize + _HEADER:
            return f"{name} is longer than {shape} {dtype} can be"
        made = read(array)
        if (made.shape, str(made.dtype)) != (shape, dtype):
            return f"{name} says it is {shape} {dtype} and is {made.shape} {made.dtype}"
    except Exception as error:  # whatever bytes may raise
        return f"{name} cannot be read: {said(in_words(error))}"
    return made


def events(text: Any, client: int) -> tuple[Event, ...]:
    """The events that a client tells of its own training; ValueError if they are none, or of others."""
    if not isinstance(text, str) or len(text) > _LONGEST:
        raise ValueError(f"events are text of at most {_LONGEST} characters")
    told = json.loads(text)
    if not isinstance(told, list):
        raise ValueError("its events are no list")
    return tuple(_event(each, client) for each in told)


def _event(told: Any, client: int) -> Event:
    if not isinstance(told, dict) or told.keys() != {"what", "clients", "detail"}:
        raise ValueError(f"{said(told)} is no event")
    what, clients, detail = told["what"], told["clients"], told["detail"]
    if what not in _EVENTS or not isinstance(detail, str):
        raise ValueError(f"it tells {said(what)} of its training")
    if clients not in ([], [client]) or any(type(each) is not int for each in clients):
        raise ValueError(f"it speaks for {said(clients)}")
    return Event(what, tuple(clients), said(detail))
