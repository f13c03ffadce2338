"""What every partition checks."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
Drawn = TypeVar("Drawn")

DRAWS = 1000


def check(name: str, samples: int, n_clients: int, min_samples: int) -> None:
    """ValueError unless each client can have that many samples."""
    if n_clients < 1 or min_samples < 1:
        raise ValueError(f"{name}: n_clients = {n_clients} and min_samples = {min_samples} must be at least 1")
    if n_clients * min_samples > samples:
        raise ValueError(f"{name}: {samples} samples are too few for {n_clients} clients with {min_samples} each")


def enough(draw: Callable[[], Drawn], sizes: Callable[[Drawn], Indices], min_samples: int, what: str) -> Drawn:
    """Draw until the smallest of the shards' `sizes` is `min_samples`; ValueError when that never happens.

    Shards are made of what is returned alone: to make a thousand times many of them would take long.
    """
    most = 0
    for _ in range(DRAWS):
        drawn = draw()
        found = sizes(drawn)
        most = max(most, int(found.min()))
        if most >= min_samples:
            return drawn
    raise ValueError(
        f"{what}: in {DRAWS} draws of {found.sum()} samples over {len(found)} clients the smallest client "
        f"never had more than {most} samples, min_samples = {min_samples}; "
        "raise alpha, or lower min_samples or the number of clients"
    )
