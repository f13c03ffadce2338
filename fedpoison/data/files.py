"""A user's own table or folder of parquet files."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedpoison.data import Dataset
from fedpoison.data.tables import from_frames, numbered_classes, numbered_clients, split
from fedpoison.registry import dataset
from fedpoison.types import Share


@dataset(licence="the user's own", contents=("file",))
def csv(*, file: str = "", label: str = "label", client: str | None = None, test_share: Share = 0.2) -> Dataset:
    """A CSV file with a header: numbers standardised, words one-hot; every so-many-th row of a class is for testing.

    `label` and `client` are columns; `client` says whom a row belongs to, for the natural partition.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise ValueError(f"csv: there is no file {file!r}: name it in `[data] file`")
    try:
        frame = pl.read_csv(path, infer_schema_length=None)
        return from_frames(*split(frame, label, test_share), label=label, client=client)
    except (pl.exceptions.PolarsError, ValueError) as error:
        raise ValueError(f"csv: {path}: {error}") from error


@dataset(licence="the user's own", contents=("folder",))
def parquet(*, folder: str = "", sample: str = "", label: str = "label", client: str | None = None) -> Dataset:
    """A folder of parquet files, train* and test* as the Hugging Face hub lays them out.

    `sample` is the column of pictures (encoded, as {bytes, path} or bytes) or of lists of numbers; unless given,
    `image` or `img` where there is one, and else all other columns make a table. Pictures become float32 in [0, 1],
    [N, C, H, W], and must be of one size; lists of unsigned bytes are scaled alike, other lists are not. `client` says
    whom a row belongs to. Labels are numbers from 0 on, or words.
    """
    if not folder:
        raise ValueError("parquet: name the folder in `[data] folder`")
    path = Path(folder).expanduser()
    parts = {part: sorted(path.rglob(f"{part}*.parquet")) for part in ("train", "test")}
    missing = [part for part, files in parts.items() if not files]
    if missing:
        raise ValueError(f"parquet: there is no {missing[0]}*.parquet in {folder!r}")
    try:
        train, test = (pl.concat(map(pl.read_parquet, files)) for files in parts.values())
        chosen = sample or next((name for name in ("image", "img") if name in train.columns), "")
        if not chosen:
            return from_frames(train, test, label, client)
        return _with_samples(train, test, chosen, label, client)
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        raise ValueError(f"parquet: {path}: {error}") from error


def _with_samples(train: pl.DataFrame, test: pl.DataFrame, sample: str, label: str, client: str | None) -> Dataset:
    for name in (sample, label, *([client] if client else [])):
        if name not in train.columns:
            raise ValueError(f"there is no column {name!r}; there are {', '.join(train.columns)}")
    *labels, n_classes = numbered_classes(train[label], test[label])
    if train[label].dtype.is_integer():  # numbers are classes already, also where one of them has no sample
        labels = [torch.from_numpy(part[label].to_numpy().astype(np.int64)) for part in (train, test)]
        n_classes = int(labels[0].max()) + 1
    owners = numbered_clients(train[client]) if client else None
    return Dataset(_samples(train[sample]), labels[0], _samples(test[sample]), labels[1], n_classes, clients=owners)


def _samples(column: pl.Series) -> Tensor:
    if column.dtype == pl.Struct:
        column = column.struct.field("bytes")
    if column.null_count():
        raise ValueError(f"{column.null_count()} rows have no sample")
    if column.dtype == pl.Binary:
        pictures = [_picture(content) for content in column]
        shapes = sorted({picture.shape for picture in pictures})
        if len(shapes) > 1:
            raise ValueError(f"the pictures are not all of one size and colour: {', '.join(map(str, shapes))}")
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


def _picture(content: bytes) -> NDArray[np.uint8]:
    from PIL import Image  # slow to import, and only pictures need it

    with Image.open(io.BytesIO(content)) as image:
        pixels = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
