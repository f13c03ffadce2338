"""Tables as data sets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedpoison.data import Dataset
from fedpoison.data.columns import FEW, Choice, Where, cleaned, counted, features_of, listed, places
from fedpoison.data.reading import Column, Named, Reading


@dataclass(frozen=True)
class Parts:
    """A table's train and test rows; `where` names a row, counted through both, for an error's sentence."""

    train: pl.DataFrame
    test: pl.DataFrame
    where: Where

    @staticmethod
    def of(train: pl.DataFrame, test: pl.DataFrame) -> "Parts":
        """Two tables, each with its rows counted from 0."""
        return Parts(train, test, lambda i: f"row {i} of train" if i < len(train) else f"row {i - len(train)} of test")

    def column(self, name: str) -> pl.Series:
        """A column, train and test part; ValueError where the test part has none."""
        if name not in self.test.columns:
            raise ValueError(f"there is no column {name!r} in the test part; there are {', '.join(self.test.columns)}")
        return pl.concat([self.train[name], self.test[name]])


def from_frames(train: pl.DataFrame, test: pl.DataFrame, label: str, client: str | None = None) -> Dataset:
    """The data set of two tables of which each column is known to be a feature, see `from_parts`."""
    return from_parts(Parts.of(train, test), label, client, Choice(categories=max(1, len(train))))


def from_parts(parts: Parts, label: str, client: str | None, choice: Choice) -> Dataset:
    """A data set of the columns that were chosen; `client` names the one that says whom a row belongs to.

    Numbers (and booleans) are standardised with the train part's mean and deviation, a missing one being the mean;
    words are one-hot over those of the train part, a missing or new one being none of them. Classes are the label's
    values in ascending order. Columns that do not vary in the train part are left out. ValueError for a column that
    there is not, that is infinite somewhere or has too many words, for rows without a label or with one that no train
    row has.
    """
    reading, blocks = read(parts, label, client, choice)
    reading.refuse()
    if not blocks:
        raise ValueError("no column but the label varies")
    both = torch.from_numpy(np.concatenate(blocks).T.astype(np.float32))
    labels, n_train = numbered(parts.train[label], parts.column(label)), len(parts.train)
    return Dataset(
        both[:n_train].contiguous(),
        labels[:n_train],
        both[n_train:].contiguous(),
        labels[n_train:],
        len(reading.labels),
        clients=numbered_clients(parts.train[client]) if client else None,
        reading=reading,
    )


def read(parts: Parts, label: str, client: str | None, choice: Choice) -> tuple[Reading, list[NDArray[Any]]]:
    """What becomes of a table, with all that is wrong, and the features of each column that has some.

    ValueError where a column that is asked for is not there; without a label the others are read all the same.
    """
    choice.check(parts.train.columns)
    columns: list[Column] = []
    blocks: list[NDArray[Any]] = []
    labels: tuple[Named, ...] = ()
    clients: tuple[Named, ...] = ()
    problems = [
        no_column(name, parts.train.columns, role)
        for name, role in ((label, "label"), (client, "client"))
        if name is not None and name not in parts.train.columns
    ]
    for name in parts.train.columns:
        if name == label:
            column, labels = read_labels(parts, name, choice)
        elif name == client:
            column, clients = read_clients(parts, name, choice)
        elif reason := choice.leaves_out(name):
            column = Column(name, "", parts.train[name].null_count(), f"left out: {reason}")
        else:
            both = cleaned(parts.column(name), choice.missing)
            column, block = features_of(both, len(parts.train), choice, parts.where)
            blocks += [block] if len(block) else []
        columns.append(column)
    return Reading(tuple(columns), labels, clients, tuple(problems)), blocks


def read_labels(
    parts: Parts, name: str, choice: Choice, numbers_as_they_are: bool = False
) -> tuple[Column, tuple[Named, ...]]:
    """What becomes of the label's column, and the classes by their numbers.

    `numbers_as_they_are`: whole numbers are classes already, also where one of them has no sample.
    """
    both, train = parts.column(name), parts.train[name]
    lost = np.flatnonzero(cleaned(both, choice.missing).is_null().to_numpy())
    classes = train.unique().sort()
    found = f"the label {name!r} has {len(classes):,} different values in {len(train):,} train rows"
    unknown = sorted(set(map(str, parts.test[name].unique())) - set(map(str, classes)))
    problem = ""
    if len(lost):
        problem = f"{counted(len(lost), 'row')} without a label, {name!r}: {places(lost, parts.where)}"
    elif classes.dtype.is_float() and len(classes) > FEW and (classes != classes.floor()).any():
        problem = f"{found}, such as {classes[0]!r}: numbers to be predicted, it seems, and only classes can be"
    elif len(classes) > FEW and 2 * len(classes) > len(train):
        problem = f"{found}, too many to be classes: {listed(classes.cast(pl.String), 3)}"
    elif unknown:
        problem = f"the test part has labels [{listed(unknown, 5, repr)}] that no train row has"
    if problem:
        return Column(name, "label", len(lost), "refused", 0, problem), ()
    if numbers_as_they_are and train.dtype.is_integer():
        classes = pl.Series(range(int(classes[-1]) + 1))
    labels = numbered(classes, both)
    named = _named(classes.cast(pl.String), labels[: len(train)], labels[len(train) :])
    return Column(name, "label", 0, counted(len(named), "class")), named


def read_clients(parts: Parts, name: str, choice: Choice) -> tuple[Column, tuple[Named, ...]]:
    """What becomes of the column that says whom a row belongs to, and the clients by their numbers."""
    train = parts.train[name]
    lost = np.flatnonzero(cleaned(train, choice.missing).is_null().to_numpy())
    if len(lost):
        problem = f"{counted(len(lost), 'row')} without a {name!r}, which says whose it is: {places(lost, parts.where)}"
        return Column(name, "client", len(lost), "refused", 0, problem), ()
    named = _named(train.cast(pl.String).unique().sort(), numbered_clients(train))
    return Column(name, "client", 0, counted(len(named), "client")), named


def _named(names: pl.Series, train: Tensor, test: Tensor | None = None) -> tuple[Named, ...]:
    counts = [None if part is None else part.bincount(minlength=len(names)).tolist() for part in (train, test)]
    tests = counts[1] or [None] * len(names)
    return tuple(Named(*row) for row in zip(names, counts[0] or (), tests, strict=True))


def split(frame: pl.DataFrame, label: str, test_share: float) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Train and test rows: of each class in turn every so-many-th row is for testing, the same in every run."""
    if label not in frame.columns:
        raise ValueError(no_column(label, frame.columns, "label"))
    chosen = pl.Series(for_testing(frame[label], test_share))
    return frame.filter(~chosen), frame.filter(chosen)


def for_testing(labels: pl.Series, test_share: float) -> NDArray[np.bool_]:
    """Which rows `split` takes for testing."""
    if not 0 < test_share < 1:
        raise ValueError(f"test_share must be between 0 and 1, it is {test_share}")
    place, count = labels.arg_sort().to_numpy(), np.arange(len(labels))
    chosen = np.empty(len(labels), dtype=np.bool_)
    chosen[place] = np.floor((count + 1) * test_share) > np.floor(count * test_share)
    return chosen


def no_column(name: str, known: Sequence[str], role: str) -> str:
    """The sentence on a column that is asked for and is not there."""
    return f'there is no column {name!r}; there are {", ".join(known)}: name the {role}\'s, as in {role} = "…"'


def numbered(known: pl.Series, values: pl.Series) -> Tensor:
    """Labels int64 by the ascending order of those that are known."""
    return torch.from_numpy(known.unique().sort().search_sorted(values).to_numpy().astype(np.int64))


def numbered_clients(clients: pl.Series) -> Tensor:
    """Whom each row belongs to, int64, 0 to K − 1 in the names' order."""
    return torch.from_numpy(clients.cast(pl.String).rank("dense").to_numpy().astype(np.int64) - 1)
