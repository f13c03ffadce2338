"""One column of a table as features: numbers standardised, words one-hot, by what the train part has."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fedpoison.data.reading import Column, quoted

SIGNS = frozenset(
    ["", "?", "-", "--", ".", "na", "n/a", "n.a.", "#n/a", "#na", "<na>", "nan", "null", "none", "missing", "unknown"]
)
"""What stands for a missing number, in small letters. Among words each of these is a word like others."""
CATEGORIES = 100
FEW = 10
"""So many words are taken whatever they look like."""
_MONTH = r"(\d{1,2}|[A-Za-z]{3,9})"
_DATE = rf"^(\d{{4}}[-/. ]{_MONTH}[-/. ]\d{{1,2}}|\d{{1,2}}[-/. ]{_MONTH}[-/. ]\d{{2,4}})([T ].*)?$"
_WRITTEN_NUMBER = r"^[-+(]?\s*[$€£]?\s*\d[\d.,' ]*\s*[%$€£)]?$"

Where = Callable[[int], str]
"""Names a row, counted through train and test part, for an error's sentence."""


@dataclass(frozen=True)
class Choice:
    """Which columns are features: all, or `columns`, but for those to `drop`; and how many words one may have.

    `missing`: what stands for a missing value in any column, besides SIGNS among numbers.
    """

    missing: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None
    categories: int | None = None

    def check(self, known: Iterable[str]) -> None:
        """ValueError for a column that there is not, or for both `columns` and `drop`."""
        if self.columns is not None and self.drop:
            raise ValueError(f"columns = {quoted(self.columns)} and drop = {quoted(self.drop)} are alternatives")
        for option, names in (("drop", self.drop), ("columns", self.columns or ())):
            if unknown := [name for name in names if name not in known]:
                raise ValueError(f"{option}: there is no column {unknown[0]!r}; there are {', '.join(known)}")

    def leaves_out(self, name: str) -> str:
        """Why a column is no feature, or nothing."""
        if name in self.drop:
            return "drop"
        return "" if self.columns is None or name in self.columns else "not among columns"


def cleaned(column: pl.Series, missing: tuple[str, ...]) -> pl.Series:
    """The column with what stands for a missing value taken out; numbers, where it then holds nothing else."""
    if column.dtype == pl.String:
        column = column.set(column.is_in(missing).fill_null(False), None)
        stripped = column.str.strip_chars()
        known = stripped.set(stripped.str.to_lowercase().is_in(SIGNS).fill_null(False), None)
        numbers = known.cast(pl.Float64, strict=False)
        if numbers.null_count() > known.null_count():
            return column
        column = numbers
    if column.dtype.is_numeric():
        values = [value for value in map(_number, missing) if value is not None]
        numbers = column.cast(pl.Float64)
        lost = (numbers.is_nan() | numbers.is_in(values)).fill_null(False)
        column = column.set(lost, None) if lost.any() else column
    return column


def features_of(both: pl.Series, n_train: int, choice: Choice, where: Where) -> tuple[Column, NDArray[Any]]:
    """What becomes of a cleaned column, train and test part, and its features [features, train and test samples]."""
    if both.dtype.is_numeric() or both.dtype == pl.Boolean:
        return _numbers(both, n_train, where)
    if both.dtype.is_nested() or both.dtype in (pl.Binary, pl.Object):
        problem = f"column {both.name!r} holds {both.dtype}, and numbers or words are needed"
        return _refused(both, str(both.dtype), problem)
    return _words(both.cast(pl.String), n_train, choice)


def _refused(both: pl.Series, kind: str, problem: str) -> tuple[Column, NDArray[Any]]:
    return Column(both.name, kind, both.null_count(), "refused", 0, problem), np.empty((0, len(both)))


