"""MPAF."""

from typing import Literal

import torch

from fedpoison.contract.registry import update_attack
from fedpoison.types import Crafted, Params, Positive, State


@update_attack(
    paper="arXiv:2203.08669",
    source="secondary: a description of two later papers' codes",
    evidence="tests/attacks/test_memorious_attacks.py::test_mpaf_drags_the_model_to_its_own",
)
def mpaf(
    params: Params,
    n_malicious: int,
    rng: torch.Generator,
    state: State,
    *,
    scale: Positive = 3.0,
    base: Literal["random", "first"] = "random",
) -> tuple[Crafted, State]:
    """Drag the model towards a useless one: `scale` times what is between that and the global model.

    Cao and Gong 2022. `base` "random": normal numbers of the mean and the deviation of the first global model's that
    they see (an attack on updates does not know the layers to initialise); "first": that model itself, as the two codes
    have it. The paper's clients are fake ones beside the others; here they are malicious clients, who do not train.
    Must win: against the mean, blind, by accuracy.
    """
    if "base" not in state:
        drawn = torch.randn(params.shape, generator=rng, dtype=torch.float64).to(params.dtype)
        state = {"base": params.mean() + params.std(correction=0) * drawn if base == "random" else params.clone()}
    return (scale * (state["base"] - params)).repeat(n_malicious, 1), state
