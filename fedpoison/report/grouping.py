"""Which runs make one line and which lines share a panel, for tables and figures alike."""

import polars as pl

from fedpoison.common.dotted import short_names
from fedpoison.common.errors import ConfigError
from fedpoison.runs.frame import Runs


def grouped(runs: Runs) -> pl.DataFrame:
    """The runs' frame with two more columns: `panel` (attack and setting) and `line` (rule and its options).

    A key in which the runs differ is spelled out where the names alone would throw different runs together.
    ConfigError if no round was played. Runs that others are compared with are left out, unless there is
    nothing else. The plain mean comes first, then the alphabet.
    """
    frame = without_references(runs)
    keys = [c for c in frame.columns if "." in c or c == "rounds"]
    settings = [k for k in keys if not k.startswith("defence.") and _varies(frame, k, within=["attack"])]
    frame = frame.with_columns(panel=_label("attack", settings))
    rules = [k for k in keys if k.startswith("defence.") and _varies(frame, k, within=["panel", "rule"])]
    return frame.with_columns(line=_label("rule", rules)).sort(
        "panel", pl.col("rule") != "mean", "line", "seed", "round"
    )


def without_references(runs: Runs) -> pl.DataFrame:
    """The runs' frame less the clean runs that others are compared with, unless there is nothing else."""
    frame = runs.rows()
    if not len(frame):
        raise ConfigError(["none of these runs has come to the end of a round"])
    references = runs.clean()
    if set(frame["run"]) - references:
        frame = frame.filter(~pl.col("run").is_in(list(references)))
    return frame


def _varies(frame: pl.DataFrame, key: str, within: list[str]) -> bool:
    """Whether runs of the same name differ in `key`."""
    return bool((frame.group_by(within).agg(pl.col(key).n_unique())[key] > 1).any())


def _label(name: str, keys: list[str]) -> pl.Expr:
    said = short_names(keys)
    details = [
        pl.when(pl.col(k).is_null()).then(pl.lit("")).otherwise(pl.lit(f" {said[k]}=") + pl.col(k).cast(pl.String))
        for k in keys
    ]
    return pl.concat_str([pl.col(name), *details])