def _numbers(both: pl.Series, n_train: int, where: Where) -> tuple[Column, NDArray[Any]]:
    numbers, nothing = both.cast(pl.Float64), np.empty((0, len(both)))
    missing, kind = numbers.null_count(), "yes or no" if both.dtype == pl.Boolean else "number"
    refused = partial(_refused, both, kind)
    infinite = np.flatnonzero(numbers.is_infinite().fill_null(False).to_numpy())
    if len(infinite):
        text = quoted(sorted({str(numbers[int(i)]) for i in infinite}))
        found = f"column {both.name!r} has {counted(len(infinite), 'infinite value')} ({places(infinite, where)})"
        return refused(f"{found}: mend it, or let it count as missing: missing = {text}")
    known = numbers[:n_train].drop_nulls().to_numpy()
    with np.errstate(over="ignore", invalid="ignore"):
        mean, deviation = (float(np.mean(known)), float(np.std(known))) if len(known) else (0.0, 0.0)
    if not np.isfinite(deviation):
        largest = np.abs(known).max()
        return refused(f"column {both.name!r} has values up to {largest:g}, too large to be standardised")
    if not deviation > 0:
        became = f"left out: always {mean:g} in the train part" if len(known) else "left out: no train row has a value"
        return Column(both.name, kind, missing, became), nothing
    became = f"1 feature: mean {mean:.4g}, deviation {deviation:.4g}"
    became += "; what is missing is the mean" if missing else ""
    if both.dtype.is_integer() and len(both) > FEW and both.n_unique() == len(both):
        became += "; each row has another: an identifier?"
    made = ((numbers.fill_null(mean).to_numpy() - mean) / deviation)[None]
    return Column(both.name, kind, missing, became, 1), made


def _words(both: pl.Series, n_train: int, choice: Choice) -> tuple[Column, NDArray[Any]]:
    train, missing = both[:n_train].drop_nulls(), both.null_count()
    known = train.unique().sort().to_list()
    if reason := _too_many(train, known, choice):
        return _refused(both, "words", f"column {both.name!r} {reason}")
    words = both.to_numpy()
    varying = [word for word in known if (words[:n_train] != word).any()]
    made = np.array([words == word for word in varying]).reshape(-1, len(both))
    if not varying:
        became = f"left out: always {known[0]!r} in the train part" if known else "left out: no train row has a value"
        return Column(both.name, "words", missing, became), made
    became = f"{counted(len(varying), 'feature')}: {listed(varying)}"
    became += "; what is missing is none of them" if missing else ""
    if signs := [word for word in known if word.strip().lower() in SIGNS]:
        became += f"; a word like others, unless missing lists it: {listed(signs, 8, repr)}"
    return Column(both.name, "words", missing, became, len(varying)), made


def _too_many(train: pl.Series, known: list[str], choice: Choice) -> str:
    """Why a column of words is refused, with what to do, or nothing."""
    found = f"has {len(known):,} different words in {len(train):,} train rows ({listed(known, 3)})"
    owner = f"if it says whom a row belongs to, client = {json.dumps(train.name)}"
    if choice.categories is not None:
        return f"{found}, more than categories = {choice.categories}; {owner}" if len(known) > choice.categories else ""
    if len(known) <= FEW:
        return ""
    words = train.str.strip_chars()
    words = words.filter(~words.str.to_lowercase().is_in(SIGNS))
    numbers = words.cast(pl.Float64, strict=False)
    others = words.filter(numbers.is_null()).unique().sort().to_list()
    more = f"categories = {len(known)} takes it as words all the same"
    if 2 * len(others) < len(known) and 2 * numbers.null_count() < len(numbers):
        signs = quoted(others[:3])
        return f"holds numbers but for {listed(others, 3, repr)}: if that is what is missing, missing = {signs}; {more}"
    if words.str.contains(_DATE).all():
        return f"holds dates ({listed(known, 3)}): a number can stand for them, such as days since the first; {more}"
    if words.str.contains(_WRITTEN_NUMBER).all():
        return f"holds numbers with commas or signs ({listed(known, 3, repr)}): write them as 1234.5; {more}"
    if 2 * len(known) > len(train):
        return f"{found}, as identifiers or free text have; {owner}"
    if len(known) > CATEGORIES:
        return f"{found}, more than {CATEGORIES}; {owner}; {more}"
    return ""


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def counted(count: int, noun: str) -> str:
    """A number with its noun."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{plural if count != 1 else ''}"


def listed(names: Iterable[Any], most: int = 8, show: Callable[[Any], str] = str) -> str:
    """The first names, and that there are more."""
    shown = list(names)
    return ", ".join([*map(show, shown[:most]), *(["…"] if len(shown) > most else [])])


def places(rows: NDArray[np.int64], where: Where) -> str:
    """Where rows are, the first five of them."""
    return listed(rows.tolist(), 5, where)
