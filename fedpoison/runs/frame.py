"""Run folders as one data frame: a row a round."""

import json
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from fedpoison.common.dotted import differing, flatten
from fedpoison.common.errors import ConfigError
from fedpoison.common.schedule import Schedule
from fedpoison.contract.vocabulary import PHASES, Record
from fedpoison.measures.metrics import DAMAGE, DETECTION, METRICS, MODEL, SANITISED, SCORES, SPREAD, worth
from fedpoison.runs.files import RunFiles
from fedpoison.runs.happened import happened, unattacked, unlearned
from fedpoison.runs.versions import Told, told

_FLOATS = (*METRICS, *(f"seconds_{phase}" for phase in PHASES))
_NAMES = ("run", "name", "rule", "attack")
LASTS = 0.5
"""The attack success above which an attack counts as there."""


@dataclass(frozen=True, repr=False)
class Runs:
    """Some run folders, read; `left_out` says which were not taken."""

    runs: tuple[Told, ...]
    left_out: tuple[str, ...] = ()

    @classmethod
    def read(cls, paths: Iterable[Path | str], only: Sequence[str] = ()) -> "Runs":
        """The runs at or anywhere below the paths; ConfigError where there is none.

        Of a user's file that was edited only the last version is taken, and `left_out` counts the others. `only`:
        key=value, or rule=…, attack=…; a run must have, for each key, one of the values. With rule=mine.py:mine@1 an
        earlier version is taken, with @all every one. Runs with damaged files are left out, which is said there too.
        """
        found: list[Path] = []
        for path in map(Path, paths):
            inside = _runs_below(path)
            if not inside:
                raise ConfigError([f"there is no run in {path}"])
            found += inside
        folders = [RunFiles(path) for path in dict.fromkeys(path.resolve() for path in found)]
        damages = {folder: why for folder in folders if (why := folder.damage())}
        said = [_damaged(list(damages.values()))] if damages else []
        if len(damages) == len(folders):
            raise ConfigError(said)
        kept, left_out = told([folder for folder in folders if folder not in damages], only)
        return cls(tuple(kept), (*said, *left_out))

    def __len__(self) -> int:
        return len(self.runs)

    def __repr__(self) -> str:
        rules, attacks = (sorted({run.labels[name] for run in self.runs}) for name in ("rule", "attack"))
        count = "1 run" if len(self) == 1 else f"{len(self)} runs"
        return f"<{count} of {', '.join(rules)} against {', '.join(attacks)}: frame() has their rounds>"

    @property
    def folders(self) -> tuple[RunFiles, ...]:
        """Where the runs' files are."""
        return tuple(run.folder for run in self.runs)

    def finished(self) -> "Runs":
        """Those that came to their end; ConfigError where there is none."""
        cut = [run for run in self.runs if not run.folder.ended]
        if not cut:
            return self
        came = _came(cut)
        if len(cut) == len(self):
            raise ConfigError([f"none of these runs is finished ({came}); --at 1 shows that round of each"])
        verb = "is not finished and" if len(cut) == 1 else "are not finished and"
        said = f"{len(cut)} of {len(self)} runs {verb} left out ({came})"
        return Runs(tuple(run for run in self.runs if run.folder.ended), (*self.left_out, said))

    def unfinished(self) -> list[str]:
        """A sentence on those that have not come to their end, if there are any."""
        cut = [run for run in self.runs if not run.folder.ended]
        verb = "is" if len(cut) == 1 else "are"
        return [f"{len(cut)} of {len(self)} runs {verb} not finished ({_came(cut)})"] if cut else []

    def frame(self) -> pl.DataFrame:
        """A row a round: run, name, seed, rule, attack, round, accuracy, loss, asr, …

        `rule` is the aggregator with its pre-aggregators before it, `attack` the data and update attack or none.
        Every dotted key of the configuration in which the runs differ is a column too, of numbers where all its values
        are. `damage` is the paired clean run's accuracy less this one's, where that run is among the folders'
        neighbours; `damage_auc` and the like by how much another metric of the model is worse. Both are null where the
        clean run learned nothing or this one's attack never came. What happened to the runs that no number shows is
        warned of.
        """
        for sentence in (*self.unfinished(), *happened(self.folders)):
            warnings.warn(sentence, stacklevel=2)
        return self.rows()

    def rows(self) -> pl.DataFrame:
        """The frame, without a word about it."""
        flat = [flatten(run.config) for run in self.runs]
        types = {key: _type_of(keys.get(key) for keys in flat) for key in _differing(flat)}
        clean_records: dict[Path, dict[int, Record]] = {}
        rows: list[dict[str, Any]] = []
        for run, keys in zip(self.runs, flat, strict=True):
            folder, labels = run.folder, run.labels
            clean = folder.path.parent / labels["clean"] if labels["clean"] else folder.path
            if clean not in clean_records:
                sound = [] if RunFiles(clean).damage() else RunFiles(clean).records()
                clean_records[clean] = {record["round"]: record for record in sound}
            head = {
                "run": folder.path.name,
                "name": keys["name"],
                "seed": keys["seed"],
                "rule": labels["rule"],
                "attack": labels["attack"],
                **{k: _text(keys.get(k)) if kind == pl.String else keys.get(k) for k, kind in types.items()},
            }
            records, others = folder.records(), clean_records[clean]
            comparable = not unattacked(records, labels) and not unlearned([*others.values()])
            rows += [{**head, **_row(record, others.get(record["round"]), comparable)} for record in records]
        floats = dict.fromkeys(_FLOATS, pl.Float64)
        if not rows:  # nobody came to the end of a round
            return pl.DataFrame(
                schema={**dict.fromkeys(_NAMES, pl.String), "seed": pl.Int64, "round": pl.Int64, **floats}
            )
        return pl.DataFrame(rows, schema_overrides={**types, **floats}, infer_schema_length=None)

    def summary(self) -> pl.DataFrame:
        """A row a run: run, durability and outlasts (see `durability`)."""
        rows, schedules = [], self.schedules()
        for run in self.runs:
            lasted, outlasts = durability(run.folder.records(), schedules.get(run.folder.path.name))
            rows.append({"run": run.folder.path.name, "durability": lasted, "outlasts": outlasts})
        return pl.DataFrame(
            rows, schema={"run": pl.String, "durability": pl.Float64, "outlasts": pl.Boolean}, orient="row"
        )

    def shared(self) -> dict[str, Any]:
        """The settings in which all these runs agree, by dotted key."""
        tables = [flatten(run.config) for run in self.runs]
        apart = {*_differing(tables), "seed"}
        return {key: value for key, value in tables[0].items() if key not in apart}

    def clean(self) -> set[str]:
        """The hashes of the clean runs that these runs are compared with."""
        return {run.labels["clean"] for run in self.runs} - {None}

    def schedules(self) -> dict[str, Schedule]:
        """When each run's attack is on, by the run's hash; runs without an attack are left out."""
        attacked = [run for run in self.runs if run.labels["schedule"]]
        return {run.folder.path.name: Schedule(**run.labels["schedule"]) for run in attacked}


