"""Neurotoxin."""

from typing import Any, Literal

import torch

from fedpoison.common.rounding import half_up
from fedpoison.contract.registry import training_attack
from fedpoison.types import Drill, Positive, Repeats, Share, Update


@training_attack(
    paper="arXiv:2206.10341",
    source="secondary: a description of the authors' code, jhcknzzm/Federated-Learning-Backdoor",
    evidence="tests/attacks/test_training_attacks.py::test_neurotoxin_moves_only_what_its_gradient_hardly_does",
)
def neurotoxin(
    own_gradient: Update,
    previous: Update,
    *,
    ratio: Share = 0.95,
    mask_from: Literal["own_data", "last_aggregate"] = "own_data",
    lr: Positive | None = None,
    epochs: Repeats | None = None,
    radius: Positive | None = None,
) -> Drill:
    """Neurotoxin: train only what honest clients hardly move, so that they do not undo it.

    Zhang et al. 2022: of all coordinates together those move that are among the `ratio` with the smallest |g|, whatever
    momentum or weight decay would do; the others stay as they are in the global model. g: "own_data", the gradient of
    the mean loss at the global model over the attacker's clean samples; "last_aggregate", the last aggregate, as the
    paper's text has it (before there was one, all coordinates move). The authors' code takes g from the clean data of
    30 clients, more than one attacker has. `lr`, `epochs`: the attacker's own, if they are others than the honest
    clients' (a rate of its own follows no schedule). `radius`: the norm to which the update is cut at the end; the
    authors' is .2 for CIFAR-10. Must win: against the median, by attack success, where four of ten have the trigger.
    """
    local: dict[str, Any] = {name: value for name, value in (("lr", lr), ("epochs", epochs)) if value is not None}
    seen = own_gradient if mask_from == "own_data" else previous
    mask = torch.ones(len(seen), dtype=torch.bool)
    if mask_from == "own_data" or seen.any():
        mask[seen.abs().argsort(stable=True)[half_up(ratio * len(seen)) :]] = False
    return Drill(local=local, mask=mask, radius=radius)
