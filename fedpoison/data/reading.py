"""How a table was read: what became of each column, and which numbers labels and clients got."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Column:
    """What became of a column; `kind`: number, words, label, client, picture, list, or what cannot be taken.

    `problem` is why a table with it is refused, if it is.
    """

    name: str
    kind: str
    missing: int
    became: str
    features: int = 0
    problem: str = ""


@dataclass(frozen=True)
class Named:
    """A label or a client by its name in the file, with its train and test samples (None: nobody asks)."""

    name: str
    train: int
    test: int | None = None


@dataclass(frozen=True)
class Reading:
    """A table's columns in order, and labels and clients by their numbers; `problems` are not of one column alone."""

    columns: tuple[Column, ...]
    labels: tuple[Named, ...] = ()
    clients: tuple[Named, ...] = ()
    problems: tuple[str, ...] = ()

    def refuse(self) -> None:
        """ValueError with all that is wrong, if anything is."""
        if found := self.wrong():
            raise ValueError("\n  ".join(found))

    def wrong(self) -> list[str]:
        """What is wrong, a line each, and last how to leave out the columns that are refused."""
        refused = [column for column in self.columns if column.problem]
        names = [column.name for column in refused if column.kind not in ("label", "client")]
        advice = [f"to leave {'it' if len(names) == 1 else 'them'} out: drop = {quoted(names)}"] if names else []
        return [*self.problems, *(column.problem for column in refused), *advice]

    def describe(self) -> dict[str, Any]:
        """The same as plain values, for machines."""
        return {**asdict(self), "wrong": self.wrong()}


def quoted(names: Iterable[str]) -> str:
    """Names as TOML writes a list of them."""
    return json.dumps(list(names), ensure_ascii=False)
