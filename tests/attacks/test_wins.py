"""Whole trainings in which attacks on updates must cost what they say: small ones, marked exhaustive."""

from typing import Any

import pytest

from fedpoison.common import parallel
from fedpoison.config.config import parse
from fedpoison.round import play
from fedpoison.runs.world import build

pytestmark = [pytest.mark.exhaustive, pytest.mark.filterwarnings("ignore::UserWarning")]
ALL = {"knows": ["all", "defence"]}
UNIT = {"name": "tailored", "direction": "unit"}


def accuracy(rule: Any, threat: dict[str, Any], partition: Any, rounds: int = 12) -> float:
    """In the last round of twenty clients' training on embedded images; four of them attack, if anybody does."""
    table = {
        "name": "t",
        "rounds": rounds,
        "evaluate_every": rounds,
        "data": {"name": "fashion_mnist_mini", "partition": partition},
        "model": {"name": "mlp", "hidden": [32]},
        "clients": {"count": 20, "local": {"lr": 0.1}},
        "threat": threat,
        "defence": {"f": 4, "aggregator": rule},
    }
    with parallel.using(2):
        world, state = build(parse(table))
        while state.round < rounds:
            state, record = play(state, world)
    return float(record["accuracy"])


def lost(rule: Any, update: Any, partition: Any, rounds: int = 12) -> float:
    clean, attacked = (
        accuracy(rule, threat, partition, rounds)
        for threat in ({"malicious": 0}, {"malicious": 4, "update": update, **ALL})
    )
    return clean - attacked


@pytest.mark.parametrize(
    ("rule", "update", "least"),
    [
        ("mean", "mpaf", 0.2),
        ("mean", "poisonedfl", 0.3),
        ("mean", "tailored", 0.3),
        ("mean", "pga", 0.3),
        ("median", "fang_trimmed_mean", 0.08),
        ("median", UNIT, 0.08),
        ("median", "opt_ipm", 0.08),
        ("trimmed_mean", "fang_trimmed_mean", 0.08),
        ("trimmed_mean", UNIT, 0.08),
        ("trimmed_mean", "opt_ipm", 0.08),
        ("multi_krum", "opt_ipm", 0.08),
        ("geometric_median", "opt_ipm", 0.08),
        ("centered_clipping", "opt_ipm", 0.08),
    ],
)
def test_it_costs_accuracy_on_unlike_data(rule: str, update: Any, least: float) -> None:
    assert lost(rule, update, {"name": "dirichlet", "alpha": 0.3}) > least


@pytest.mark.parametrize("rule", ["mean", "median"])
def test_mimic_costs_accuracy_on_data_sorted_by_label(rule: str) -> None:
    assert lost(rule, "mimic", "label_sorted") > 0.04


def test_rop_costs_centered_clipping_accuracy_in_the_long_run() -> None:
    rule, partition = {"name": "centered_clipping", "tau": 1.0}, {"name": "dirichlet", "alpha": 0.3}
    assert lost(rule, {"name": "rop", "length": 1.0}, partition, 60) > 0.03
