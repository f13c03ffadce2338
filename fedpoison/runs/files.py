"""A run's files, read; and whether they are what was written.

config.toml, environment.json   what was run, on what
run.json                        how tables and figures call it, and which clean run it is compared with
rounds.jsonl                    one Record a round, appended, each line with its checksum
checkpoint.safetensors          the State after a written round, replaced atomically; gone at the end
model.safetensors               the final parameters; its presence says that the run is finished
sums.json                       the sha256 of the files above, of rounds.jsonl and the model when it is finished

Runs of older versions have no checksums. Of their files it is known only whether they can be read and are whole.
"""

import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from fedpoison.common import former
from fedpoison.common.errors import DamagedError
from fedpoison.common.fingerprint import digest
from fedpoison.contract.vocabulary import PHASES, Record, stopped
from fedpoison.runs.sealing import sound_lines

DESCRIPTION = ("config.toml", "run.json")
RESULTS = ("rounds.jsonl", "model.safetensors")
_OTHERS = ("environment.json", "checkpoint.safetensors", "sums.json", "error.txt")
_NEEDED: dict[str, dict[str, type]] = {
    "config.toml": {"name": str, "seed": int, "rounds": int},
    "run.json": {"rule": str, "attack": str},
    "rounds.jsonl": {"malicious": list, "events": list, "detection": dict, "seconds": dict},
}
"""What those who read cannot do without; older versions wrote it too."""


