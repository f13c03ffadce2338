"""Attackers who train by settings of their own."""

from typing import Any

import pytest

from fedpoison.attacks.training.own_settings import own_settings
from fedpoison.types import Layer
from tests.attacks.test_training_attacks import played

LAYERS = (
    Layer("1.weight", slice(0, 6), (2, 3)),
    Layer("1.bias", slice(6, 8), (2,)),
    Layer("13.bias", slice(8, 9), (1,)),
)


def test_what_is_given_is_otherwise_and_all_else_as_it_was() -> None:
    nothing = own_settings(LAYERS)
    assert (dict(nothing.local), nothing.mask, nothing.radius) == ({}, None, None)
    all_of_it: dict[str, Any] = {"epochs": 3, "lr": 0.2, "batch_size": 8, "momentum": 0.0, "loss": "focal"}
    assert dict(own_settings(LAYERS, **all_of_it).local) == all_of_it


@pytest.mark.parametrize(
    ("only", "moving"), [(["1."], range(8)), (["1.bias"], [6, 7]), (["13", "1.weight"], [*range(6), 8]), ([], [])]
)
def test_only_the_layers_that_are_named_move(only: list[str], moving: Any) -> None:
    mask = own_settings(LAYERS, only=only).mask
    assert mask is not None
    assert mask.nonzero().flatten().tolist() == list(moving)


def test_a_layer_that_there_is_not_is_answered_with_those_that_are() -> None:
    with pytest.raises(ValueError, match=r"no parameter's name begins with '1.wight'.*1\.weight"):
        own_settings(LAYERS, only=["1.wight"])


def backdoor(**training: Any) -> float:
    """The success of one attacker of ten after ten rounds."""
    table = {
        "name": "t",
        "rounds": 10,
        "evaluate_every": 10,
        "data": {"name": "digits"},
        "model": {"name": "mlp", "hidden": [12]},
        "clients": {"count": 10, "local": {"lr": 0.2}},
        "threat": {"malicious": 1, "data": {"name": "badnets"}, "training": {"name": "own_settings", **training}},
    }
    return float(played(table)[2][-1]["asr"])


def test_attackers_who_train_longer_plant_more() -> None:
    longer, usual, part = backdoor(epochs=10), backdoor(), backdoor(epochs=10, only=["1.bias"])
    assert longer > usual + 0.2
    assert part < longer - 0.2
