"""What a chain remembers between rounds, in tensors that a checkpoint can hold: by step, and of each client.

Of clients there are two tensors under a name: the ids of all seen so far, in ascending order, and a row for each.
"""

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor

from fedpoison.types import ClientIds, State

T = TypeVar("T")

RULE, BASE = "", "base"
"""A rule's place in a chain, and its base's; a pre-aggregator's is "pre0", "pre1", …"""


class ByStep:
    """The memories of a chain's steps in one mapping: the rule's by its own names, the others' as "pre0/name"."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self._by: dict[str, dict[str, Tensor]] = {}
        for key, value in state.items():
            place, _, name = key.rpartition("/")
            self._by.setdefault(place, {})[name] = value

    def of(self, place: str) -> State:
        """What the step at a place remembers, in tensors of its own."""
        return {name: value.clone() for name, value in self._by.get(place, {}).items()}

    def keep(self, place: str, result: T, state: Mapping[str, Tensor]) -> T:
        """Take what a step remembers from now on; the result that came with it."""
        self._by[place] = dict(state)
        return result

    @property
    def whole(self) -> State:
        """All of it, as the next round is given it."""
        return {f"{place}/{name}".lstrip("/"): v for place, state in self._by.items() for name, v in state.items()}


def recall(state: State, name: str, client_ids: ClientIds, like: Tensor) -> Tensor:
    """The rows remembered of these clients, in the shape and type of `like` [n, ...]; zeros for whoever is new."""
    rows = torch.zeros_like(like)
    if f"{name}.ids" in state:
        known = state[f"{name}.ids"]
        places = torch.searchsorted(known, client_ids).clamp(max=len(known) - 1)
        seen = known[places] == client_ids
        rows[seen] = state[f"{name}.rows"][places[seen]]
    return rows


def remember(state: State, name: str, client_ids: ClientIds, rows: Tensor) -> State:
    """A state in which `rows` [n, ...] replace what was remembered of these clients; the others' rows stay."""
    known = state.get(f"{name}.ids", client_ids[:0])
    everybody = torch.cat([known, client_ids]).unique()
    table = rows.new_zeros(len(everybody), *rows.shape[1:])
    if len(known):
        table[torch.searchsorted(everybody, known)] = state[f"{name}.rows"]
    table[torch.searchsorted(everybody, client_ids)] = rows
    return {**state, f"{name}.ids": everybody, f"{name}.rows": table}
