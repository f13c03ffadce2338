"""Versions of users' files: runs of an edited rule, attack, net, loader or table of data are not seeds of one another.

A run's labels have a digest of each of its user's files. Runs that name the same file by the same key are of one
version if the digests agree; versions are numbered by age, `mine.py:mine@1` the first.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedpoison.common.dotted import flatten, shown
from fedpoison.common.errors import ConfigError
from fedpoison.config.choice import Choice, means, value_of
from fedpoison.runs.files import RunFiles

_ASKED = re.compile(r"([^+()]+)@(\w+)")
"""A file's name with a version, alone or among the parts of a rule's or an attack's name."""


@dataclass(frozen=True)
class Version:
    """What a file said: by which key it is used, its name, which version by age, and its digest (None: not known)."""

    key: str
    place: str
    number: int
    digest: str | None

    @property
    def name(self) -> str:
        """The file as tables call it."""
        return shown(self.place)

    def answers(self, name: str, tag: str) -> bool:
        """Whether `name`@`tag` means it; a tag is a number, the beginning of the digest, or "all"."""
        known = tag in ("all", str(self.number)) or (len(tag) > 3 and (self.digest or "").startswith(tag))
        return known and name in (self.name, self.place)


@dataclass(eq=False)
class Told:
    """A run as tables tell of it: its configuration and labels, and the versions of the user's files in it."""

    folder: RunFiles
    config: dict[str, Any]
    labels: dict[str, Any]
    versions: list[Version] = field(default_factory=list)
    named: list[Version] = field(default_factory=list)
    """Those that were asked for by number or digest."""

    @property
    def known(self) -> dict[str, Any]:
        """What it can be chosen by."""
        return {**flatten(self.config), "rule": self.labels["rule"], "attack": self.labels["attack"]}

    def mark(self, version: Version) -> None:
        """Name the version wherever the file is named."""
        marked = f"@{version.number}"
        table, last = _holder(self.config, version.key) or ({}, "")
        table[last] = version.place + marked
        alone = rf"(?<![^+(]){re.escape(version.name)}(?![^+()])"
        self.labels |= {k: re.sub(alone, version.name + marked, self.labels[k]) for k in ("rule", "attack")}


def told(folders: Iterable[RunFiles], only: Sequence[str] = ()) -> tuple[list[Told], list[str]]:
    """The runs that `only` chooses, of each file the last version that was run; and what was left out, in sentences.

    `only`: key=value (or rule=…, attack=…); a run must have, for each key, one of the values. A value such as
    mine.py:mine@1 asks for a version, @all for every one; files of which versions are asked for are named with them.
    ConfigError where no run has a value.
    """
    runs = [Told(folder, *folder.described()) for folder in folders]
    _number(runs)
    kept = _chosen(runs, only)
    said, marked = [], {(v.key, v.place) for run in kept for v in run.named}
    for key, place in dict.fromkeys((v.key, v.place) for run in kept for v in run.versions):
        having = [(run, v) for run in kept for v in run.versions if (v.key, v.place) == (key, place)]
        last = max(having, key=lambda pair: pair[0].folder.last_run)[1]
        out = {run: v for run, v in having if v != last and v not in run.named}
        kept = [run for run in kept if run not in out]
        said += [_left_out(list(out.values()))] if out else []
    for run in kept:
        for version in run.versions:
            if (version.key, version.place) in marked:
                run.mark(version)
    latest: dict[str, Told] = {}
    for run in sorted(kept, key=lambda run: run.folder.last_run):
        latest[json.dumps({**run.config, "workers": None}, sort_keys=True)] = run
    again = len(kept) - len(latest)
    if again:
        said.append(f"{_runs(again)} left out of which there is a later one of the same settings and seed")
    return [run for run in kept if run in set(latest.values())], said


def _number(runs: Sequence[Told]) -> None:
    """Say of each run which versions of the user's files it was made with; older runs have no digests: one version."""
    keys = sorted({key for run in runs for key in run.labels.get("digests", {})})
    made: dict[tuple[str, str], dict[str | None, list[Told]]] = {}
    for run in sorted(runs, key=lambda run: run.folder.begun):
        for key in keys:
            if held := _holder(run.config, key):
                table, last = held
                digest = run.labels.get("digests", {}).get(key)
                made.setdefault((key, table[last]), {}).setdefault(digest, []).append(run)
    for (key, place), found in made.items():
        if set(found) == {None}:  # the same key of other runs has one of ours
            continue
        for number, (digest, those) in enumerate(found.items(), start=1):
            for run in those:
                run.versions.append(Version(key, place, number, digest))


def _holder(table: Any, key: str) -> tuple[Any, str] | None:
    """The table in which a file is named, and by which key of its; None where there is none."""
    *path, last = key.split(".")
    for part in path:
        table = _inside(table, part)
    inner = _inside(table, last)
    if isinstance(inner, dict):
        return inner, "name"
    return (table, last) if isinstance(inner, str) else None


def _inside(table: Any, part: str) -> Any:
    if isinstance(table, list):
        return table[int(part)] if int(part) < len(table) else None
    return table.get(part) if isinstance(table, dict) else None


def _chosen(runs: Sequence[Told], only: Sequence[str]) -> list[Told]:
    """The runs that have the values, each told which versions it was asked for by; ConfigError where there is none."""
    choice = Choice.parse(only)
    problems = [f"runs are chosen by key=value, such as rule=median, not by {word!r}" for word in choice.words]
    for key, values in choice.values.items():
        unmet = [value for value in values if all(_meant(run, key, [value]) is None for run in runs)]
        problems += Choice((), {key: unmet}).problems([run.known for run in runs], "run") if unmet else []
        for name in dict.fromkeys(name for value in unmet for name, _ in _ASKED.findall(str(value))):
            there = {v.number for run in runs for v in run.versions if v.answers(name, "all")}
            problems += [f"{name} has the versions {', '.join(f'@{n}' for n in sorted(there))}"] if there else []
    kept = []
    for run in runs:
        meant = [_meant(run, key, wanted) for key, wanted in choice.values.items()]
        if None not in meant:
            run.named = [version for versions in meant for version in versions or ()]
            kept.append(run)
    if problems or not kept:
        raise ConfigError(problems or [f"no run has {' and '.join(only)}"])
    return kept


def _meant(run: Told, key: str, wanted: Sequence[Any]) -> list[Version] | None:
    """The versions by which a run is asked for if it has one of the values of a key; None if it has not."""
    has = value_of(run.known, key)
    found: list[Version] | None = None
    for value in wanted:
        asked = _ASKED.findall(value) if isinstance(value, str) else []
        versions = [version for name, tag in asked for version in run.versions if version.answers(name, tag)]
        if means(value, has) or (asked and len(versions) == len(asked) and means(_ASKED.sub(r"\1", value), has)):
            found = [*(found or []), *versions]
    return found


def _left_out(versions: Sequence[Version]) -> str:
    """What is said of the runs of earlier versions of a file, a version for each run."""
    first, several = min(versions, key=lambda version: version.number), len(set(versions)) > 1
    digest = f", {first.digest}" if first.digest else ""
    of = f"{len(set(versions))} earlier versions of {first.name}" if several else f"an earlier {first.name}"
    way = f"--only {first.key}={first.name}"
    how = f"{way}@all shows all" if several else f"{way}@{first.number} shows it, @all both"
    return f"{_runs(len(versions))} left out, of {of} (@{first.number}{digest}{', …' if several else ''}): {how}"


def _runs(count: int) -> str:
    return "1 run is" if count == 1 else f"{count} runs are"
