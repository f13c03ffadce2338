"""Runs of a sweep in which nobody is malicious: the origin of every attack in it, from which its shares count."""

from collections.abc import Iterable

import polars as pl

COUNTS = ("threat.share", "threat.malicious")


def own(frame: pl.DataFrame) -> list[str]:
    """The keys that are an attack's own: all of the threat but how many are malicious."""
    return [key for key in frame.columns if key.startswith("threat.") and key not in COUNTS]


def origins(frame: pl.DataFrame) -> pl.Expr:
    """Whether a run is one with a share, or a number, of 0."""
    nobody = [pl.col(key) == 0 for key in COUNTS if key in frame.columns]
    return (pl.col("attack") == "none") & pl.any_horizontal(pl.lit(False), *(none.fill_null(False) for none in nobody))


def with_origins(frame: pl.DataFrame) -> pl.DataFrame:
    """Give each attack the runs with a share of 0 in place of an attack called none.

    They are one run for all attacks that aim at nothing in samples, and one for each that does (its success is measured
    without anybody doing it). An attack that none of them measured has those which measured none.
    """
    nobody = frame.filter(origins(frame))
    keys = own(frame)
    aims = [key for key in keys if key.startswith("threat.data.")]
    attacks = frame.filter(pl.col("attack") != "none").select("attack", *keys).unique(maintain_order=True)
    given, used = [], set[str]()
    for attack in attacks.rows(named=True):
        measured = nobody.filter(_all(pl.col(key).eq_missing(attack[key]) for key in aims))
        if not len(measured):
            measured = nobody.filter(_all(pl.col(key).is_null() for key in aims))
        used |= set(measured["run"])
        as_it = (pl.lit(value, dtype=frame.schema[key]).alias(key) for key, value in attack.items())
        given.append(measured.with_columns(as_it))
    return pl.concat([frame.filter(~(origins(frame) & pl.col("run").is_in(list(used)))), *given])


def _all(conditions: Iterable[pl.Expr]) -> pl.Expr:
    return pl.all_horizontal(pl.lit(True), *conditions)
