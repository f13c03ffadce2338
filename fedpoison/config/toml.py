"""Files of TOML."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedpoison.common.errors import ConfigError


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; ConfigError if it cannot be read."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors begin with a byte-order mark
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror or error}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path} is not TOML, which is UTF-8: {error}"]) from error
    except ValueError as error:  # TOMLDecodeError is one, and a number of thousands of digits is another
        raise ConfigError([f"{path} is not TOML: {error}"]) from error
    except RecursionError as error:
        raise ConfigError([f"{path}: {_TOO_DEEP}"]) from error
    try:
        check_depth(table)
    except ConfigError as error:
        raise ConfigError([f"{path}: {error}"]) from error
    return table


_DEPTH = 20
_TOO_DEEP = f"tables and lists are at most {_DEPTH} deep in each other"


def check_depth(table: Mapping[str, Any]) -> None:
    """ConfigError for tables and lists that nobody could follow, and numbers that nobody could print."""
    level: list[Any] = [table]
    for _ in range(_DEPTH):
        inner = [part for each in level for part in (each.values() if isinstance(each, Mapping) else each)]
        if any(isinstance(part, int) and part.bit_length() > 4096 for part in inner):
            raise ConfigError(["a number has more than a thousand digits"])
        level = [part for part in inner if isinstance(part, Mapping | list | tuple)]
        if not level:
            return
    raise ConfigError([_TOO_DEEP])
