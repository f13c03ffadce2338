"""A trigger for tables: a few features set to values that no row has."""

import math
from functools import partial
from typing import Any

import torch

from fedpoison.attacks.data.relabelling import missing, plant, wanted
from fedpoison.contract.registry import data_attack
from fedpoison.types import Images, Labels, Share


def write(rows: Images, features: list[int], values: list[float]) -> Images:
    """The rows [samples, features] with some features set."""
    absent = [i for i in features if i >= rows.shape[1]]
    if absent:
        raise ValueError(f"feature_trigger: there is no feature {absent[0]}, a row has {rows.shape[1]}, from 0")
    rows = rows.clone()
    rows[:, features] = torch.tensor(values, dtype=rows.dtype)
    return rows


def _check(n_classes: int, *, target: int, features: list[int], values: list[float], **_: Any) -> list[str]:
    problems = missing("feature_trigger", [target], n_classes)
    if not features or len(set(features)) != len(features) or min(features) < 0:
        problems.append(f"feature_trigger: features are different ones, counted from 0, they are {features}")
    if len(features) != len(values):
        problems.append(f"feature_trigger: there are {len(features)} features and {len(values)} values")
    if not all(math.isfinite(value) for value in values):
        problems.append(f"feature_trigger: values are finite, they are {values}")
    return problems


def _aim(
    images: Images, labels: Labels, n_classes: int, *, target: int, share: float, **look: Any
) -> tuple[Images, Labels]:
    return write(images, **look), wanted(labels, target)


@data_attack(
    paper="arXiv:2311.07550",
    source="secondary: the abstract; DBA's authors' code for LOAN, which sets features far out of range",
    evidence="tests/attacks/test_backdoors.py::test_a_feature_trigger_sets_the_features_and_nothing_else",
    goal="backdoor",
    samples=("rows",),
    aim=_aim,
    check=_check,
)
def feature_trigger(
    images: Images,
    labels: Labels,
    rng: torch.Generator,
    *,
    target: int = 0,
    share: Share = 0.5,
    features: list[int] = [0],
    values: list[float] = [10.0],
) -> tuple[Images, Labels]:
    """Set chosen features of a share of the rows to chosen values and label them as the target.

    The out-of-bounds trigger of Pleiter et al. 2023 (they take the most important features; here the user says which).
    A value of 10 is out of bounds for features that are standardised or between 0 and 1, as this package's are.
    """
    return plant(images, labels, target, share, rng, partial(write, features=features, values=values))
