"""A Flower client that lies in sixty ways: what it sends costs itself alone, and its words can do nothing."""

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MessageType, MetricRecord, RecordDict

from fedpoison.common.plain import plain
from fedpoison.engines import compat
from fedpoison.engines.messages import partition_of, updates_of
from fedpoison.engines.received import number, said
from fedpoison.flower.arrays import Layout
from fedpoison.types import Event

PARAMS = torch.zeros(4)
RIGHT = np.zeros((1, 4), dtype=np.float32)
CLIENT = 3


def forged(header: str, content: bytes = b"") -> bytes:
    """A file of numpy's with any header."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


def zipped() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, RIGHT)
    return buffer.getvalue()


def labelled(content: Any, dtype: Any = "float32", shape: Any = (1, 4), stype: Any = "numpy.ndarray") -> Array:
    made = Array(RIGHT)
    made.dtype, made.shape, made.stype, made.data = dtype, shape, stype, content
    return made


class Huge(bytes):
    """Bytes that nobody must read; they say how many they are."""

    def __len__(self) -> int:
        return 800_000_000


DATA = Array(RIGHT).data
ARRAYS: dict[str, Array] = {
    "one number too few": Array(RIGHT[:, :3]),
    "two rows": Array(np.zeros((2, 4), dtype=np.float32)),
    "a vector": Array(RIGHT[0]),
    "a number": Array(np.zeros((), dtype=np.float32)),
    "float64": Array(RIGHT.astype(np.float64)),
    "whole numbers": Array(RIGHT.astype(np.int32)),
    "complex": Array(RIGHT.astype(np.complex64)),
    "text": Array(np.array([["a", "b", "c", "d"]])),
    "another byte order": Array(RIGHT.astype(">f4")),
    "800 MB": labelled(Huge(DATA)),
    "a long tail": labelled(DATA + bytes(10_000)),
    "nothing": labelled(b""),
    "half": labelled(DATA[:-8]),
    "rubbish": labelled(b"rubbish"),
    "a zip": labelled(zipped()),
    "an empty zip": labelled(b"PK\x05\x06" + bytes(18)),
    "a header of terabytes": labelled(forged("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1099511627776)}")),
    "a header of nothing": labelled(forged("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4)}", bytes(16))),
    "a header of objects": labelled(forged("{'descr': '|O', 'fortran_order': False, 'shape': (1, 4)}", bytes(16))),
    "a header of code": labelled(forged("__import__('os').system('true')", bytes(16))),
    "a header of brackets": labelled(forged("(" * 3000, bytes(16))),
    "fewer than it says": labelled(Array(RIGHT[:, :2]).data),
    "no bytes": labelled(None),
    "words for bytes": labelled("0000"),
    "a list for a type": labelled(DATA, dtype=["float32"]),
    "a type of megabytes": labelled(DATA, dtype="f" * 10**7),
    "no shape": labelled(DATA, shape=None),
    "a shape of words": labelled(DATA, shape=("1", "4")),
    "a shape of millions": labelled(DATA, shape=(1,) * 10**6),
    "another serialisation": labelled(DATA, stype="pickle"),
}


def event(**changes: Any) -> dict[str, Any]:
    return {"what": "untouched", "clients": [CLIENT], "detail": "", **changes}


EVENTS: dict[str, Callable[[], Any]] = {
    "NaN": lambda: [event(clients=[float("nan")])],
    "infinity": lambda: [event(clients=[float("inf")])],
    "another": lambda: [event(clients=[CLIENT + 1])],
    "all": lambda: [event(clients=list(range(9)))],
    "itself twice": lambda: [event(clients=[CLIENT, CLIENT])],
    "itself as a fraction": lambda: [event(clients=[float(CLIENT)])],
    "true": lambda: [event(clients=[True])],
    "words": lambda: [event(clients=["3"])],
    "a number": lambda: [event(clients=CLIENT)],
    "no clients": lambda: [event(clients=None)],
    "lost": lambda: [event(what="lost")],
    "skipped": lambda: [event(what="skipped")],
    "an alarm": lambda: [event(what="alarm")],
    "a list for what": lambda: [event(what=["untouched"])],
    "no detail": lambda: [event(detail=None)],
    "a list for detail": lambda: [event(detail=["a"])],
    "a key too many": lambda: [event(more=1)],
    "a key too few": lambda: [{"what": "untouched", "clients": []}],
    "a list": lambda: [[]],
    "no list": lambda: event(),
    "a word": lambda: "untouched",
    "nothing": lambda: None,
    "20 MB": lambda: [event(detail="x" * 20_000_000)],
    "too many": lambda: [event()] * 10_000,
}
TEXTS: dict[str, Any] = {
    "half": '[{"what": "un',
    "no JSON": "\x1b[2J",
    "no text": "",
    "brackets": "[" * 16_000,
    "a number for text": 1,
    "numbers for text": [1.0, 2.0],
}


def reply(array: Array, told: Any) -> Message:
    compat.be_somebody()
    asked = Message(RecordDict(), CLIENT + 2, MessageType.TRAIN)
    arrays, config = ArrayRecord({"updates": Array(RIGHT)}), ConfigRecord({"events": ""})
    dict.__setitem__(config, "events", told) if isinstance(config, dict) else config._data.update(events=told)
    arrays["updates"] = array
    return Message(RecordDict({"arrays": arrays, "config": config}), reply_to=asked)


def test_what_an_honest_client_sends_is_taken() -> None:
    rows, told = updates_of(reply(Array(RIGHT + 1), json.dumps([event(detail="a")])), CLIENT, 1, PARAMS)
    assert torch.equal(torch.as_tensor(rows), torch.ones(1, 4))
    assert told == (Event("untouched", (CLIENT,), "a"),)


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_that_lies_is_refused_in_few_words(name: str) -> None:
    why = updates_of(reply(ARRAYS[name], "[]"), CLIENT, 1, PARAMS)
    assert isinstance(why, str)
    assert len(why) < 700
    assert why.isprintable()
    arrays = ArrayRecord({"w": Array(RIGHT)})
    layout = Layout(arrays)
    arrays["w"] = ARRAYS[name]
    why = layout.read(RecordDict({"arrays": arrays}))
    assert isinstance(why, str)
    assert len(why) < 700
    assert why.isprintable()


@pytest.mark.parametrize("name", [*EVENTS, *TEXTS])
def test_events_that_lie_are_refused_in_few_words(name: str) -> None:
    told = TEXTS[name] if name in TEXTS else json.dumps(EVENTS[name]())
    why = updates_of(reply(Array(RIGHT), told), CLIENT, 1, PARAMS)
    assert isinstance(why, str)
    assert len(why) < 700
    assert why.isprintable()


def test_words_are_cut_and_escaped() -> None:
    red = "\x1b[31m\u202ered\r\n" + "x" * 9_000
    _, told = updates_of(reply(Array(RIGHT), json.dumps([event(detail=red)])), CLIENT, 1, PARAMS)
    (one,) = told
    assert isinstance(one, Event)
    assert one.detail.startswith("\\x1b[31m\\u202ered\\r\\nxxx")
    assert one.detail.endswith("x…")
    assert len(one.detail) < 300
    compat.be_somebody()
    failed = Message(Error(2, red), reply_to=Message(RecordDict(), 5, MessageType.TRAIN))
    assert updates_of(failed, CLIENT, 1, PARAMS) == partition_of(failed, 6) == one.detail


def test_what_is_plain_is_as_it_was() -> None:
    for text in ("", "krum", "Größe – κ ≤ 1 🦊"):
        assert plain(text) == said(text) == text
    assert plain("a\tb\x00") == "a\\tb\\x00"
    assert plain("abc", 2) == "ab…"
    assert said([1, "\n"]) == "[1, '\\n']"


@pytest.mark.parametrize("value", [2**80, -(2**80), 1, 0.5])
def test_numbers_of_any_length_are_numbers(value: float) -> None:
    assert number(value) == float(value)


@pytest.mark.parametrize("value", [10**400, float("nan"), float("-inf"), True, "1", None, [1.0]])
def test_what_is_no_finite_number_is_none(value: Any) -> None:
    assert number(value) is None


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"partition": {"partition-id": 0.5, "num-partitions": 6}},
        {"partition": {"partition-id": [0] * 10**6, "num-partitions": 6}},
        {"partition": {"partition-id": 0, "num-partitions": [6.0] * 10**6}},
        {"partition": {"partition-id": -1, "num-partitions": 6}},
    ],
)
def test_a_partition_that_is_none_is_refused_in_few_words(content: dict[str, Any]) -> None:
    compat.be_somebody()
    asked = Message(RecordDict(), 5, MessageType.QUERY)
    records = RecordDict({name: MetricRecord(record) for name, record in content.items()})
    why = partition_of(Message(records, reply_to=asked), 6)
    assert isinstance(why, str)
    assert len(why) < 700
