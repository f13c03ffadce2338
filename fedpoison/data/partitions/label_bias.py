"""The bias q of Fang et al."""

import numpy as np

from fedpoison.contract.registry import partition
from fedpoison.data.partitions.common import Indices, check
from fedpoison.types import Share


@partition(paper="arXiv:1911.11815")
def label_bias(labels: Indices, n_clients: int, rng: np.random.Generator, *, q: Share = 0.5) -> list[Indices]:
    """Send a sample of label l to the l-th group of clients with probability q, to each other group alike otherwise.

    Fang et al. 2020: as many groups as classes, C, so that q = 1/C is alike for all; within its group a sample goes
    to any client, here in even parts. The clients of a group are drawn at random; where C does not divide their number
    groups differ by one. ValueError if there are fewer clients than classes, or a group gets too few samples.
    """
    check("label_bias", len(labels), n_clients, 1)
    known, places = np.unique(labels, return_inverse=True)
    if n_clients < len(known):
        raise ValueError(f"label_bias: {n_clients} clients are fewer than the {len(known)} classes, a group each")
    groups = np.array_split(rng.permutation(n_clients), len(known))
    away = rng.random(len(labels)) >= q
    other = (places + rng.integers(1, max(2, len(known)), len(labels))) % len(known)
    group_of = np.where(away, other, places)
    parts: list[Indices] = [np.empty(0, np.int64)] * n_clients
    for group, clients in enumerate(groups):
        samples = rng.permutation(np.flatnonzero(group_of == group))
        if len(samples) < len(clients):
            raise ValueError(f"label_bias: {len(samples)} samples for the {len(clients)} clients of a group")
        for client, part in zip(clients, np.array_split(samples, len(clients)), strict=True):
            parts[client] = np.sort(part)
    return parts
