"""PoisonedFL."""

import math

import torch

from fedpoison.contract.registry import update_attack
from fedpoison.types import Count, Crafted, Params, Positive, State, Update


@update_attack(
    paper="arXiv:2404.15611",
    source="secondary: a description of the authors' code",
    evidence="tests/attacks/test_memorious_attacks.py::test_poisonedfl_by_hand",
)
def poisonedfl(
    params: Params,
    previous: Update,
    n_malicious: int,
    rng: torch.Generator,
    state: State,
    *,
    factor: Positive = 8.0,
    every: Count = 50,
) -> tuple[Crafted, State]:
    """Push each coordinate to a side that is drawn once for the whole run, where others moved it most the hardest.

    Xie, Fang and Gong 2025. It sends c·‖G‖ · v ∘ s: s the signs, G the last aggregate, v the unit vector of how much
    others than the attackers moved each coordinate. c is `factor` first; after each `every` attacked rounds in which
    the model did not follow the signs (fewer coordinates than in 99 of 100 coin tosses each) it shrinks by .7, as long
    as it stays above .5. It sends zeros before there was an aggregate. The paper's clients are fake ones beside the
    others; here they are malicious clients, who do not train. What they sent last is what they sent when one of them
    last took part. Must win: against median and trimmed mean, blind, by loss over many rounds: the pushes add up.
    """
    if not state:
        signs = torch.randint(2, params.shape, generator=rng).to(params.dtype) * 2 - 1
        state = {"signs": signs, "factor": torch.tensor(factor), "old": params.clone(), "turn": torch.tensor(0)}
        state["sent"] = torch.zeros_like(params)
    turn = state["turn"] + 1
    signs, strength, old, sent = (state[name] for name in ("signs", "factor", "old", "sent"))
    if turn % every == 0:
        strength = strength * 0.7 if _resisted(params, old, signs) and strength * 0.7 >= 0.5 else strength
        old = params.clone()
    length = torch.linalg.vector_norm(previous)
    others = (previous - sent * (length / (torch.linalg.vector_norm(sent) + 1e-9))).abs()
    unit = others / (torch.linalg.vector_norm(others) + 1e-9)
    crafted = strength.to(params.dtype) * length * unit * signs
    kept = {"signs": signs, "factor": strength, "old": old, "turn": turn, "sent": crafted}
    return crafted.repeat(n_malicious, 1), kept


def _resisted(params: Params, old: Params, signs: Update) -> bool:
    """Whether fewer coordinates went the signs' way than in 99 of 100 runs of as many coin tosses."""
    moved = params - old
    followed = int((torch.where(moved == 0, params, moved).sign() == signs).sum())
    return followed < len(params) / 2 + 2.3263 * math.sqrt(len(params)) / 2
