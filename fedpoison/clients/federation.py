"""Who holds which samples, clean and poisoned, and who takes part in a round."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedpoison.common.parallel import in_parallel
from fedpoison.common.rounding import half_up
from fedpoison.common.seeding import Stream
from fedpoison.contract.entry import Entry, Step
from fedpoison.data import Dataset
from fedpoison.data.augment import Augment
from fedpoison.types import ClientIds, Images, Labels, Sizes, Stamp


@dataclass(frozen=True)
class Shard:
    """One client's samples: rows `index` of `images` and `labels`.

    `stamps`: triggers of an attack that are set when a sample is trained on, after its augmentation. `changed` [n]:
    which of them an attack changed, or whose labels; nobody but who measures looks at it.
    """

    images: Images
    labels: Labels
    index: Tensor
    stamps: tuple[Stamp, ...] = ()
    changed: Tensor | None = None

    def __len__(self) -> int:
        return len(self.index)

    @property
    def poison(self) -> Tensor:
        """Which of its samples [n] an attack changed."""
        return torch.zeros(len(self), dtype=torch.bool) if self.changed is None else self.changed

    def of(self, kept: Tensor) -> "Shard":
        """Some of its samples: those at these places [m], in this order."""
        changed = None if self.changed is None else self.changed[kept]
        return replace(self, index=self.index[kept], changed=changed)

    def stamp(self, images: Images, rows: Tensor) -> None:
        """Set the triggers on these images, in place: what augmentation made of the samples in these rows.

        A trigger sees and returns pictures that lie in main memory.
        """
        for stamp, turns in zip(self.stamps, self._turns, strict=True):
            turn = turns[rows.cpu()]
            marked = (turn >= 0).nonzero().flatten()
            if len(marked):
                images[marked] = stamp(images[marked].cpu(), turn[marked]).to(images.device)

    @cached_property
    def _turns(self) -> list[Tensor]:
        """For each stamp the place of every row among those that get it, −1 for the others."""
        turns = [torch.full((len(self.labels),), -1) for _ in self.stamps]
        for turn, stamp in zip(turns, self.stamps, strict=True):
            turn[stamp.places] = torch.arange(len(stamp.places))
        return turns


class Federation:
    """A data set split over clients by a partition.

    `poison(client, index)` gives a client's samples when they are attacked.
    `root` and `validation` train samples are set apart for the server first: no client has any of them.
    `held_out` is the share of each client's samples, rounded half up, on which it does not train.
    """

    def __init__(
        self,
        dataset: Dataset,
        partition: Step,
        clients: int,
        seed: int,
        poison: Callable[[int, Tensor], Shard] | None = None,
        *,
        root: int = 0,
        validation: int = 0,
        held_out: float = 0.0,
        augment: Augment | None = None,
    ) -> None:
        self.dataset, self.clients, self.seed, self.poisoner, self.augment = dataset, clients, seed, poison, augment
        self._root, self._validation, rest = _set_apart(len(dataset.train_labels), root, validation, seed)
        if clients > len(rest):
            raise ValueError(f"{len(rest)} samples are too few for {clients} clients, who need one each at least")
        entry, options = partition
        rng = Stream(seed, "partition").numpy()
        labels = dataset.train_labels.numpy()[rest]
        supply = {"labels": labels, "n_clients": clients, "rng": rng}
        if "clients" in entry.asks:
            if dataset.clients is None:
                raise ValueError(f"partition {entry.name}: these data do not say whom a sample belongs to")
            supply["clients"] = dataset.clients.numpy()[rest]
        indices = _whole_numbers(entry, entry.call(supply, options, Stream(seed, "partition")))
        _check_split(entry.name, indices, clients, len(labels))
        whole = [rest[index] for index in indices]
        parts = [_hold_out(index, held_out, Stream(seed, "held_out", client=i)) for i, index in enumerate(whole)]
        self._indices = [torch.from_numpy(train) for train, _ in parts]
        self._held_out = [torch.from_numpy(held) for _, held in parts]
        self._poisoned: dict[int, Shard] = {}

    @property
    def server(self) -> int:
        """The server's number among those who hold samples: it comes after the last client's."""
        return self.clients

    @property
    def root(self) -> Shard:
        """The server's own clean samples."""
        return self._clean(self._root)

    @property
    def validation(self) -> Shard:
        """The samples on which settings are chosen."""
        return self._clean(self._validation)

    def held_out(self, client: int) -> Shard:
        """The samples that a client keeps to see how well the model does on its own data."""
        return self._clean(self._held_out[client])

    def _clean(self, index: Tensor) -> Shard:
        return Shard(self.dataset.train_images, self.dataset.train_labels, index)

    def shard(self, client: int, poisoned: bool = False) -> Shard:
        """A client's samples, as it trains on them when it behaves or when it attacks the data.

        The root set is the server's.
        """
        if client == self.server:
            return self.root
        index = self._indices[client]
        if not poisoned or self.poisoner is None:
            return self._clean(index)
        self.poison([client])
        return self._poisoned[client]

    def poison(self, clients: Iterable[int]) -> None:
        """Poison the samples of these clients, unless it is done; crafting may take long, so it is done in parallel."""
        if (poison := self.poisoner) is None:
            return
        missing = [client for client in dict.fromkeys(clients) if client not in self._poisoned]
        made = in_parallel(lambda client: poison(client, self._indices[client]), missing)
        self._poisoned.update(zip(missing, made, strict=True))

    @property
    def untouched(self) -> set[int]:
        """Clients, of those that were poisoned so far, of whom no sample and no label was changed."""
        made = self._poisoned.copy()  # in other threads more may be poisoned meanwhile
        return {client for client, shard in made.items() if not shard.poison.any()}

    @property
    def largest(self) -> int:
        """Samples of the client that has most, or of the root set if that is larger."""
        return max(len(self._root), *map(len, self._indices))

    def sizes(self, ids: ClientIds) -> Sizes:
        """Samples of each client, as the server knows them."""
        return torch.tensor([len(self._indices[i]) for i in ids.tolist()], dtype=torch.float64)

    def skew(self, ids: ClientIds) -> Tensor:
        """Each client's label skew [n]: how far its labels' distribution is from all clients'."""
        return self._skews[ids]

    @cached_property
    def _skews(self) -> Tensor:
        return self.dataset.task.skew(self.dataset.train_labels, self._indices)

    def cohort(self, round: int, per_round: int, among: Tensor | None = None) -> ClientIds:
        """The ids of this round's clients, ascending; drawn without replacement if not all take part.

        `among`: those who may be drawn, ascending, if not all; where they are fewer, they are the cohort.
        """
        known = torch.arange(self.clients) if among is None else among
        if per_round >= len(known):
            return known
        drawn = Stream(self.seed, "cohort", round).numpy().choice(len(known), per_round, replace=False)
        return known[torch.from_numpy(np.sort(drawn))]


