"""A run's folder (runfiles.py says what lies in it), written so that a kill at any moment loses nothing."""

import json
import math
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy
import tomli_w
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedpoison import __version__
from fedpoison.common.errors import BusyError
from fedpoison.contract.vocabulary import Record
from fedpoison.linalg import kernels
from fedpoison.round import State
from fedpoison.runs.files import RunFiles, replace_file

_PATIENCE = 9
"""Times the cost of a checkpoint that pass before the next."""


class RunFolder(RunFiles):
    """`results/<name>/<hash>/` of one run, to be written."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._saved, self._cost = -math.inf, 0.0

    @contextmanager
    def locked(self, wait: bool = False) -> Iterator[None]:
        """Hold the folder for this process; if another has it, wait, or else BusyError. The killed hold nothing."""
        self.path.mkdir(parents=True, exist_ok=True)
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
        if file.is_file() and self.records():
            before = json.loads(file.read_text(encoding="utf-8"))
            differing = [key for key in now if now[key] != before.get(key)]
            changes = ", ".join(f"{key} {now[key]} instead of {before.get(key)}" for key in differing)
        else:
            replace_file(file, json.dumps(now, indent=1).encode())
        replace_file(self.path / "config.toml", tomli_w.dumps(config).encode())
        replace_file(self.path / "run.json", json.dumps(labels, indent=1).encode())
        return changes

    def touch(self) -> None:
        """Note that the run was asked for again: it is the last then, of several versions of a rule, say."""
        with suppress(OSError):  # finished runs may lie where nothing can be written
            os.utime(self.path / "run.json")

    def resume(self) -> State | None:
        """The last checkpoint, with rounds.jsonl cut back to it; None if there is none."""
        checkpoint, rounds = self.path / "checkpoint.safetensors", self.path / "rounds.jsonl"
        state = load_state(checkpoint) if checkpoint.is_file() else None
        done = state.round if state else 0
        written = rounds.read_bytes().splitlines(keepends=True) if rounds.is_file() else []
        lines = [line for line in written if line.endswith(b"\n")]
        if len(lines) < done:
            raise ValueError(
                f"{rounds} has {len(lines)} rounds and the checkpoint is of round {done}: delete the folder"
            )
        if len(written) > done:
            replace_file(rounds, b"".join(lines[:done]))
        return state

    def begin_with(self, records: Sequence[Record]) -> None:
        """Write rounds that were played elsewhere, before the first of this run's own."""
        lines = [json.dumps(record, allow_nan=False) + "\n" for record in records]
        replace_file(self.path / "rounds.jsonl", "".join(lines).encode())

    def append(self, record: Record, state: State) -> None:
        """Add a round, and save the state unless that would take more than a tenth of the run's time.

        If the process is killed in between, the rounds since are played and written again by the resumed run.
        """
        with (self.path / "rounds.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")
        if time.monotonic() - self._saved >= _PATIENCE * self._cost:
            self.save(state)

    def save(self, state: State) -> None:
        """Replace the checkpoint."""
        began = time.monotonic()
        save_state(self.path / "checkpoint.safetensors", state)
        self._saved = time.monotonic()
        self._cost = self._saved - began

    def finish(self, params: Tensor) -> None:
        """Write the final model; the checkpoint is no longer needed."""
        temporary = self.model.with_suffix(".tmp")
        save_file({"params": params}, temporary)
        os.replace(temporary, self.model)
        (self.path / "checkpoint.safetensors").unlink(missing_ok=True)


def save_state(path: Path, state: State) -> None:
    """Replace a checkpoint atomically. The round is the file's only metadata key, so its bytes are determined."""
    given = {field.name: getattr(state, field.name) for field in fields(state)}
    number, memories = given.pop("round"), given.pop("memories")
    given |= {f"{owner}.{name}": value for owner, memory in memories.items() for name, value in memory.items()}
    tensors = {name: value.clone(memory_format=torch.contiguous_format) for name, value in given.items()}
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, metadata={"round": str(number)})
    os.replace(temporary, path)


def load_params(path: Path, like: Tensor) -> Tensor:
    """The parameters of a model.safetensors; ValueError if they are not those of a net whose parameters are `like`."""
    try:
        params = load_file(path)["params"]
    except (SafetensorError, KeyError, OSError) as error:
        raise ValueError(f"{path} is not a model of a run: {error}") from error
    if (params.shape, params.dtype) != (like.shape, like.dtype):
        was, now = (f"{len(t)} numbers of {t.dtype}" for t in (params.flatten(), like))
        raise ValueError(f"{path} holds {was}, the net has {now}")
    return params


def load_state(path: Path) -> State:
    """Read a checkpoint."""
    with safe_open(path, "pt") as file:
        number = int(file.metadata()["round"])
    own: dict[str, Tensor] = {}
    memories: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_file(path).items():
        owner, of_an_owner, name = key.partition(".")
        if of_an_owner:
            memories.setdefault(owner, {})[name] = tensor
        else:
            own[key] = tensor
    return State(round=number, memories=memories, **own)


def environment() -> dict[str, Any]:
    """What could change a bit of the result besides the configuration."""
    return {
        "fedpoison": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "machine": platform.machine(),
        "system": platform.system(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "kernels": kernels.level(),
    }
