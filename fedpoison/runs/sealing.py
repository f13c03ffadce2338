"""Lines of rounds.jsonl that vouch for themselves.

Each ends with a checksum of itself and of all lines before it ("check"), so that what a power cut or a slip leaves of a
log is known to the line. Logs of older versions have none: of these, and of those that begin so, only the numbers of
the rounds are held to be in order.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import NamedTuple

from fedpoison.contract.vocabulary import Record

_MARK = b', "check": "'
_END = b'"}\n'


class Line(NamedTuple):
    """A sound line: its record, its checksum ("" where it has none), and where it ends in the log."""

    record: Record
    check: str
    end: int


def seal(record: Record, before: str) -> tuple[bytes, str]:
    """A record as a line after the one whose checksum is `before` ("" after none), and the line's own."""
    body = json.dumps(record, allow_nan=False).encode()[:-1]
    check = _check(before, body)
    return body + _MARK + check.encode() + _END, check


def sound_lines(log: bytes, after: int = 0, before: str = "") -> Iterator[Line]:
    """The lines of a log, or of its rest after round `after`, up to the first that is not as it was written."""
    end = 0
    for line in log.splitlines(keepends=True):
        found = _read(line, after + 1, before)
        if found is None:
            return
        after, before, end = after + 1, found[1], end + len(line)
        yield Line(*found, end)


def _read(line: bytes, number: int, before: str) -> tuple[Record, str] | None:
    """The record of a line and its checksum; None if it is cut, garbled, or another than the next in its log."""
    body, marked, check = line.rpartition(_MARK)
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    if not isinstance(record, dict) or record.get("round") != number:
        return None
    if not marked:
        return None if before else (record, "")
    if check != _check(before, body).encode() + _END:
        return None
    return {key: value for key, value in record.items() if key != "check"}, _check(before, body)


def _check(before: str, body: bytes) -> str:
    return hashlib.sha256(before.encode() + body).hexdigest()[:16]
