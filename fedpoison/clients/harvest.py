"""Who takes part in a round, and what their training brought."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedpoison.clients.cleaning import Cleaning
from fedpoison.types import ClientIds, Event, LocalUpdates, Twins, Update, Updates


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Who answers in a round: ids [n], ascending, the group of attackers of each [n], −1 of none, and who is late."""

    clients: ClientIds
    group: Tensor
    late: Tensor

    @property
    def malicious(self) -> Tensor:
        """Who is malicious: a mask [n]."""
        return self.group >= 0

    def only(self, mask: Tensor) -> "Cohort":
        """Those of a mask [n]."""
        return Cohort(clients=self.clients[mask], group=self.group[mask], late=self.late[mask])


@dataclass(frozen=True, kw_only=True)
class Harvest:
    """What a round's training brought.

    `trained` [n]: of whom in the cohort there is a row in `updates`, in the cohort's order: the honest, and the
    attackers if anybody looks at what their training gives. `twinned` [n]: of which attackers there is a row in
    `twins`, what their training gives where they behave, if anybody looks at that apart. `root` [d]: what training on
    the server's samples gives. `momentum`: what the clients keep for the next round; `drills`: what the attacks on
    their training keep; `cleaning`: what was made of their samples. `lost`: clients without an update, whose rows mean
    nothing.
    """

    cohort: Cohort
    trained: Tensor
    updates: LocalUpdates
    twinned: Tensor
    twins: Twins
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

    def own(self, group: int) -> LocalUpdates:
        """What the training of a group's attackers gives [n_malicious, d]; no rows if nobody looks at it."""
        return self._of(self.cohort.group == group)

    def behaved(self, group: int) -> LocalUpdates:
        """The same where they behave; what their training gives if they do, or if nobody looks at it apart."""
        members = self.cohort.group == group
        return self.twins[members[self.twinned]] if self.twinned[members].any() else self.own(group)

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
            twinned=self.twinned[left],
            twins=self.twins[left[self.twinned]],
        )

    def attacked(self, crafted: Mapping[int, Tensor]) -> Updates | list[Tensor]:
        """What the cohort sends if some groups of attackers send these rows; `updates` may be changed by it.

        A list of rows if the malicious ones do not fit in a matrix.
        """
        if not crafted:
            return self.updates
        masks = {group: self.cohort.group == group for group in crafted}
        if all(self._fits(rows, masks[group]) for group, rows in crafted.items()):
            sent = self.updates
            if not self.trained.all():
                sent = sent.new_empty(len(self.trained), sent.shape[1])
                sent[self.trained] = self.updates
            for group, rows in crafted.items():
                sent[masks[group]] = rows.to(sent.dtype)
            return sent
        turns = {group: iter(_apart(rows, int(masks[group].sum()))) for group, rows in crafted.items()}
        trained = iter(self.updates)
        own = [next(trained) if trains else None for trains in self.trained.tolist()]
        pairs = zip(self.cohort.group.tolist(), own, strict=True)
        return [next(turns[group]) if group in turns else row for group, row in pairs]

    def _fits(self, rows: Tensor, mask: Tensor) -> bool:
        exact = rows.is_floating_point() and rows.dtype.itemsize <= self.updates.dtype.itemsize
        return exact and rows.shape == (int(mask.sum()), self.updates.shape[1])


def _apart(rows: Tensor, count: int) -> Sequence[Tensor]:
    """What each of so many attackers sends: its row, or all of it where there is none for each."""
    return list(rows) if rows.dim() and len(rows) == count else [rows] * count
