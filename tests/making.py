"""What more than one file of tests builds."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from hypothesis import settings
from torch import Tensor

from fedpoison.common import parallel
from fedpoison.config.config import Config, parse
from fedpoison.contract.vocabulary import Record
from fedpoison.round import State, World, play
from fedpoison.runs.world import build

few = False
"""Whether this run leaves out what is exhaustive; conftest sets it."""


def draws(some: int, many: int) -> settings:
    """Of hypothesis, the same each time, and many only where exhaustive tests run too."""
    return settings(derandomize=True, deadline=None, max_examples=some if few else many)


def put_records(folder: Path, records: Iterable[dict[str, Any]]) -> None:
    """Have a run say this. As one of an older version, it has no checksums."""
    (folder / "sums.json").unlink(missing_ok=True)
    (folder / "rounds.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def rows(n: int, d: int = 30, seed: int = 0, dtype: torch.dtype = torch.float64, mean: float = 0.0) -> Tensor:
    """Normal deviates [n, d] around a mean, the same ones in every precision."""
    drawn = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (drawn + mean).to(dtype)


def played(
    cell: Config | Mapping[str, Any], folder: Path | None = None, rounds: int | None = None
) -> tuple[World, State, list[Record]]:
    """A run's world, its last state and its records; `rounds`: only so many of them."""
    config = cell if isinstance(cell, Config) else parse(cell, folder)
    records = []
    with parallel.using(2):
        world, state = build(config)
        while state.round < (rounds or config.rounds):
            state, record = play(state, world)
            records.append(record)
    return world, state, records
