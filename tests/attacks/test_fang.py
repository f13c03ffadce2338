"""Fang's attacks: by hand, by the bounds they keep, and against the rules they are made for."""

import pytest
import torch
from torch import Tensor

from fedpoison.attacks.updates.fang_krum import fang_krum
from fedpoison.attacks.updates.fang_trimmed_mean import fang_trimmed_mean
from tests.attacks.crafting import against, aggregate, crafted, drawn, honest

SEEDS = range(3)


def silent(said: str) -> None:
    """Who says nothing."""


def test_fang_trimmed_mean_by_hand() -> None:
    benign = torch.tensor([[1.0, -3.0, -4.0, 4.0, 0.0], [2.0, -1.0, -2.0, -1.0, 0.0], [4.0, 1.0, -1.0, 0.0, 0.0]])
    made = crafted("fang_trimmed_mean", 500, benign)
    intervals = [(0.5, 1.0), (1.0, 2.0), (-1.0, -0.5), (-2.0, -1.0), (0.0, 0.0)]
    for column, (low, high) in zip(made.T, intervals, strict=True):
        assert low <= column.min() <= low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) <= column.max() <= high
        assert float(column.mean()) == pytest.approx((low + high) / 2, abs=0.05)
    wider = crafted("fang_trimmed_mean", 500, benign, b=4.0)
    assert wider[:, 0].min() < 0.3
    assert wider[:, 1].max() > 3.5


def partly(name: str, f: int, known: Tensor, seed: int = 0) -> Tensor:
    """What they craft who know these updates of colluders alone."""
    attack = {"fang_trimmed_mean": fang_trimmed_mean, "fang_krum": fang_krum}[name]
    return attack(known, f, False, drawn(seed), silent)


def test_with_partial_knowledge_it_lies_three_to_four_deviations_off_the_colluders_mean() -> None:
    known = honest(4)
    made = partly("fang_trimmed_mean", 400, known)
    mean, deviation = known.mean(0), known.std(0, correction=0)
    away = (made - mean) / deviation * -mean.sign()
    assert 3 <= away.min() < 3.02
    assert 3.98 < away.max() <= 4.001
    said: list[str] = []
    alone = fang_trimmed_mean(known[:1], 2, False, drawn(), said.append)
    assert torch.equal(alone, known[:1].expand(2, -1))
    assert said == ["fang_trimmed_mean: one colluder's update has no deviation, and all send it"]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rule", ["trimmed_mean", "median"])
def test_fang_holds_trimmed_mean_and_median_back_more_than_others_do(rule: str, seed: int) -> None:
    benign, f = honest(16, seed=seed), 4
    zero, ipm, alie = (against(rule, attack, f, benign) for attack in ("zero", "ipm", "alie"))
    mean = benign.mean(0)
    part = float(aggregate(rule, f, benign, partly("fang_trimmed_mean", f, benign[:f])) @ mean / mean.norm())
    assert against(rule, "fang_trimmed_mean", f, benign) < 0.9 * min(zero, ipm)
    assert part < 0.7 * alie


def krum_of(benign: Tensor, made: Tensor) -> Tensor:
    return aggregate("krum", len(made), benign, made)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("f", [1, 3, 5])
def test_krum_picks_what_fang_sends_it_and_would_not_pick_twice_as_much(f: int, seed: int) -> None:
    benign, picked = honest(14, seed=seed), krum_of(honest(14, seed=seed), honest(0))
    made = crafted("fang_krum", f, benign, epsilon=0.0)
    assert torch.equal(made, made[:1].expand(f, -1))
    length = made[0].abs().max()
    torch.testing.assert_close(made[0], -length * aggregate("krum", 0, benign, benign[:0]).sign())
    assert torch.equal(krum_of(benign, made), made[0])
    start = 2 * benign.norm(dim=1).max() / 200**0.5
    assert length > start / 64
    if 2 * length < start:  # else the first try was picked
        assert not torch.equal(krum_of(benign, 2 * made), 2 * made[0])
    assert krum_of(benign, made) @ benign.mean(0) < 0 < picked @ benign.mean(0)


def test_fang_krum_by_hand() -> None:
    benign = torch.tensor([[3.0, 1.0], [-3.0, 1.0], [1.0, 3.0], [1.0, -3.0]], dtype=torch.float64)
    said: list[str] = []
    made = fang_krum(benign, 2, True, drawn(), said.append, epsilon=0.0)
    # Krum picks (3, 1), whose two nearest are √8 and √20 away; all are √10 long. At the first length, 7.4, the nearest
    # honest one is 48 or more from it, more than 8 + 20; at half of it 22.6
    first = (8**0.5 + 20**0.5) / (4 - 2 - 1) / 2**0.5 + 10**0.5 / 2**0.5
    torch.testing.assert_close(made, torch.full((2, 2), -first / 2, dtype=torch.float64))
    assert said == ["fang_krum: lambda = 3.7"]


def test_the_others_lie_within_epsilon_of_the_first() -> None:
    benign = honest(14)
    exact, made = (crafted("fang_krum", 4, benign, epsilon=e) for e in (0.0, 0.01))
    torch.testing.assert_close(made[0], exact[0])
    apart = (made - made[0]).norm(dim=1)[1:]
    assert 0 < apart.min() < apart.max() <= 0.01
    assert len({float(x) for x in apart}) == 3


@pytest.mark.parametrize("seed", SEEDS)
def test_who_knows_colluders_alone_has_krum_pick_theirs_too(seed: int) -> None:
    benign, f = honest(14, seed=seed), 5
    made = partly("fang_krum", f, honest(14 + f, seed=seed)[14:])
    assert krum_of(benign, made) @ benign.mean(0) < 0


def test_where_krum_would_pick_none_they_send_zeros_and_say_so() -> None:
    said: list[str] = []
    benign = 1 + 1e-9 * honest(9)
    made = fang_krum(benign, 1, True, drawn(), said.append, epsilon=0.0)
    assert said == ["fang_krum: Krum picks none of theirs, and they send zeros"]
    assert not made.any()
