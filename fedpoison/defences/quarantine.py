"""Clients that the server does not draw for a while."""

from collections.abc import Mapping

import torch
from torch import Tensor

Memory = Mapping[str, Tensor]


def free(memory: Memory, round: int) -> Tensor | None:
    """Who may be drawn in a round, ascending; None if all may."""
    until = memory.get("until")
    if until is None or not (until >= round).any():
        return None
    return (until < round).nonzero().flatten()


def kept_out(memory: Memory, rounds: Mapping[int, int], round: int, clients: int) -> Memory:
    """The memory after a round in which some of so many clients are put away for so many rounds, from the next on."""
    if not rounds:
        return memory
    until = memory.get("until", torch.zeros(clients, dtype=torch.int64)).clone()
    for client, span in rounds.items():
        until[client] = max(int(until[client]), round + span)
    return {"until": until}