def load(*paths: Path | str, only: Sequence[str] = ()) -> Runs:
    """The runs at or anywhere below the paths, as `Runs.read` takes them; what was left out is warned of."""
    runs = Runs.read(paths, only)
    for sentence in runs.left_out:
        warnings.warn(sentence, stacklevel=2)
    return runs


def _runs_below(path: Path) -> list[Path]:
    """The folders of runs at or below a path: they have labels or rounds, and are described, or were."""
    found = []
    for place, folders, files in os.walk(path):
        there = {*folders, *files}
        if there & {"run.json", "rounds.jsonl"} and there & {"run.json", "config.toml"}:
            found.append(Path(place))
    return sorted(found)


def _damaged(sentences: Sequence[str]) -> str:
    """What is said of runs that are damaged, by what is known of each."""
    count, more = len(sentences), len(sentences) - 3
    which = "; ".join([*sentences[:3], *([f"and {more} more"] if more > 0 else [])])
    what = "1 run is damaged and left out" if count == 1 else f"{count} runs are damaged and left out"
    whose, makes = ("its folder", "makes it") if count == 1 else ("their folders", "makes them")
    return f"{what} ({which}): the command that made {'it' if count == 1 else 'them'} {makes} again, or delete {whose}"


def _came(runs: Sequence[Told]) -> str:
    """How far unfinished runs came."""
    return ", ".join(dict.fromkeys(f"round {len(run.folder.records())} of {run.config['rounds']}" for run in runs))


