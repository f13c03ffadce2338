"""From one TOML to the runs it stands for: `[sweep]` spans a product, `seeds` repeats it, overrides change it.

`[[sweep]]`, an array of tables, is one product after the other; one with `subset = "name"` can be run alone.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from fedpoison.common.dotted import flatten
from fedpoison.common.errors import ConfigError
from fedpoison.config.choice import Choice, means, value_of
from fedpoison.config.config import Config, parse
from fedpoison.config.keys import EXPERIMENT
from fedpoison.config.toml import check_depth, read_toml


@dataclass(frozen=True)
class Experiment:
    """All runs of a TOML, and the paired clean runs they are compared with."""

    name: str
    folder: Path
    runs: tuple[Config, ...]
    clean: tuple[Config, ...]
    swept: Mapping[str, list[Any]] = field(default_factory=dict)


def load(
    source: str | Path | Mapping[str, Any] | Config,
    overrides: Mapping[str, Any] | None = None,
    only: Sequence[str] = (),
) -> Experiment:
    """Read and check an experiment; ConfigError names all that is wrong in any of its cells.

    `source`: a TOML file, its tables, or one run's Config. `overrides`: dotted keys and their values; they are set
    in every cell, after the sweep. `only`: subsets by name, or key=value; a cell is left out unless it is in one of the
    subsets and has, for each key, one of the values.
    """
    if isinstance(source, Config):
        source = source.table()
    check_depth(overrides or {})
    if isinstance(source, Mapping):
        check_depth(source)
        table, folder = copy.deepcopy(dict(source)), Path()
    else:
        table, folder = read_toml(Path(source)), Path(source).parent
    early: dict[str, Any] = {}
    late: dict[str, Any] = {}
    for key, value in (overrides or {}).items():
        (early if key.split(".")[0] in ("seed", *EXPERIMENT) else late)[key] = value
    put_all(table, early)
    table.pop("tune", None)
    choice = Choice.parse(only)
    _check_subsets(choice, table)
    seeds, paired, problems = _repetitions(table)
    runs: list[Config] = []
    try:
        spanned = [cell for subset, cell in cells(table) if not choice.words or subset in choice.words]
        for cell in spanned:
            put_all(cell, late)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    for cell in spanned:
        for seed in [cell["seed"]] if "seed" in cell else seeds:  # a swept seed
            try:
                runs.append(parse({**cell, "seed": seed}, folder))
            except ConfigError as error:
                problems += error.problems
    if problems:
        raise ConfigError(problems)
    known = {run.hash: {**flatten(run.table()), "rule": run.defence.rule, "attack": run.attack} for run in runs}
    unique = {run.hash: run for run in runs if _has(choice, known[run.hash])}
    runs = list(unique.values())
    if not runs or choice.values:
        problems = choice.problems(list(known.values()))
    if problems or not runs:
        raise ConfigError(problems or [f"no cell has {' and '.join(only)}"])
    clean = {c.hash: c for c in (run.clean() for run in runs if run.malicious)} if paired else {}
    alone = tuple(c for h, c in clean.items() if h not in unique)
    return Experiment(runs[0].name, folder, tuple(runs), alone, _swept(table))


def _check_subsets(choice: Choice, table: Mapping[str, Any]) -> None:
    """ConfigError for a subset that there is not."""
    known = [name for name, _ in _products(table) if name]
    unknown = [name for name in choice.words if name not in known]
    if unknown:
        has = f"the subsets are {', '.join(known)}" if known else "it has none"
        hint = "cells are chosen by what they have, such as rule={0} or attack={0}"
        raise ConfigError([f"the sweep has no subset {name!r}: {has}; {hint.format(name)}" for name in unknown])


def _has(choice: Choice, cell: Mapping[str, Any]) -> bool:
    return all(any(means(value, value_of(cell, key)) for value in values) for key, values in choice.values.items())


def _repetitions(table: dict[str, Any]) -> tuple[list[Any], bool, list[str]]:
    """Take the seeds and `paired_clean` out of the tables; and what is wrong with them."""
    swept = next((product["seed"] for _, product in _products(table) if "seed" in product), None)
    seeds, paired = table.pop("seeds", None), table.pop("paired_clean", False)
    ways = {"seed": table.get("seed"), "seeds": seeds, "sweep.seed": swept}
    given = [f"{name} = {value}" for name, value in ways.items() if value is not None]
    problems = [f"{' and '.join(given)} are alternatives; give one"] if len(given) > 1 else []
    alone = table.pop("seed", 0)
    if seeds is not None and (not isinstance(seeds, list) or not seeds or len(set(map(str, seeds))) < len(seeds)):
        problems.append(f"seeds: a list of different numbers is needed, not {seeds!r}")
        seeds = None
    if not isinstance(paired, bool):
        problems.append(f"paired_clean: true or false, not {paired!r}")
    return [alone] if seeds is None else seeds, bool(paired), problems


def cells(table: Mapping[str, Any]) -> list[tuple[str | None, dict[str, Any]]]:
    """The tables that `[sweep]` spans, with their subset: products over its keys, each a list of values or tables."""
    base = {k: v for k, v in table.items() if k != "sweep"}
    spanned = []
    for subset, sweep in _products(table):
        bad = [(key, values) for key, values in sweep.items() if not isinstance(values, list) or not values]
        if bad:
            hint = "a list with at least one value is needed (a dotted key stands in quotes), not"
            raise ConfigError([f"sweep.{key}: {hint} {v!r}" for key, v in bad])
        if "name" in sweep:
            raise ConfigError(["sweep.name: runs are not told apart by their name, and only the last would be made"])
        for values in product(*sweep.values()):
            cell = copy.deepcopy(base)
            put_all(cell, dict(zip(sweep, values, strict=True)))
            spanned.append((subset, cell))
    return spanned


def _products(table: Mapping[str, Any]) -> list[tuple[str | None, Mapping[str, Any]]]:
    """The sweep's products, each with the name of its subset; ConfigError if they are no tables."""
    sweep = table.get("sweep", {})
    given = sweep if isinstance(sweep, list) else [sweep]
    if not given or not all(isinstance(part, Mapping) for part in given):
        raise ConfigError([f"sweep: a table of lists, or an array of such tables, is needed, not {sweep!r}"])
    return [(part.get("subset"), {k: v for k, v in part.items() if k != "subset"}) for part in given]


