"""FoolsGold: clients that keep pushing the same way are one attacker's."""

from typing import Literal

import torch
from torch import Tensor

from fedpoison.contract.registry import aggregator
from fedpoison.defences.memory import recall, remember
from fedpoison.linalg.angles import cosines
from fedpoison.types import ClientIds, Cosines, Positive, State, Updates, Weights

_ROUNDING = 1e-12
"""What 1 − cos of equal histories may come to."""


@aggregator(
    paper="arXiv:1808.04866",
    source="secondary: the authors' code, which has no kappa (1 there)",
    evidence="tests/defences/test_detection_rules.py::test_foolsgold_equals_its_definition",
    references=("origin",),
    claims=("permutation",),
    withstands="nothing",
)
def foolsgold(
    updates: Updates,
    client_ids: ClientIds,
    state: State,
    *,
    kappa: Positive = 1.0,
    combine: Literal["sum", "average"] = "average",
) -> tuple[Weights, State]:
    """Weigh each client by how little the sum of its updates so far resembles anybody else's.

    Fung et al. 2020, Algorithm 1, on all parameters (the paper may weigh them by how indicative they are). Its server
    adds Σ v_i · Δ_i ("sum"), made for single gradient steps; of updates of whole local training that is many times a
    step, so unless told otherwise it divides by Σ v_i.
    Where everybody is everybody's double all weights are 0, and so is the aggregate. An update's length is not
    looked at, and honest clients with the same data are taken for sybils. The memory is one row [d] for each client
    ever seen: as many numbers as the updates of all clients, copied each round and saved with each checkpoint.
    """
    largest = torch.finfo(updates.dtype).max
    history = (recall(state, "foolsgold", client_ids, updates) + updates).clamp(-largest, largest)
    credit = credits(cosines(history), kappa)
    if combine == "average" and credit.any():
        credit = credit / credit.sum()
    return torch.cat([credit, 1 - credit.sum().unsqueeze(0)]), remember(state, "foolsgold", client_ids, history)


def credits(similarity: Cosines, kappa: float) -> Tensor:
    """v in [0, 1] from the similarity of histories; a client is compared with others only, and at least with 0."""
    similarity = similarity.clone().fill_diagonal_(0)
    most = similarity.amax(dim=1)
    # pardon: an honest client that resembles a sybil resembles it less than the sybils do each other
    pardon = torch.where(most.unsqueeze(1) < most, most.unsqueeze(1) / most, 1.0)
    credit = (1 - (similarity * pardon).amax(dim=1)).clamp(0, 1)
    credit = torch.where(credit > _ROUNDING, credit, 0.0)
    if not credit.any():
        return credit
    credit = credit / credit.max()
    credit = torch.where(credit == 1, 0.99, credit)
    return (kappa * (torch.log(credit / (1 - credit)) + 0.5)).clamp(0, 1)