def durability(records: Sequence[Record], schedule: Schedule | None) -> tuple[int | None, bool]:
    """How many rounds an attack lasts after it has ended, and whether it outlasts the run: then it is at least that.

    After the lifespan of a backdoor of Zhang et al. 2022 (Neurotoxin, arXiv:2206.10341): the last evaluated round,
    counted from the attack's last one, in which attack success is above LASTS; 0 if it never is again. The attack's
    last round is the schedule's, whether or not an attacker was in the cohort. None where the attack does not end
    before the run does, or success was above LASTS in no round since the attack began.
    """
    if schedule is None or schedule.last is None:
        return None, False
    first, end = schedule.first, schedule.last
    successes = [(record["round"], _success(record)) for record in records if record["round"] >= first]
    measured = [(round, success) for round, success in successes if success is not None]
    there = [round for round, success in measured if success > LASTS]
    if not there or measured[-1][0] <= end:
        return None, False
    return max(0, there[-1] - end), there[-1] == measured[-1][0]


def measured(frame: pl.DataFrame, metric: str) -> bool:
    """Whether there is something of the metric to show, be it that there was no damage to speak of."""
    columns = [metric, f"clean_{DAMAGE[metric]}"] if metric in DAMAGE else [metric]
    return any(frame[column].is_not_null().any() for column in columns)


def _row(record: Record, clean: Record | None, comparable: bool) -> dict[str, Any]:
    other = clean or {}
    compared = other if comparable else {}
    return {
        "round": record["round"],
        **{name: record.get(name) for name in (*SCORES, *SPREAD)},  # runs of older versions have fewer
        "attack_success": _success(record),
        **{name: record["detection"].get(recorded) for name, recorded in DETECTION.items()},
        **{name: (record.get("sanitised") or {}).get(recorded) for name, recorded in SANITISED.items()},
        "malicious": len(record["malicious"]),
        "over_budget": record["over_budget"],
        "skipped": record["skipped"],
        "events": len(record["events"]),
        **{f"seconds_{phase}": record["seconds"][phase] for phase in PHASES},
        **{f"clean_{name}": other.get(name) for name in MODEL},
        "clean_success": _success(clean) if clean else None,
        **{damage: _worse_by(name, record.get(name), compared.get(name)) for damage, name in DAMAGE.items()},
    }


def _worse_by(name: str, value: float | None, clean: float | None) -> float | None:
    """How much worse a metric of the model is than in the clean run; None where either was not measured."""
    return None if value is None or clean is None else worth(name, clean) - worth(name, value)


def _success(record: Record) -> float | None:
    success: float | None = record["target_success"] if record["asr"] is None else record["asr"]
    return success


def _differing(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    return [key for key in differing(tables) if key not in ("name", "seed")]


def _type_of(values: Iterable[Any]) -> Any:
    """Numbers and truths as such, all else as text; what some runs have not is null."""
    kinds = {type(value) for value in values} - {type(None)}
    if kinds == {bool}:
        return pl.Boolean
    if kinds == {int}:
        return pl.Int64
    return pl.Float64 if kinds and kinds <= {int, float} else pl.String


def _text(value: Any) -> str | None:
    return None if value is None else value if isinstance(value, str) else json.dumps(value)
