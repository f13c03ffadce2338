"""Attacks that remember: mimic, PoisonedFL, MPAF; and ROP, which goes by the last aggregate."""

from typing import Any

import pytest
import torch
from torch import Tensor

import fedpoison
from fedpoison.attacks.updates.mimic import _turned, mimic
from fedpoison.attacks.updates.mpaf import mpaf
from fedpoison.attacks.updates.poisonedfl import poisonedfl
from fedpoison.common.errors import ConfigError
from fedpoison.config.config import parse
from tests.attacks.crafting import crafted, drawn, honest

State = dict[str, Tensor]


# Mimic


def test_mimic_by_hand() -> None:
    benign = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    begun = _turned(benign, {"direction": torch.tensor([1.0, 0.0])}, 0)
    torch.testing.assert_close(begun["mean"], torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(begun["direction"], torch.tensor([0.894427, 0.447214]))
    made, state = mimic(benign, torch.tensor([3, 5, 8]), 2, {"direction": torch.tensor([1.0, 0.0])})
    assert torch.equal(made, torch.tensor([[2.0, 2.0]] * 2))
    assert int(state["copied"]) == 8
    then = torch.tensor([[3.0, 1.0], [1.0, 3.0], [2.0, 2.0]])
    later = _turned(then, begun, 1)
    torch.testing.assert_close(later["mean"], torch.tensor([1.5, 1.5]))
    centred, before = then - 1.5, begun["direction"]
    pulled = sum(((row @ before) * row for row in centred), torch.zeros(2))
    both = before / 2 + pulled / pulled.norm() / 2
    torch.testing.assert_close(later["direction"], both / both.norm())


def test_mimic_finds_the_direction_in_which_the_honest_differ_and_keeps_to_its_client() -> None:
    ids, state = torch.tensor([2, 3, 5, 7, 11]), dict[str, Tensor]()
    axis = torch.nn.functional.one_hot(torch.tensor(4), 20).double()
    places = torch.tensor([-3.0, -2.0, 0.0, 1.0, 4.0], dtype=torch.float64)
    copied = []
    for turn in range(9):
        rows = places.unsqueeze(1) * axis + 0.1 * torch.randn(5, 20, generator=drawn(turn), dtype=torch.float64)
        if turn >= 6:
            rows[:, 4] *= -1  # after the warm-up the same client is copied, wherever it lies
        made, state = mimic(rows, ids, 2, state, warm_up=6)
        (where,) = [i for i, row in enumerate(rows) if torch.equal(row, made[0])]
        copied.append(int(ids[where]))
    assert abs(float(state["direction"] @ axis)) > 0.99
    assert len(set(copied[2:])) == 1
    assert copied[-1] in (2, 11)
    here = ids != copied[-1]
    rows = places.unsqueeze(1) * axis + 0.0
    made, after = mimic(rows[here], ids[here], 1, state, warm_up=6)
    farthest = rows[here][(rows[here] @ state["direction"]).argmax()]
    assert torch.equal(made[0], farthest)
    assert after["copied"] == state["copied"]  # it may come back


def test_mimic_must_know_whose_updates_it_sees() -> None:
    table = {"name": "t", "rounds": 1, "data": "digits", "threat": {"malicious": 1, "update": "mimic"}}
    parse(table)
    with pytest.raises(ConfigError, match=r'mimic asks whose the benign updates are: threat.knows must hold "all"'):
        parse({**table, "threat": {**table["threat"], "knows": "colluders"}})  # type: ignore[dict-item]


def test_mimic_takes_krum_to_one_client_s_corner() -> None:
    """Clients of two kinds, as on data sorted by label: whom all mimic is always picked."""
    corners = 3 * honest(2, d=50, seed=4)
    state: State = {}
    picked = []
    for turn in range(5):
        rows = corners.repeat_interleave(4, 0) + honest(8, d=50, seed=10 + turn)
        made, state = mimic(rows, torch.arange(8), 3, state)
        chosen = fedpoison.aggregate("krum", torch.cat([rows, made]), f=3).update
        picked.append(torch.equal(chosen, made[0]))
    assert all(picked)


# ROP


def test_rop_by_hand() -> None:
    benign = torch.tensor([[1.0, 0.0, 0.5], [3.0, 2.0, -0.5]], dtype=torch.float64)  # mean (2, 1, 0)
    previous = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    made = crafted("rop", 2, benign, previous=previous, length=1.0)
    expected = torch.tensor([1.060764, -0.668400, -0.741316], dtype=torch.float64)
    torch.testing.assert_close(made, expected.expand(2, -1), atol=1e-6, rtol=0)
    turned = crafted("rop", 1, benign, previous=previous, length=2.0, relocation=0.0, angle=90.0)[0]
    torch.testing.assert_close(
        turned, torch.tensor([2.0, 1.0, 0.0]).double() - 2 * (expected - previous), atol=1e-5, rtol=0
    )
    along = crafted("rop", 1, benign, previous=previous, length=1.0, angle=180.0)[0] - previous
    torch.testing.assert_close(along, -torch.tensor([1.1, 0.1, 0.0]).double() / 1.22**0.5)


def test_rop_is_as_long_as_alie_s_z_and_has_a_first_round_and_a_reference_of_nothing() -> None:
    benign = honest(20)
    step = crafted("rop", 5, benign)[0]
    assert float(step.norm()) == pytest.approx(0.253347)
    assert abs(float(step @ benign.mean(0))) < 1e-9
    alone = crafted("rop", 1, honest(3))  # ALIE's z is negative
    assert float(alone.norm()) == pytest.approx(1)
    for nothing in (torch.zeros(3, 5), torch.ones(3, 5)):
        with pytest.warns(UserWarning, match="rop: nothing lies across"):
            assert crafted("rop", 1, nothing).abs().max() < 1e-15


def drifting(attack: str, rounds: int = 12, **given: Any) -> float:
    """How far centered clipping is from the honest mean after rounds that begin with a right aggregate."""
    mean = honest(400, d=100, spread=0.3).mean(0)
    previous = mean.clone()
    for turn in range(rounds):
        noise = 0.3 * torch.randn(16, 100, generator=drawn(turn), dtype=torch.float64)
        benign = mean + noise
        made = crafted(attack, 4, benign, previous=previous, **given)
        rows = torch.cat([benign, made])
        previous = fedpoison.aggregate("centered_clipping", rows, f=4, previous=previous, tau=0.5).update
    return float((previous - mean).norm())


def test_rop_takes_centered_clipping_astray_where_alie_does_not() -> None:
    short, long, alie = drifting("rop"), drifting("rop", length=0.5), drifting("alie")
    assert long > 1.5 * alie
    assert short < alie


# PoisonedFL


def begun(signs: Tensor, **others: Tensor) -> State:
    """Its memory in the middle of a run."""
    usual = {"factor": torch.tensor(8.0), "old": torch.ones(len(signs)), "turn": torch.tensor(0)}
    return {"signs": signs, **usual, "sent": torch.zeros(len(signs)), **others}


def test_poisonedfl_by_hand() -> None:
    known = begun(torch.tensor([1.0, -1, -1, 1]), sent=torch.tensor([0.0, 5, 0, 0]))
    made, state = poisonedfl(torch.zeros(4), torch.tensor([3.0, 0, 4, 0]), 2, drawn(), known)
    torch.testing.assert_close(made, torch.tensor([[16.970563, -28.284271, -22.627417, 0.0]] * 2))
    assert torch.equal(state["sent"], made[0])
    nothing, state = poisonedfl(torch.zeros(4), torch.zeros(4), 2, drawn(), {})
    assert not nothing.any()
    assert set(state["signs"].tolist()) <= {-1.0, 1.0}


def test_poisonedfl_shrinks_where_the_model_does_not_follow() -> None:
    d = 1000
    signs = torch.randint(2, (d,), generator=drawn(1)) * 2.0 - 1
    for following, expected in ((0.5, 0.7 * 8), (0.53, 0.7 * 8), (0.545, 8.0), (1.0, 8.0)):
        moved = torch.where(torch.arange(d) < following * d, signs, -signs)
        _, state = poisonedfl(torch.ones(d), moved, 1, drawn(), begun(signs, turn=torch.tensor(48)))
        assert float(state["factor"]) == 8
        assert torch.equal(state["old"], torch.ones(d))
        _, state = poisonedfl(torch.ones(d) + 0.1 * moved, moved, 1, drawn(), state)
        assert float(state["factor"]) == pytest.approx(expected)
        assert torch.equal(state["old"], torch.ones(d) + 0.1 * moved)
    _, state = poisonedfl(signs.clone(), signs, 1, drawn(), begun(signs, old=signs.clone()), every=1)
    assert float(state["factor"]) == 8  # where nothing moved the model's own sign counts
    low = begun(signs, factor=torch.tensor(0.6), old=2 * signs)
    _, state = poisonedfl(signs.clone(), signs, 1, drawn(), low, every=1)
    assert float(state["factor"]) == pytest.approx(0.6)  # .42 would be below .5


def descended(rule: str, attack: str, rounds: int = 40) -> float:
    """How far from its optimum a quadratic is after rounds; the honest go a tenth of the way, each with noise."""
    params, previous, state = torch.zeros(60).double(), torch.zeros(60).double(), dict[str, Tensor]()
    goal = honest(1, d=60, seed=7)[0]
    for turn in range(rounds):
        noise = 0.2 * torch.randn(8, 60, generator=drawn(turn), dtype=torch.float64)
        benign = 0.1 * (goal - params) + noise
        made = fedpoison.craft(
            attack, n_malicious=2, params=params, previous=previous, benign=benign, state=state, round=turn
        )
        made, state = made if isinstance(made, tuple) else (made, state)
        previous = fedpoison.aggregate(rule, torch.cat([benign, made]), f=2).update
        params = params + previous
    return float((params - goal).norm() / goal.norm())


@pytest.mark.parametrize("rule", ["median", "trimmed_mean"])
def test_poisonedfl_s_pushes_add_up_where_noise_does_not(rule: str) -> None:
    attacked, noise, zeros = (descended(rule, attack) for attack in ("poisonedfl", "gaussian", "zero"))
    assert attacked > 2 * max(noise, zeros)


# MPAF


def test_mpaf_drags_the_model_to_its_own() -> None:
    params = 2 + 3 * torch.randn(4000, generator=drawn())
    made, state = mpaf(params, 2, drawn(1), {})
    base = state["base"]
    assert float(base.mean()) == pytest.approx(2, abs=0.3)
    assert float(base.std()) == pytest.approx(3, rel=0.05)
    assert abs(float(torch.corrcoef(torch.stack([params, base]))[0, 1])) < 0.06
    torch.testing.assert_close(made, (3 * (base - params)).expand(2, -1))
    later, after = mpaf(params + 1, 2, drawn(2), state, scale=10.0)
    assert torch.equal(after["base"], base)
    torch.testing.assert_close(later[0], 10 * (base - params - 1))
    first, state = mpaf(params, 1, drawn(), {}, base="first")
    assert not first.any()
    assert torch.equal(state["base"], params)
    assert descended("mean", "mpaf") > 3 * descended("mean", "zero")
