"""Randomness as data: every draw comes from a stream named by what it is for.

A stream is keyed (seed, purpose, round, client), so it does not matter who draws first, on which thread,
in which process, or after which resume. Nothing here touches a global generator.
"""

from typing import NamedTuple

import numpy as np
import torch

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
