"""Which round of a run is told of: the last, the best, one by its number, or the mean of the last few."""

import polars as pl

from fedpoison.common.errors import ConfigError
from fedpoison.measures.metrics import DETECTION, METRICS, SPREAD, TWO_CLASSES, VALIDATION, worth

_BEST = {"best" if name == "accuracy" else f"best_{name}": validated for validated, name in VALIDATION.items()}
"""What --at calls the round in which a metric of validation is best."""


def at_round(frame: pl.DataFrame, at: str) -> pl.DataFrame:
    """A row a run: the one round that is told of, or the mean of several."""
    if at == "last":
        return frame.filter(pl.col("round") == pl.col("round").max().over("run"))
    if at in _BEST:
        return _best(frame, _BEST[at])
    if at.startswith("last") and at[4:].isdigit() and int(at[4:]):
        return _mean_of_last(frame, int(at[4:]))
    if not at.isdigit():
        raise ConfigError([f"--at takes last, {', '.join(_BEST)}, last5 or a round's number, not {at!r}"])
    found = frame.filter(pl.col("round") == int(at))
    if not len(found):
        raise ConfigError([f"no run has a round {at}"])
    return found


def in_words(at: str) -> str:
    """The same in words."""
    if at in _BEST:
        return f"in the round of the best {_BEST[at].replace('_', ' ')}"
    if at == "last":
        return "in the last round"
    return f"in round {at}" if at.isdigit() else f"as the mean of the last {at[4:]} evaluations"


def _best(frame: pl.DataFrame, validated: str) -> pl.DataFrame:
    """The first of the rounds in which a metric of validation is best."""
    measured = frame.drop_nulls(validated)
    if measured["run"].n_unique() < frame["run"].n_unique():
        hint = " and data of two classes" if VALIDATION[validated] in TWO_CLASSES else ""
        wanted = validated.replace("_", " ")
        raise ConfigError([f"the best round is that of the best {wanted}: set data.validation{hint}"])
    turned = pl.col(validated) * worth(VALIDATION[validated], 1.0)
    best = measured.filter(turned == turned.max().over("run"))
    return best.filter(pl.col("round") == pl.col("round").min().over("run"))


def _mean_of_last(frame: pl.DataFrame, count: int) -> pl.DataFrame:
    """The mean of the last evaluations; of a model's metric none where one of them has none."""
    evaluated = frame.drop_nulls("accuracy").sort("round")
    kept = evaluated.group_by("run", maintain_order=True).tail(count)
    fewest = min([0] if kept["run"].n_unique() < frame["run"].n_unique() else kept.group_by("run").len()["len"])
    if fewest < count:
        raise ConfigError([f"--at last{count} is the mean of {count} evaluations, and a run has {fewest}"])
    rounds_own = {*DETECTION, *SPREAD}  # a round without attackers has no recall, and the others stand for it
    whole = {name: name in rounds_own or pl.col(name).is_not_null().all() for name in METRICS}
    means = [pl.when(whole[name]).then(pl.col(name).mean()).alias(name) for name in METRICS]
    others = [pl.col(name).last() for name in frame.columns if name not in {*METRICS, "run"}]
    return kept.group_by("run", maintain_order=True).agg(*others, *means)
