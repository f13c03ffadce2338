"""A user's own table or folder of parquet files."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedpoison.contract.registry import dataset
from fedpoison.data import Dataset
from fedpoison.data.columns import Choice, counted, listed, places
from fedpoison.data.reading import Column, Named, Reading
from fedpoison.data.tables import (
    Parts,
    for_testing,
    from_parts,
    no_column,
    numbered,
    numbered_clients,
    read,
    read_clients,
    read_labels,
)
from fedpoison.types import Count, Share

Names = list[str] | None


@dataset(licence="the user's own", contents=("file",), revision=1)
def csv(
    *,
    file: str = "",
    label: str = "label",
    client: str | None = None,
    test_share: Share = 0.2,
    missing: Names = None,
    drop: Names = None,
    columns: Names = None,
    categories: Count | None = None,
) -> Dataset:
    """A CSV file with a header: numbers standardised, words one-hot; every so-many-th row of a class is for testing.

    `label` and `client` are columns; `client` says whom a row belongs to, for the natural partition. All others are
    features, or those in `columns`, or all but those in `drop`. Among numbers nothing, ?, NA, null and the like are a
    missing value, and whatever `missing` lists is one everywhere: of numbers the mean of those of the train part, of
    words none. A column with more than 100 different words is refused, or with more than 10 that look like identifiers,
    dates or numbers; `categories` says how many it may have instead.
    """
    path = Path(file).expanduser()
    if not os.path.isfile(path):
        raise ValueError(f"csv: there is no file {file!r}: name it in `[data] file`")
    try:
        choice = _choice(missing, drop, columns, categories)
        return from_parts(_csv_parts(path, label, test_share), label, client, choice)
    except (pl.exceptions.PolarsError, ValueError) as error:
        raise ValueError(f"csv: {path}: {error}") from error


@dataset(licence="the user's own", contents=("folder",), revision=1)
def parquet(
    *,
    folder: str = "",
    sample: str = "",
    label: str = "label",
    client: str | None = None,
    missing: Names = None,
    drop: Names = None,
    columns: Names = None,
    categories: Count | None = None,
) -> Dataset:
    """A folder of parquet files, train* and test* as the Hugging Face hub lays them out.

    `sample` is the column of pictures (encoded, as {bytes, path} or bytes) or of lists of numbers; unless given,
    `image` or `img` where there is one, and else the other columns make a table, as those of a csv do. Pictures become
    float32 in [0, 1], [N, C, H, W], and must be of one size; lists of unsigned bytes are scaled alike, other lists are
    not. `client` says whom a row belongs to. Labels are numbers from 0 on, or words.
    """
    if not folder:
        raise ValueError("parquet: name the folder in `[data] folder`")
    path = Path(folder).expanduser()
    try:
        choice = _choice(missing, drop, columns, categories)
        parts = _parquet_parts(path)
        chosen = _sample(parts, sample)
        if not chosen:
            return from_parts(parts, label, client, choice)
        if choice != Choice():
            raise ValueError(f"missing, drop, columns and categories are for tables, and {chosen!r} holds the samples")
        return _with_samples(parts, chosen, label, client)
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        raise ValueError(f"parquet: {path}: {error}") from error


def describe(place: Path, label: str, client: str | None, test_share: float, sample: str, choice: Choice) -> Reading:
    """How a CSV file, or a folder of parquet files, is read, problems included; ValueError where it cannot be."""
    try:
        if os.path.isfile(place):
            return read(_csv_parts(place, label, test_share), label, client, choice)[0]
        if not os.path.isdir(place):
            raise ValueError("there is no such file or folder")
        parts = _parquet_parts(place)
        chosen = _sample(parts, sample)
        return _read_samples(parts, chosen, label, client) if chosen else read(parts, label, client, choice)[0]
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        raise ValueError(f"{place}: {error}") from error


def _choice(missing: Names, drop: Names, columns: Names, categories: int | None) -> Choice:
    chosen = None if columns is None else tuple(columns)
    return Choice(tuple(missing or ()), tuple(drop or ()), chosen, categories)


def _csv_parts(path: Path, label: str, test_share: float) -> Parts:
    """The train and the test rows of a CSV file, named by their lines; without a label all are for training."""
    frame = pl.read_csv(path, infer_schema_length=None)
    if frame.is_empty():
        raise ValueError("there is no row below the header")
    test = np.zeros(len(frame), dtype=np.bool_)
    if label in frame.columns:
        test = for_testing(frame[label], test_share)
    rows = np.concatenate([np.flatnonzero(~test), np.flatnonzero(test)])
    chosen, whole = pl.Series(test), path.read_bytes().rstrip(b"\n").count(b"\n") == len(frame)
    where = (lambda i: f"line {rows[i] + 2}") if whole else lambda i: f"row {rows[i] + 1}"  # cells may have lines
    return Parts(frame.filter(~chosen), frame.filter(chosen), where)


def _parquet_parts(path: Path) -> Parts:
    files = {part: sorted(path.rglob(f"{part}*.parquet")) for part in ("train", "test")}
    missing = [part for part, found in files.items() if not found]
    if missing:
        raise ValueError(f"there is no {missing[0]}*.parquet")
    train, test = (pl.concat(map(pl.read_parquet, found)) for found in files.values())
    return Parts.of(train, test)


def _sample(parts: Parts, sample: str) -> str:
    """The column of pictures or lists, or nothing."""
    return sample or next((name for name in ("image", "img") if name in parts.train.columns), "")


def _with_samples(parts: Parts, sample: str, label: str, client: str | None) -> Dataset:
    reading = _read_samples(parts, sample, label, client)
    reading.refuse()
    named = not parts.train[label].dtype.is_integer()  # other labels are numbers already
    train, test = (
        torch.from_numpy(part[label].to_numpy().astype(np.int64))
        if not named
        else numbered(parts.train[label], part[label])
        for part in (parts.train, parts.test)
    )
    images = [_samples(part[sample], name) for part, name in ((parts.train, "train"), (parts.test, "test"))]
    owners = numbered_clients(parts.train[client]) if client else None
    return Dataset(images[0], train, images[1], test, len(reading.labels), clients=owners, reading=reading)


def _read_samples(parts: Parts, sample: str, label: str, client: str | None) -> Reading:
    """What becomes of a folder of pictures or lists: the other columns are not used."""
    known = parts.train.columns
    roles = {name: role for name, role in ((sample, "sample"), (client, "client"), (label, "label")) if name}
    problems = tuple(no_column(name, known, role) for name, role in roles.items() if name not in known)
    columns: list[Column] = []
    labels: tuple[Named, ...] = ()
    clients: tuple[Named, ...] = ()
    for name in known:
        role, missing = roles.get(name, ""), parts.train[name].null_count()
        if role == "label":
            column, labels = read_labels(parts, name, Choice(), numbers_as_they_are=True)
        elif role == "client":
            column, clients = read_clients(parts, name, Choice())
        else:
            became = "the samples" if role else f"left out: {sample} holds the samples"
            column = Column(name, role, missing, became)
        columns.append(column)
    return Reading(tuple(columns), labels, clients, problems)


def _samples(column: pl.Series, part: str) -> Tensor:
    if column.dtype == pl.Struct:
        column = column.struct.field("bytes")
    if column.null_count():
        lost = np.flatnonzero(column.is_null().to_numpy())
        found = places(lost, lambda i: f"row {i} of {part}")
        raise ValueError(f"{counted(len(lost), 'row')} without a sample, {column.name!r}: {found}")
    if column.dtype == pl.Binary:
        pictures = [_picture(content, f"row {row} of {part}") for row, content in enumerate(column)]
        shapes = sorted({picture.shape for picture in pictures})
        if len(shapes) > 1:
            raise ValueError(f"the pictures are not all of one size and colour: {listed(shapes)}")
        return torch.from_numpy(np.stack(pictures).astype(np.float32) / 255)
    try:
        numbers = np.array(column.to_list(), dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the lists in {column.name!r} are not numbers, or not all of one length") from error
    numbers = numbers[:, None] if numbers.ndim == 3 else numbers  # grey pictures
    return torch.from_numpy(numbers / 255 if _of_bytes(column.dtype) else numbers)


def _of_bytes(kind: Any) -> bool:
    while isinstance(kind, pl.List | pl.Array):
        kind = kind.inner
    return bool(kind == pl.UInt8)


def _picture(content: bytes, where: str) -> NDArray[np.uint8]:
    from PIL import Image  # slow to import, and only pictures need it

    try:
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        size = counted(len(content), "byte")
        raise ValueError(f"{where}: these {size} are no picture that can be read ({type(error).__name__})") from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
