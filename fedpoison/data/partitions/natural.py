"""The split that the data have by nature."""

from typing import Literal

import numpy as np

from fedpoison.contract.registry import partition
from fedpoison.data.partitions.common import Indices


@partition()
def natural(
    clients: Indices, n_clients: int, rng: np.random.Generator, *, keep: Literal["largest", "random"] = "largest"
) -> list[Indices]:
    """Give each client the samples of one person, role, hospital, as the data set has them.

    Where there are more of these than clients, the `keep` ones are taken and the samples of the others not used.
    ValueError if there are fewer.
    """
    ids, counts = np.unique(clients, return_counts=True)
    if len(ids) < n_clients:
        raise ValueError(f"natural: the data have {len(ids)} clients by nature, not {n_clients}")
    order = np.argsort(-counts, kind="stable") if keep == "largest" else rng.permutation(len(ids))
    return [np.flatnonzero(clients == ids[i]) for i in np.sort(order[:n_clients])]
