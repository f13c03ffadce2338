"""Who takes part in a round, and what their training brought."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedpoison.clients.cleaning import Cleaning
from fedpoison.types import ClientIds, Event, LocalUpdates, Twins, Update, Updates


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Who answers in a round: ids [n], ascending, and masks [n] of those who are malicious and those who are late."""

    clients: ClientIds
    malicious: Tensor
    late: Tensor

    def only(self, mask: Tensor) -> "Cohort":
        """Those of a mask [n]."""
        return Cohort(clients=self.clients[mask], malicious=self.malicious[mask], late=self.late[mask])


@dataclass(frozen=True, kw_only=True)
class Harvest:
    """What a round's training brought.

    `trained` [n]: of whom in the cohort there is a row in `updates`, in the cohort's order: the honest, and the
    attackers if anybody looks at what their training gives. `twins` [n_malicious, d]: what their training gives where
    they behave, if anybody looks at that. `root` [d]: what training on the server's samples gives. `momentum`: what the
    clients keep for the next round; `drills`: what the attack on their training keeps; `cleaning`: what was made of
    their samples. `lost`: clients without an update, whose rows mean nothing.
    """

    cohort: Cohort
    trained: Tensor
    updates: LocalUpdates
    twins: Twins | None
    root: Update | None
    momentum: Mapping[str, Tensor]
    drills: Mapping[str, Tensor]
    cleaning: Cleaning
    lost: tuple[int, ...]
    events: tuple[Event, ...]

    @property
    def honest(self) -> LocalUpdates:
        """The honest clients' updates [n_honest, d]."""
        return self._of(~self.cohort.malicious)

    @property
    def own(self) -> LocalUpdates:
        """What the attackers' training gives [n_malicious, d]; no rows if nobody looks at it."""
        return self._of(self.cohort.malicious)

    def _of(self, mask: Tensor) -> LocalUpdates:
        rows = mask[self.trained]
        return self.updates if rows.all() else self.updates[rows]

    def without(self, lost: Sequence[int]) -> "Harvest":
        """The same of all but these clients."""
        if not lost:
            return self
        left = ~torch.isin(self.cohort.clients, torch.tensor(lost))
        return replace(
            self,
            cohort=self.cohort.only(left),
            trained=self.trained[left],
            updates=self.updates[left[self.trained]],
            twins=None if self.twins is None else self.twins[left[self.cohort.malicious]],
        )

    def attacked(self, malicious: Tensor) -> Updates | list[Tensor]:
        """What the cohort sends if the attackers send these rows; `updates` may be changed by it.

        A list of rows if the malicious ones do not fit in a matrix.
        """
        bad, rows = self.cohort.malicious, self.updates
        k, d = int(bad.sum()), rows.shape[1]
        fits = malicious.is_floating_point() and malicious.dtype.itemsize <= rows.dtype.itemsize
        if malicious.shape == (k, d) and fits:
            if not self.trained.all():
                rows = rows.new_empty(len(bad), d)
                rows[~bad] = self.honest
            rows[bad] = malicious.to(rows.dtype)
            return rows
        sent = iter(malicious if malicious.dim() and len(malicious) == k else [malicious] * k)
        honest = iter(self.honest)
        return [next(sent) if is_bad else next(honest) for is_bad in bad.tolist()]
