"""A run's folder (files.py says what lies in it), written so that a kill at any moment loses nothing."""

import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy
import tomli_w
import torch
from filelock import FileLock, Timeout
from safetensors.torch import save_file
from torch import Tensor

from fedpoison.common.errors import BusyError, DamagedError
from fedpoison.common.fingerprint import fresh_digest
from fedpoison.common.version import VERSION
from fedpoison.contract.vocabulary import Record
from fedpoison.linalg import kernels
from fedpoison.round import State
from fedpoison.runs.checkpoints import load_state, save_state, sealed_log
from fedpoison.runs.files import DESCRIPTION, RESULTS, RunFiles, put, replace_file, replace_files, sync
from fedpoison.runs.sealing import seal, sound_lines

_PATIENCE = 9
"""Times the cost of a checkpoint that pass before the next."""


class RunFolder(RunFiles):
    """`results/<name>/<hash>/` of one run, to be written."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._saved, self._cost = -math.inf, 0.0
        self._check = ""
        self._last: State | None = None
        """The state after the last round whose line is wholly written, if that is not in the checkpoint."""
        self.cut_off = ""
        """What `resume` found behind the sound lines of the log, other than the beginning of a line."""

    @contextmanager
    def locked(self, wait: bool = False) -> Iterator[None]:
        """Hold the folder for this process; if another has it, wait, or else BusyError. The killed hold nothing."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.hold_folders()
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            raise BusyError(f"another process is running {self.path}") from None
        try:
            yield
        finally:
            lock.release()

    def describe(self, config: Mapping[str, Any], labels: Mapping[str, Any]) -> str:
        """Write config.toml, environment.json and run.json; how the environment of a run begun before differs."""
        now, file, changes = environment(), self.path / "environment.json", ""
        begun = file.is_file() and bool(self.log())
        if begun:
            try:
                before = self._environment()
                differing = [key for key in now if now[key] != before.get(key)]
                changes = ", ".join(f"{key} {now[key]} instead of {before.get(key)}" for key in differing)
            except DamagedError as error:
                begun, changes = False, f"{error}: nobody knows what the rounds before were made with"
        written = {"config.toml": tomli_w.dumps(config).encode(), "run.json": json.dumps(labels, indent=1).encode()}
        written["environment.json"] = file.read_bytes() if begun else json.dumps(now, indent=1).encode()
        sums = {name: hashlib.sha256(content).hexdigest() for name, content in written.items()}
        if begun:  # the file's time says since when
            del written["environment.json"]
        (self.path / "sums.json").unlink(missing_ok=True)  # they are of what is replaced now
        replace_files(self.path, {**written, "sums.json": json.dumps(sums, indent=1).encode()})
        return changes

    def _environment(self) -> dict[str, Any]:
        """What the run was begun on; DamagedError if that is lost."""
        self.hold(["environment.json"])
        file = self.path / "environment.json"
        try:
            return dict(json.loads(file.read_bytes()))
        except (ValueError, TypeError):
            raise DamagedError(f"{file} is not what was written") from None

    def _sum_up(self, model: Path) -> None:
        """Write down the checksums of a finished run, whose model may not have its name yet."""
        there = [name for name in (*DESCRIPTION, "environment.json", "rounds.jsonl") if (self.path / name).is_file()]
        sums = {name: fresh_digest(self.path / name) for name in there} | {self.model.name: fresh_digest(model)}
        replace_file(self.path / "sums.json", json.dumps(sums, indent=1).encode())

    def mend(self, config: Mapping[str, Any], labels: Mapping[str, Any]) -> bool:
        """Describe a finished run again of which nothing else is damaged; whether it is one."""
        if not self.ended:
            return False
        try:
            sums = self.sums()
            self.hold_results(rounds=config["rounds"])
        except DamagedError:
            return False
        self.describe(config, labels)
        if set(RESULTS) <= set(sums):
            self._sum_up(self.model)
        return True

    def clear(self) -> None:
        """Take away all results, so that the run can be made again; what cannot be half done."""
        for name in (self.model.name, "checkpoint.safetensors", "sums.json", "rounds.jsonl"):
            (self.path / name).unlink(missing_ok=True)
        self._check = ""

    def touch(self) -> None:
        """Note that the run was asked for again: it is the last then, of several versions of a rule, say."""
        with suppress(OSError):  # finished runs may lie where nothing can be written
            os.utime(self.path / "run.json")

    def resume(self) -> State | None:
        """The last checkpoint, with rounds.jsonl cut back to it; None if there is none.

        DamagedError if the two are not what was written, or the run is one that was finished and is damaged.
        """
        if self.ended:
            raise DamagedError(self.damage(thorough=True) or f"{self.path} is finished")
        checkpoint, rounds, log = self.path / "checkpoint.safetensors", self.path / "rounds.jsonl", self.log()
        state = load_state(checkpoint) if checkpoint.is_file() else None
        done, lines = state.round if state else 0, list(sound_lines(log))
        if len(lines) < done:
            raise DamagedError(f"{rounds} has {len(lines)} sound rounds and the checkpoint is of round {done}")
        last = lines[done - 1] if done else None
        if last and last.check != (sealed_log(checkpoint) or last.check):
            raise DamagedError(f"{rounds} is not the log of its checkpoint")
        end = last.end if last else 0
        if b"\n" in log[lines[-1].end if lines else 0 :]:
            self.cut_off = f"line {len(lines) + 1} of {rounds} is not what was written"
        if end < len(log):
            replace_file(rounds, log[:end])
        self._check = last.check if last else ""
        return state

    def begin_with(self, records: Sequence[Record]) -> None:
        """Write rounds that were played elsewhere, before the first of this run's own."""
        lines, self._check = [], ""
        for record in records:
            line, self._check = seal(record, self._check)
            lines.append(line)
        replace_file(self.path / "rounds.jsonl", b"".join(lines))

    def append(self, record: Record, state: State) -> None:
        """Add a round, and save the state unless that would take more than a tenth of the run's time.

        If the process is killed in between, the rounds since are played and written again by the resumed run.
        """
        line, check = seal(record, self._check)
        with (self.path / "rounds.jsonl").open("ab") as file:
            file.write(line)
        self._check, self._last = check, state
        if time.monotonic() - self._saved >= _PATIENCE * self._cost:
            self.save_last()

    def save_last(self) -> None:
        """Replace the checkpoint by the state after the last written round, unless it is of that already."""
        if self._last is None:
            return
        began = time.monotonic()
        sync(self.path / "rounds.jsonl")  # the checkpoint must not outlast its log
        save_state(self.path / "checkpoint.safetensors", self._last, self._check)
        self._last = None
        self._saved = time.monotonic()
        self._cost = self._saved - began

    def finish(self, params: Tensor) -> None:
        """Write the checksums and the final model, in this order; the checkpoint is no longer needed."""
        temporary = self.model.with_suffix(".tmp")
        save_file({"params": params}, temporary)
        sync(self.path / "rounds.jsonl")
        self._sum_up(temporary)
        put(self.path, {temporary.name: self.model.name})
        for left in (self.path / "checkpoint.safetensors", *self.path.glob("*.tmp")):
            left.unlink(missing_ok=True)


def environment() -> dict[str, Any]:
    """What could change a bit of the result besides the configuration."""
    return {
        "fedpoison": VERSION,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "machine": platform.machine(),
        "system": platform.system(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "kernels": kernels.level(),
    }
