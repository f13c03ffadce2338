"""Randomness as data: every draw comes from a stream named by what it is for.

A stream is keyed (seed, purpose, round, client), so it does not matter who draws first, on which thread,
in which process, or after which resume. Nothing of ours touches a global generator; a user's code may.
"""

import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

PURPOSES = (
    "data",
    "partition",
    "malicious",
    "cohort",
    "model",
    "batches",
    "poison",
    "attack",
    "defence",
    "defend",
    "apart",
    "held_out",
    "augment",
    "answers",
    "sybils",
    "dropout",
    "tuning",
    "surrogate",
    "code",
    "drill",
    "monitor",
    "cleaning",
)


class Stream(NamedTuple):
    """The name of one random stream; plans carry these, not arrays."""

    seed: int
    purpose: str
    round: int = 0
    client: int = 0

    def of(self, purpose: str) -> "Stream":
        """The stream of another purpose with the same seed, round and client."""
        return self._replace(purpose=purpose)

    def _sequence(self) -> np.random.SeedSequence:
        return np.random.SeedSequence([self.seed, PURPOSES.index(self.purpose), self.round, self.client])

    def numpy(self) -> np.random.Generator:
        """A fresh numpy generator at the start of this stream."""
        return np.random.Generator(np.random.PCG64(self._sequence()))

    def integer(self) -> int:
        """One 63-bit number that stands for the stream."""
        return int(self._sequence().generate_state(1, np.uint64)[0] >> np.uint64(1))

    def torch(self) -> torch.Generator:
        """A fresh torch generator at the start of this stream."""
        return torch.Generator().manual_seed(self.integer())


_drawing = threading.RLock()


@contextmanager
def drawing_from(stream: Stream) -> Iterator[None]:
    """Have Python's, NumPy's and torch's global generators begin at this stream, and leave them as they were.

    One thread at a time can do so.
    """
    python, numbers, tensors = (int(seed) for seed in stream._sequence().generate_state(5)[2:])  # `integer` has two
    with _drawing:
        before = _states()
        try:
            random.seed(python)
            np.random.seed(numbers)  # noqa: NPY002
            torch.default_generator.manual_seed(tensors)
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002
            torch.set_rng_state(before[2])


@contextmanager
def settings_kept() -> Iterator[None]:
    """Leave torch's default type, whether it takes gradients, and the working directory as they were.

    The directory is the whole process's: only the main thread, which waits for the others, puts it back.
    """
    dtype, gradients = torch.get_default_dtype(), torch.is_grad_enabled()
    folder = _working_directory() if threading.current_thread() is threading.main_thread() else None
    try:
        yield
    finally:
        if torch.get_default_dtype() != dtype:
            torch.set_default_dtype(dtype)
        if torch.is_grad_enabled() != gradients:
            torch.set_grad_enabled(gradients)
        if folder and _working_directory() != folder:
            os.chdir(folder)


def _working_directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # somebody removed it
        return None


def _states() -> tuple[Any, Any, Tensor]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002


def drawn() -> dict[str, Any]:
    """What the global generators have come to, by whose they are, to be compared."""
    python, numbers, tensors = _states()
    return {"Python's": python, "NumPy's": (numbers[1].tobytes(), numbers[2:]), "torch's": tensors.numpy().tobytes()}
