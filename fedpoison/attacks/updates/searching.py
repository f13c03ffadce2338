"""What attacks share that try the defence out: a round to try updates in, and the search for the strongest."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from fedpoison.attacks.updates.directions import mean_of
from fedpoison.types import Honest, Update, Updates, Verdict

Defend = Callable[[Tensor], Verdict]
GRID = 2.0 ** torch.arange(-4, 7)
_HALVINGS = 4


class Trial:
    """A round's updates [n, d], the honest ones as they are, into which attackers put theirs and see the aggregate.

    Honest updates that are not known are others of the same mean and covariance.
    """

    def __init__(self, benign: Updates, malicious: Tensor, defend: Defend) -> None:
        self._rows = benign.new_empty(len(malicious), benign.shape[1])
        self._rows[~malicious] = all_honest(benign, int((~malicious).sum()))
        self._malicious, self._defend = malicious, defend

    def __call__(self, crafted: Tensor) -> Update:
        """The aggregate, in float64, if the attackers send this, one row for all of them or one each."""
        self._rows[self._malicious] = crafted.to(self._rows.dtype)
        return self._defend(self._rows).update.double()


def strongest(trial: Trial, mean: Update, start: Update, step: Update, grid: Tensor) -> tuple[float, float]:
    """How many steps off `start` move the aggregate farthest from the mean along the step, and how far.

    Of those of the grid, which holds powers of 2, and then of such between its best and its neighbours.
    """
    towards = step.double()
    towards = towards / torch.linalg.vector_norm(towards).clamp(min=torch.finfo(torch.float64).tiny)
    found: dict[float, float] = {}

    def attempt(strengths: Iterable[float]) -> float:
        for strength in strengths:
            way = float((trial(start + strength * step) - mean.double()) @ towards)
            damage = way if strength > 0 else -way
            found.setdefault(strength, damage if damage == damage else -torch.inf)
        return max(found, key=lambda strength: found[strength])  # the first of equals, which is the smallest

    best = attempt(grid.tolist())
    for turn in range(1, _HALVINGS + 1):
        best = attempt([best * 2 ** (-(0.5**turn)), best * 2 ** (0.5**turn)])
    return best, found[best]


def all_honest(benign: Updates, count: int) -> Honest:
    """So many honest updates: those that are known, and others of the same mean and covariance for those that are not.

    These are the mean and the known deviations from it, with random signs, over the root of their number.
    """
    missing = count - len(benign)
    if missing <= 0:
        return benign[:count]
    signs = torch.randint(2, (missing, len(benign)), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    mean = mean_of(benign)
    return torch.cat([benign, mean + (signs.to(benign.dtype) @ (benign - mean)) / len(benign) ** 0.5])
