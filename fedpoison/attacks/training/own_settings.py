"""What attackers may set for themselves."""

from typing import Annotated, Any

import torch
from annotated_types import Ge, Lt

from fedpoison.common.spelling import among
from fedpoison.contract.registry import training_attack
from fedpoison.types import Count, Drill, Layer, Positive


@training_attack(
    source="secondary: attackers of the field train longer or at another rate; there is no definition to read",
    evidence="tests/attacks/test_own_settings.py::test_attackers_who_train_longer_plant_more",
)
def own_settings(
    layers: tuple[Layer, ...],
    *,
    epochs: Count | None = None,
    lr: Positive | None = None,
    batch_size: Count | None = None,
    momentum: Annotated[float, Ge(0), Lt(1)] | None = None,
    loss: str | None = None,
    only: list[str] | None = None,
) -> Drill:
    """Train by settings of one's own: epochs, rate, minibatches, momentum, loss, or only some layers.

    What is not given is as the honest have it; a rate given so follows no schedule. `loss`: the name of a registered
    one. `only`: the parameter tensors that move, by their names in the net or by what these begin with, as "4." or
    "fc.weight"; all others stay. Must win: with more epochs against the mean, by attack success: more than with the
    honest clients' settings.
    """
    given = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "momentum": momentum, "loss": loss}
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if only is None:
        return Drill(local=settings)
    names = [layer.name for layer in layers]
    for wanted in only:
        if not any(name.startswith(wanted) for name in names):
            raise ValueError(
                f"own_settings: no parameter's name begins with {wanted!r}; {among(wanted, names, 'names')}"
            )
    mask = torch.zeros(layers[-1].columns.stop, dtype=torch.bool)
    for layer in layers:
        mask[layer.columns] = layer.name.startswith(tuple(only))
    return Drill(local=settings, mask=mask)
