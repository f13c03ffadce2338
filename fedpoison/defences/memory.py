"""What a rule remembers of each client between rounds, in tensors that a checkpoint can hold.

Under a name lie two tensors: the ids of all clients seen so far, in ascending order, and a row for each.
"""

import torch
from torch import Tensor

from fedpoison.types import ClientIds, State


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
