"""Flower's ArrayRecords as one vector, and back; what a client sent is read with suspicion."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, RecordDict
from numpy.typing import NDArray
from torch import Tensor

from fedpoison.engines.received import numbers, said
from fedpoison.types import Layer, Params

STATISTICS = ("running_mean", "running_var", "num_batches_tracked", "moving_mean", "moving_variance")
"""What the names of running statistics end in, in torch and in Keras."""


@dataclass(frozen=True)
class Model:
    """What a client sent: its parameters [d], and the other arrays."""

    vector: Params
    others: Mapping[str, NDArray[Any]]


class Layout:
    """Which arrays a model has: the parameters make up the vector [d], in the record's order.

    The vector is float64 if any of them is, else float32. The others are kept apart: what holds no floating-point
    numbers, and running statistics, which are observed and not learned, as BatchNorm's of its inputs. These are known
    by their names, which end in one of STATISTICS or of `statistics`; ValueError if one of the latter is no array's.
    """

    def __init__(self, arrays: ArrayRecord, statistics: Collection[str] = ()) -> None:
        self._kinds = {key: (tuple(a.shape), a.dtype) for key, a in arrays.items()}
        if unknown := [end for end in statistics if not any(_ends_in(key, end) for key in self._kinds)]:
            raise ValueError(f"statistics: no array is called {', '.join(unknown)}; there are {', '.join(self._kinds)}")
        observed = (*STATISTICS, *statistics)
        self.keys = [
            key
            for key, (_, dtype) in self._kinds.items()
            if np.issubdtype(np.dtype(dtype), np.floating) and not any(_ends_in(key, end) for end in observed)
        ]
        self.others = [key for key in self._kinds if key not in self.keys]
        wide = any(self._kinds[key][1] == "float64" for key in self.keys)
        self.dtype = torch.float64 if wide else torch.float32
        ends = list(accumulate((int(np.prod(self._kinds[key][0])) for key in self.keys), initial=0))
        self.layers = tuple(
            Layer(key, slice(start, end), self._kinds[key][0])
            for key, (start, end) in zip(self.keys, pairwise(ends), strict=True)
        )

    @property
    def d(self) -> int:
        """How many parameters there are."""
        return self.layers[-1].columns.stop if self.layers else 0

    def read(self, content: RecordDict) -> "Model | str":
        """The model in a reply, or what is wrong with it; whether its vector is finite is left to the defence."""
        if len(content.array_records) != 1:
            return f"it has {len(content.array_records)} ArrayRecords, not 1"
        (arrays,) = content.array_records.values()
        if set(arrays) != set(self._kinds):
            differing = sorted(set(arrays) ^ set(self._kinds))
            return f"its arrays are others than the model's: {', '.join(map(said, differing[:3]))}"
        made: dict[str, NDArray[Any]] = {}
        for key, (shape, dtype) in self._kinds.items():
            found = numbers(arrays[key], shape, dtype, key)
            if isinstance(found, str):
                return found
            if key in self.others and np.issubdtype(dtype, np.inexact) and not np.isfinite(found).all():
                return f"{key} is not finite"
            made[key] = found
        return Model(self._joined(made), {key: made[key] for key in self.others})

    def vector(self, arrays: ArrayRecord) -> Params:
        """The parameters as one vector [d]."""
        return self._joined({key: arrays[key].numpy() for key in self.keys})

    def _joined(self, numbers: Mapping[str, NDArray[Any]]) -> Params:
        kind = np.float64 if self.dtype == torch.float64 else np.float32
        return torch.from_numpy(np.concatenate([numbers[key].ravel().astype(kind) for key in self.keys]))

    def forged(self, params: Params, update: Tensor, trained: ArrayRecord) -> ArrayRecord:
        """What an attacker sends for this update; one of another shape is sent as it is, as the first array alone."""
        if update.shape != params.shape:
            return ArrayRecord({self.keys[0]: Array(update.numpy())})
        return self.record(params + update.to(params.dtype), {key: trained[key] for key in self.others})

    def record(self, vector: Tensor, others: Mapping[str, Array]) -> ArrayRecord:
        """The arrays that the vector stands for, with these `others`, in the model's order."""
        made = dict(others)
        for layer in self.layers:
            _, dtype = self._kinds[layer.name]
            values = vector[layer.columns].reshape(layer.shape).numpy().astype(dtype)
            made[layer.name] = Array(np.asarray(values))
        return ArrayRecord({key: made[key] for key in self._kinds})


def _ends_in(key: str, end: str) -> bool:
    """Whether an array's name is `end`, or its last part is, after a dot or a slash."""
    return key == end or key.endswith((f".{end}", f"/{end}"))
