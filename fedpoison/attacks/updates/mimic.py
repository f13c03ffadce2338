"""Mimic."""

import torch

from fedpoison.attacks.updates.directions import mean_of
from fedpoison.contract.registry import update_attack
from fedpoison.types import ClientIds, Count, Crafted, State, Update, Updates


@update_attack(
    paper="arXiv:2006.09365",
    source="secondary: a description of the authors' code",
    evidence="tests/attacks/test_memorious_attacks.py::test_mimic_by_hand",
)
def mimic(
    benign: Updates, benign_ids: ClientIds, n_malicious: int, state: State, *, warm_up: Count = 10
) -> tuple[Crafted, State]:
    """All send the update of one honest client, whose share so grows and the others' shrinks.

    Karimireddy et al. 2022: the client lies farthest along the direction in which the honest differ most, learned over
    `warm_up` rounds by a step of power iteration in each; thereafter it is always the one that was copied last, or,
    where that one is absent, the farthest of those who are there. The direction begins at normal numbers drawn from a
    seed of the attack's own. Must win: against Krum, on data sorted by label, by accuracy: the rule sees nothing odd.
    """
    turn = int(state.get("turn", torch.zeros((), dtype=torch.int64)))
    if turn < warm_up:
        state = {**state, **_turned(benign, state, turn), "turn": torch.tensor(turn + 1)}
    present = (benign_ids == state["copied"]).nonzero() if turn >= warm_up else benign_ids[:0]
    if len(present):
        chosen = int(present[0])
    else:
        chosen = int((benign.double() @ state["direction"].double()).argmax())
        if turn < warm_up:
            state = {**state, "copied": benign_ids[chosen].clone()}
    return benign[chosen].repeat(n_malicious, 1), state


def _turned(benign: Updates, state: State, turn: int) -> State:
    """The mean of all rounds, and the direction after one more step of power iteration about it."""
    now = mean_of(benign)
    mean = (turn * state["mean"] + now) / (turn + 1) if turn else now
    direction = state["direction"] if "direction" in state else _drawn(now)
    centred = benign - mean
    pulled = _unit((centred @ direction) @ centred)
    return {"mean": mean, "direction": _unit(turn * direction + pulled)}


def _drawn(like: Update) -> Update:
    return torch.randn(len(like), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(like.dtype)


def _unit(vector: Update) -> Update:
    length = torch.linalg.vector_norm(vector)
    return vector / length if length > 0 else vector
