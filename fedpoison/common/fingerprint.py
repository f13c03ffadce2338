"""What a file holds, as a digest: runs are told apart by that of a user's file, and hold their own to theirs."""

import hashlib
import os
from functools import lru_cache
from pathlib import Path


def fingerprint(place: str) -> str:
    """A digest of a user's file, or of the parquet files below a folder and their names; the name where is neither.

    A file is read again only when its size or time of change is another.
    """
    path = Path(place).expanduser()
    files = [path] if os.path.isfile(path) else sorted(path.rglob("*.parquet")) if place and os.path.isdir(path) else []
    if not files:
        return place
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.relative_to(path)} {digest(file)}\n".encode())
    return whole.hexdigest()


def digest(file: Path) -> str:
    """The sha256 of a file, which is read again only when its size or time of change is another."""
    known = file.stat()
    return _digest(file, known.st_mtime_ns, known.st_size)


@lru_cache(maxsize=4096)
def _digest(file: Path, changed: int, size: int) -> str:
    return fresh_digest(file)


def fresh_digest(file: Path) -> str:
    """The sha256 of a file that was just written."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
