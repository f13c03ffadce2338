"""The keys of the TOML: what may have been meant by one that there is not, and what a shell completes."""

from collections.abc import Iterator
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel

from fedpoison.common.spelling import among, close
from fedpoison.contract.component import Component

EXPERIMENT = ("seeds", "paired_clean", "sweep", "tune")
"""The keys that stand for several runs; those of one run are its Config's."""


def instead(key: str, config: type[BaseModel]) -> str:
    """What there is instead of a dotted key: one beside it, one elsewhere, or the list of those beside it."""
    table, _, last = key.rpartition(".")
    known = keys(config)
    beside = [k.removeprefix(f"{table}.") for k in known if k.rpartition(".")[0] == table]
    by_last: dict[str, str] = {}
    for k in known:
        by_last.setdefault(k.rpartition(".")[2], k)
    elsewhere = close(last, by_last)
    if elsewhere and not close(last, beside):
        return f"did you mean {by_last[elsewhere]!r}?"
    return among(last, beside, "keys")


@cache
def keys(config: type[BaseModel]) -> tuple[str, ...]:
    """All dotted keys of an experiment's TOML but the options of algorithms, tables before their parts."""
    return (*_keys(config, ""), *EXPERIMENT)


def _keys(table: Any, prefix: str) -> Iterator[str]:
    if not (isinstance(table, type) and issubclass(table, BaseModel)) or table is Component:
        return
    for name, field in table.model_fields.items():
        key = f"{prefix}{'name' if name == 'dataset' else name}"
        yield key
        for part in (field.annotation, *get_args(field.annotation)):
            yield from _keys(part, f"{key}.")
