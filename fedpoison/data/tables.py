"""Tables as data sets: numbers standardised, words one-hot, by what the train part has."""

import numpy as np
import polars as pl
import torch
from torch import Tensor

from fedpoison.data import Dataset


def from_frames(train: pl.DataFrame, test: pl.DataFrame, label: str, client: str | None = None) -> Dataset:
    """A data set of the other columns; `client` names the column that says whom a row belongs to.

    Numbers (and booleans) are standardised with the train part's mean and deviation, a missing one being the mean;
    words are one-hot over those of the train part, a missing or new one being none of them. Classes are the label's
    values in ascending order. Columns that do not vary in the train part are left out. ValueError for a column that
    there is not, or a test label that no train row has.
    """
    for name in (label, *([client] if client else [])):
        if name not in train.columns:
            raise ValueError(f"there is no column {name!r}; there are {', '.join(train.columns)}")
    *labels, n_classes = numbered_classes(train[label], test[label])
    blocks = [
        columns
        for name in train.columns
        if name not in (label, client) and len(columns := _columns(train[name], test[name]))
    ]
    if not blocks:
        raise ValueError("no column but the label varies")
    both = torch.from_numpy(np.concatenate(blocks).T.astype(np.float32))
    return Dataset(
        both[: len(train)].contiguous(),
        labels[0],
        both[len(train) :].contiguous(),
        labels[1],
        n_classes,
        clients=numbered_clients(train[client]) if client else None,
    )


def split(frame: pl.DataFrame, label: str, test_share: float) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Train and test rows: of each class in turn every so-many-th row is for testing, the same in every run."""
    if label not in frame.columns:
        raise ValueError(f"there is no column {label!r}; there are {', '.join(frame.columns)}")
    if not 0 < test_share < 1:
        raise ValueError(f"test_share must be between 0 and 1, it is {test_share}")
    place = frame[label].arg_sort().to_numpy()
    counted = np.empty(len(frame))
    counted[place] = np.floor((np.arange(len(frame)) + 1) * test_share) - np.floor(np.arange(len(frame)) * test_share)
    chosen = pl.Series(counted > 0)
    return frame.filter(~chosen), frame.filter(chosen)


def _columns(train: pl.Series, test: pl.Series) -> np.ndarray:
    """One column as rows of features [features, train and test samples]."""
    both = pl.concat([train, test])
    if train.dtype.is_numeric() or train.dtype == pl.Boolean:
        numbers = both.cast(pl.Float64).fill_nan(None)
        known = numbers[: len(train)].drop_nulls().to_numpy()
        mean, deviation = (float(np.mean(known)), float(np.std(known))) if len(known) else (0.0, 0.0)
        if not deviation > 0:
            return np.empty((0, len(both)))
        return ((numbers.fill_null(mean).to_numpy() - mean) / deviation)[None]
    words = both.cast(pl.String).to_numpy()
    known_words = train.cast(pl.String).drop_nulls().unique().sort().to_list()
    return np.array([words == word for word in known_words if (words[: len(train)] != word).any()]).reshape(
        -1, len(both)
    )


def numbered_classes(train: pl.Series, test: pl.Series) -> tuple[Tensor, Tensor, int]:
    """Labels int64 by the ascending order of the train part's, and how many classes; ValueError for any other one."""
    classes = train.unique().sort()
    unknown = set(test) - set(classes)
    if unknown or train.null_count():
        raise ValueError(
            f"the test part has labels {sorted(map(str, unknown))} that no train row has, or some are missing"
        )
    found = [torch.from_numpy(classes.search_sorted(part).to_numpy().astype(np.int64)) for part in (train, test)]
    return found[0], found[1], len(classes)


def numbered_clients(clients: pl.Series) -> Tensor:
    """Whom each row belongs to, int64, 0 to K − 1 in the names' order; ValueError where that is missing."""
    if clients.null_count():
        raise ValueError(f"{clients.null_count()} rows have no {clients.name!r}, which says whose they are")
    return torch.from_numpy(clients.cast(pl.String).rank("dense").to_numpy().astype(np.int64) - 1)