def _swept(table: Mapping[str, Any]) -> dict[str, list[Any]]:
    """All values of each swept key, in the order in which they come."""
    found: dict[str, list[Any]] = {}
    for _, sweep in _products(table):
        for key, values in sweep.items():
            found.setdefault(key, []).extend(v for v in values if v not in found[key])
    return found


def put_all(table: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Set dotted keys, whole tables before their parts and names before options, whatever their order."""
    for key in sorted(values, key=lambda key: (key.count("."), not key.endswith(".name"))):
        put(table, key, copy.deepcopy(values[key]))


def put(table: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key.

    A component given by its name alone becomes a table when one of its options is set; when its name is set to
    another, the options of the one before go.
    """
    *path, last = key.split(".")
    if path and path[0] == "sweep":  # what is swept is a dotted key itself
        path, last = ["sweep"], key.partition(".")[2].replace('"', "")
    for part in path:
        inner = table.setdefault(part, {})
        if isinstance(inner, str) or callable(inner):
            inner = table[part] = {"name": inner}
        if not isinstance(inner, dict):
            raise ConfigError([f"{key}: {part} is {inner!r}, which has no keys"])
        table = inner
    if path and last == "name" and table.get("name") != value:
        for option in [k for k in table if path != ["data"] or k != "partition"]:
            del table[option]
    table[last] = value
