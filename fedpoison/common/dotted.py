"""Tables by dotted key."""

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A table's values by dotted key; a list of tables stays one value."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def differing(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys in which flat tables differ, in their order."""
    keys = dict.fromkeys(key for table in tables for key in table)
    return [key for key in keys if len({json.dumps(table.get(key)) for table in tables}) > 1]


def telling(tables: Sequence[Mapping[str, Any]], groups: Sequence[Hashable]) -> list[str]:
    """Keys by which flat tables of one group are told apart: as few as will do, names first, in their order."""
    found: list[str] = []
    keys = sorted(differing(tables), key=lambda key: not key.endswith(".name"))
    for key in keys:
        apart: dict[Any, list[Mapping[str, Any]]] = {}
        for table, group in zip(tables, groups, strict=True):
            apart.setdefault((group, *(json.dumps(table.get(k)) for k in found)), []).append(table)
        if any(len({json.dumps(table.get(key)) for table in alike}) > 1 for alike in apart.values()):
            found.append(key)
    return found


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Each key by its last part, or by as many as tell it from the others; a component's name by the component."""
    whole = {key: key.removesuffix(".name").split(".") for key in keys}
    short = dict.fromkeys(whole, 1)
    while True:
        said = {key: ".".join(parts[-short[key] :]) for key, parts in whole.items()}
        alike = [key for key in said if list(said.values()).count(said[key]) > 1 and short[key] < len(whole[key])]
        if not alike:
            return said
        short |= {key: short[key] + 1 for key in alike}


def titles(tables: Sequence[Mapping[str, Any]], names: Sequence[tuple[str, str]]) -> list[str]:
    """What to call runs beside each other: rule and attack, what tells those of one rule and attack apart, the seed.

    `tables`: their configurations, flat; `names`: each one's rule and attack.
    """
    settings = [
        {k: v for k, v in table.items() if k not in ("name", "seed", "workers") and not _idle(k, attack)}
        for table, (_, attack) in zip(tables, names, strict=True)
    ]
    groups = [(*name, table["seed"]) for name, table in zip(names, tables, strict=True)]
    keys = telling(settings, groups)
    said = short_names(keys)
    alike: dict[Hashable, list[Mapping[str, Any]]] = {}
    for group, table in zip(groups, settings, strict=True):
        alike.setdefault(group, []).append(table)
    found = []
    for group, table in zip(groups, settings, strict=True):
        own = set(differing(alike[group])) if len(alike[group]) > 1 else set()
        options = [f"{said[k]}={shown(table[k])}" for k in keys if k in own and table.get(k) is not None]
        found.append(" · ".join([*group[:2], *([" ".join(options)] if options else []), f"seed {group[2]}"]))
    return found


def _idle(key: str, attack: str) -> bool:
    """Whether it is the key of an attack that nobody does; what would be measured of it stays."""
    return attack == "none" and key.startswith("threat.") and not key.startswith("threat.data.")


def shown(value: Any) -> str:
    """A value in words: as JSON has it, and a file without the folders that it lies in."""
    return value.rsplit("/", 1)[-1] if isinstance(value, str) else json.dumps(value)
