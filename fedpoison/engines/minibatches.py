"""The minibatches of a stack of clients, where the training is."""

from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedpoison.clients.federation import Federation, Shard
from fedpoison.clients.training import Local, batches
from fedpoison.common.seeding import Stream
from fedpoison.data.augment import Augment


class Place:
    """The device on which clients are trained, with the data set and every poisoned shard, once each."""

    def __init__(self, federation: Federation, device: str) -> None:
        self.device = device
        self._held: dict[int, tuple[Tensor, Tensor]] = {}
        self.shard(federation.root)

    def shard(self, shard: Shard) -> Shard:
        """The same samples on the device, in rows that lie one after the other."""
        return replace(shard, images=self._hold(shard.images), labels=self._hold(shard.labels))

    def _hold(self, values: Tensor) -> Tensor:
        if id(values) not in self._held:
            self._held[id(values)] = values, values.to(self.device).contiguous()
        return self._held[id(values)][1]


@dataclass(frozen=True)
class Batches:
    """All batches of a stack of K clients.

    `index` [steps, K, width]: rows of the samples in each client's of the `shards`; `labels` [steps, K, width]: theirs;
    `counts` [steps, K]: each batch's size, as numbers that stay here. A batch is padded to the width with its own first
    row, whose share of the gradient is then 0; another client's row could be NaN, and 0 · NaN is not 0. Where a client
    is done its batches have size 0. `draws` [steps, K, width, 3]: what the augmentation does to each sample.
    """

    shards: tuple[Shard, ...]
    index: Tensor
    labels: Tensor
    counts: NDArray[np.int64]
    augment: Augment | None
    draws: Tensor

    def held_by(self, place: Place) -> "Batches":
        """The same with its tensors where the training is."""
        index, labels, draws = (values.to(place.device) for values in (self.index, self.labels, self.draws))
        return replace(self, shards=tuple(map(place.shard, self.shards)), index=index, labels=labels, draws=draws)

    def inputs(self, step: int, active: int, out: Tensor) -> Tensor:
        """The samples [active · width, *] of the first clients' batches in this step, `out` if it serves.

        Clients that stand together and share a data set are served together; poisoned ones have samples of their own.
        """
        width, first = self.index.shape[2], 0
        for _, sharing in groupby(self.shards[:active], key=lambda shard: id(shard.images)):
            images, *others = (shard.images for shard in sharing)
            end = first + 1 + len(others)
            rows = self.index[step, first:end].flatten()
            torch.index_select(images.flatten(1), 0, rows, out=out[first * width : end * width])
            first = end
        flat = out[: active * width]
        if not self.augment:
            return flat
        shape = self.shards[0].images.shape[1:]
        images = self.augment(flat.view(-1, *shape), self.draws[step, :active].flatten(0, 1))
        for shard, batch, rows in zip(self.shards, images.split(width), self.index[step], strict=False):
            shard.stamp(batch, rows)
        return images.flatten(1)


def batches_of(
    shards: list[Shard], streams: list[Stream], local: Local, width: int, augment: Augment | None
) -> Batches:
    """All batches of these clients, in the order in which the oracle takes them."""
    steps, within = local.step_count(len(shards[0])), np.arange(width)
    index, labels = (np.zeros((steps, len(shards), width), dtype=np.int64) for _ in range(2))
    counts = np.zeros((steps, len(shards)), dtype=np.int64)
    draws = torch.zeros(steps, len(shards), width, 3, dtype=torch.int64) if augment else torch.empty(0)
    for i, (shard, stream) in enumerate(zip(shards, streams, strict=True)):
        order = list(batches(stream, len(shard), local))
        sizes = np.array([len(batch) for batch in order])
        rows = shard.index.numpy()[np.concatenate(order)]
        real = within < sizes[:, None]
        mine = index[: len(order), i]
        mine[:] = rows[sizes.cumsum() - sizes][:, None]
        mine[real] = rows
        labels[: len(order), i] = shard.labels.numpy()[mine]
        counts[: len(order), i] = sizes
        if augment:
            drawn = torch.cat(augment.draws(stream.of("augment"), sizes.tolist()))
            draws[: len(order), i][torch.from_numpy(real)] = drawn
    return Batches(tuple(shards), torch.from_numpy(index), torch.from_numpy(labels), counts, augment, draws)


def aligned(size: int) -> int:
    """The next multiple of 16: every slot then starts on a cache line, for products may round by alignment."""
    return -(-size // 16) * 16