def _set_apart(samples: int, root: int, validation: int, seed: int) -> tuple[Tensor, Tensor, NDArray[np.int64]]:
    """Random samples for the root and the validation set, and what is left, ascending."""
    if root + validation >= samples:
        raise ValueError(f"root = {root} and validation = {validation} leave nothing of {samples} train samples")
    order = Stream(seed, "apart").numpy().permutation(samples) if root + validation else np.arange(samples)
    parts = (order[:root], order[root : root + validation], order[root + validation :])
    first, second, rest = map(np.sort, parts)
    return torch.from_numpy(first), torch.from_numpy(second), rest


def _hold_out(index: NDArray[np.int64], share: float, stream: Stream) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A shard without its held-out samples, and these."""
    count = min(half_up(share * len(index)), len(index) - 1)  # one is left to train on
    held = stream.numpy().permutation(len(index)) < count
    return index[~held], index[held]


def _whole_numbers(entry: Entry, made: Any) -> list[NDArray[np.int64]]:
    """The index arrays that a partition made."""
    if not isinstance(made, Iterable):
        raise entry.fault(f"must return a list with an index array for each client, not {type(made).__name__}")
    indices = [np.asarray(index) for index in made]
    for index in indices:
        if index.ndim != 1 or (len(index) and index.dtype.kind not in "iu"):
            raise entry.fault(f"must return index arrays of whole numbers, not {index.shape} of {index.dtype}")
    return [index.astype(np.int64) for index in indices]


def _check_split(name: str, indices: list[NDArray[np.int64]], clients: int, samples: int) -> None:
    if len(indices) != clients:
        raise ValueError(f"partition {name} made {len(indices)} shards for {clients} clients")
    empty = [client for client, index in enumerate(indices) if not len(index)]
    if empty:
        shown = ", ".join(map(str, empty[:5])) + (", …" if len(empty) > 5 else "")
        raise ValueError(f"partition {name} left {len(empty)} of {clients} clients without samples: {shown}")
    together = np.concatenate(indices)
    if together.min() < 0 or together.max() >= samples or len(np.unique(together)) != len(together):
        raise ValueError(f"partition {name} gave a sample twice, or one that is not among 0 to {samples - 1}")
