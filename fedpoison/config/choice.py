"""What --only and --set say. Light, so that commands which read results can load it."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedpoison.common.dotted import shown
from fedpoison.common.errors import ConfigError
from fedpoison.common.spelling import among, hint


@dataclass(frozen=True)
class Choice:
    """What --only says: words, and the values that are wanted of each key."""

    words: tuple[str, ...]
    values: Mapping[str, list[Any]]

    @classmethod
    def parse(cls, only: Sequence[str]) -> "Choice":
        """Words as they are, key=value as a key and a value of it."""
        values: dict[str, list[Any]] = {}
        for key, value in map(parse_assignment, (word for word in only if "=" in word)):
            values.setdefault(key, []).append(value)
        return cls(tuple(word for word in only if "=" not in word), values)

    def problems(self, cells: Sequence[Mapping[str, Any]], noun: str = "cell") -> list[str]:
        """The values that none of the cells has, a sentence each; a cell is what it has by dotted key."""
        found = []
        for key, wanted in self.values.items():
            had = [value_of(cell, key) for cell in cells if value_of(cell, key) is not None]
            if not had:
                keys = {k.removesuffix(".name") for cell in cells for k in cell}
                found.append(f"no {noun} has a key {key!r}; {hint(key, keys)}".rstrip("; "))
                continue
            missing = [shown(value) for value in wanted if not any(means(value, one) for one in had)]
            found += [f"no {noun} has {key}={v}; {among(v, set(map(shown, had)), 'values')}" for v in missing]
        return found


def value_of(cell: Mapping[str, Any], key: str) -> Any:
    """What a cell has by a key; a component by its name."""
    return cell.get(key, cell.get(f"{key}.name"))


def means(wanted: Any, value: Any) -> bool:
    """Whether a value is the one that was asked for; a file is known by its name alone too."""
    return bool(wanted == value or (isinstance(value, str) and wanted == shown(value)))


def parse_assignment(text: str) -> tuple[str, Any]:
    """`a.b=c` as a key and a value; the value is TOML, or a string where it is not."""
    key, found, value = text.partition("=")
    if not found or not key.strip():
        raise ConfigError([f"--set takes key=value, not {text!r}"])
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        return key.strip(), value.strip()