class RunFiles:
    """`results/<name>/<hash>/` of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def ended(self) -> bool:
        """Whether the run came to its end, whatever became of its files."""
        return self.model.is_file()

    @property
    def finished(self) -> bool:
        """Whether the run is over and all of its results are what was written."""
        return self.ended and self.damage(thorough=True) is None

    @property
    def model(self) -> Path:
        """The file of the final parameters."""
        return self.path / "model.safetensors"

    @property
    def begun(self) -> float:
        """When it was begun, as its files' times tell."""
        environment = self.path / "environment.json"
        return (environment if environment.is_file() else self.path / "config.toml").stat().st_mtime

    @property
    def last_run(self) -> float:
        """When it was asked for last, as its files' times tell."""
        return (self.path / "run.json").stat().st_mtime

    def described(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The configuration and the labels, as `describe` wrote them; DamagedError if that cannot be."""
        config, labels = (self._read(name) for name in DESCRIPTION)
        return former.config(config), labels

    def records(self) -> list[Record]:
        """All rounds that are wholly written, up to the first line that is damaged."""
        return [line.record for line in sound_lines(self.log())]

    def log(self) -> bytes:
        """What is in rounds.jsonl."""
        rounds = self.path / "rounds.jsonl"
        return rounds.read_bytes() if rounds.is_file() else b""

    def damage(self, thorough: bool = False) -> str | None:
        """Which file is not what was written, in a sentence; None if all are.

        The model's numbers are looked at only if `thorough`: no table shows them, and there may be many.
        """
        try:
            self.hold_folders()
            self.hold(DESCRIPTION)
            if self.ended:
                self.hold_results(thorough)
            else:
                self._hold_log()
        except DamagedError as error:
            return str(error)
        except OSError as error:
            return f"{error.filename} cannot be read: {error.strerror}"
        return None

    def hold_folders(self) -> None:
        """DamagedError if a folder stands where a file of the run belongs."""
        for name in (*DESCRIPTION, *RESULTS, *_OTHERS, ".lock"):
            if (self.path / name).is_dir():
                raise DamagedError(f"{self.path / name} is a folder where a file belongs: delete it")

    def hold(self, names: Iterable[str]) -> None:
        """DamagedError if one of these files is not what was written, as far as anything tells."""
        sums = self.sums()
        for name in names:
            file = self.path / name
            if not file.is_file() or not file.stat().st_size:
                raise DamagedError(f"{file} is {'empty' if file.is_file() else 'gone'}")
            if sums.get(name, "") not in ("", digest(file)):
                raise DamagedError(f"{file} is not what was written")
            if name in DESCRIPTION and name not in sums and not _has(self._read(name), _NEEDED[name]):
                raise DamagedError(f"{file} does not say what it should")

    def hold_results(self, thorough: bool = True, rounds: int | None = None) -> None:
        """DamagedError if the log or the model of a finished run is not what was written; `rounds`: how many it has."""
        sums = self.sums()
        known = [name for name in RESULTS if name in sums and (thorough or name != self.model.name)]
        self.hold(known)
        if self.model.name not in known and not _is_whole(self.model):
            raise DamagedError(f"{self.model} is not whole")
        if "rounds.jsonl" not in known:
            wanted = self._read("config.toml")["rounds"] if rounds is None else rounds
            found, records = self._hold_log(), self.records()
            if found != wanted and not (records and stopped(records[-1])):
                raise DamagedError(f"{self.path / 'rounds.jsonl'} has {found} of {wanted} rounds")

    def sums(self) -> Mapping[str, str]:
        """The checksums of the files that have one; DamagedError if they cannot be read."""
        file = self.path / "sums.json"
        if not file.is_file():
            return {}
        try:
            sums = json.loads(file.read_bytes())
        except ValueError:
            sums = None
        if not isinstance(sums, dict) or not all(isinstance(value, str) for value in sums.values()):
            raise DamagedError(f"{file} is not what was written")
        return sums

    def _read(self, name: str) -> dict[str, Any]:
        """A file of the description; DamagedError if it cannot be read."""
        file = self.path / name
        try:
            text = file.read_text(encoding="utf-8")
            table = tomllib.loads(text) if file.suffix == ".toml" else json.loads(text)
        except FileNotFoundError:
            raise DamagedError(f"{file} is gone") from None
        except (ValueError, RecursionError):
            raise DamagedError(f"{file} is not what was written") from None
        if not isinstance(table, dict):
            raise DamagedError(f"{file} is not what was written")
        return table

    def _hold_log(self) -> int:
        """How many rounds the log has; DamagedError if one is damaged. A line that was being written is none."""
        rounds = self.path / "rounds.jsonl"
        known = rounds.stat() if rounds.is_file() else None
        count, sound = _counted(rounds, known.st_mtime_ns, known.st_size) if known else (0, True)
        if not sound:
            raise DamagedError(f"line {count + 1} of {rounds} is not what was written")
        return count


class Tail:
    """A log that somebody else is writing, read on from where it was read last."""

    def __init__(self, folder: RunFiles) -> None:
        self._rounds = folder.path / "rounds.jsonl"
        self.seen = 0
        """The last round that was handed on: what is played and written again is not new."""
        self._start_over(None)

    def _start_over(self, file: int | None) -> None:
        self._file, self._end, self._round, self._check = file, 0, 0, ""

    def new(self) -> list[Record]:
        """The rounds that were written since the last time."""
        if not self._rounds.is_file():
            return []
        known = self._rounds.stat()
        if known.st_ino != self._file or known.st_size < self._end:  # it was cut back, which makes it another file
            self._start_over(known.st_ino)
        with self._rounds.open("rb") as file:
            file.seek(self._end)
            rest = file.read()
        lines = list(sound_lines(rest, self._round, self._check))
        if lines:
            self._end += lines[-1].end
            self._round, self._check = self._round + len(lines), lines[-1].check
        fresh = [line.record for line in lines if line.record["round"] > self.seen]
        self.seen = max(self.seen, self._round)
        return fresh


def _has(table: Mapping[str, Any], needed: Mapping[str, type]) -> bool:
    return all(isinstance(table.get(key), kind) for key, kind in needed.items())


@lru_cache(maxsize=4096)
def _counted(rounds: Path, changed: int, size: int) -> tuple[int, bool]:
    """How many sound lines a log begins with, and whether nothing but the beginning of a line follows."""
    log, end, count = rounds.read_bytes(), 0, 0
    for count, line in enumerate(sound_lines(log), start=1):
        end, record = line.end, line.record
        if not line.check and not (_has(record, _NEEDED["rounds.jsonl"]) and _has(record["seconds"], _SECONDS)):
            return count - 1, False
    return count, b"\n" not in log[end:]


_SECONDS = dict.fromkeys(PHASES, float)


def _is_whole(model: Path) -> bool:
    """Whether a safetensors file is as long as its head says."""
    with model.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        size = model.stat().st_size
        if not 0 < length <= size - 8:
            return False
        try:
            head = json.loads(file.read(length))
            ends = [tensor["data_offsets"][1] for name, tensor in head.items() if name != "__metadata__"]
            return bool(8 + length + max(ends) == size)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            return False


def replace_file(path: Path, content: bytes) -> None:
    """Write a file as a whole or not at all, so that it lasts."""
    replace_files(path.parent, {path.name: content})


def replace_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write several files of a folder, each as a whole or not at all, in this order."""
    for name, content in contents.items():
        (folder / f"{name}.tmp").write_bytes(content)
    put(folder, {f"{name}.tmp": name for name in contents})


def put(folder: Path, names: Mapping[str, str]) -> None:
    """Give whole files their names when they are on the disk, and wait until the names are."""
    for temporary in names:
        sync(folder / temporary)
    for temporary, name in names.items():
        os.replace(folder / temporary, folder / name)
    sync(folder)


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, would outlast a power cut, where the system can say so."""
    if path.is_dir() and os.name != "posix":  # Windows opens no folder
        return
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
