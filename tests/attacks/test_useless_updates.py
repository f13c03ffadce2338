"""Attacks that know and do little: zeros, noise, what crashes a server, and free riders."""

from typing import Any

import pytest
import torch

import fedpoison
from fedpoison.config.config import parse
from fedpoison.round import play
from fedpoison.runs.world import build
from tests.attacks.crafting import aggregate, crafted, drawn, honest

DTYPES = [torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
def test_krum_picks_zeros_where_honest_updates_are_far_apart(dtype: torch.dtype) -> None:
    benign = honest(8).to(dtype)
    zeros = crafted("zero", 2, benign)
    assert zeros.dtype == dtype
    assert not zeros.any()
    assert not aggregate("krum", 2, benign, zeros).any()
    near = honest(8, spread=0.1).to(dtype)  # less than the mean is long
    assert aggregate("krum", 2, near, crafted("zero", 2, near)).any()
    torch.testing.assert_close(aggregate("mean", 2, benign, zeros), 0.8 * benign.mean(0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_random_is_as_long_as_the_honest_and_has_no_direction(dtype: torch.dtype) -> None:
    benign = (honest(9) * torch.arange(1, 10).unsqueeze(1)).to(dtype)
    median = benign.norm(dim=1).median()
    for scale in (1.0, 30.0):
        made = crafted("random", 5, benign, scale=scale)
        assert made.dtype == dtype
        torch.testing.assert_close(made.norm(dim=1), (scale * median).expand(5))
        assert (torch.corrcoef(made).fill_diagonal_(0).abs() < 0.3).all()
    far, near = (aggregate("mean", 5, benign, crafted("random", 5, benign, scale=s)) for s in (30.0, 1.0))
    assert (far - benign.mean(0)).norm() > 10 * (near - benign.mean(0)).norm()


def test_one_huge_row_carries_the_mean_away_and_no_robust_rule() -> None:
    benign = honest(9)
    row = crafted("huge", 1, benign)
    assert (row == 1e10).all()
    assert (aggregate("mean", 1, benign, row) > 0.9e9).all()
    for rule in ("median", "trimmed_mean", "krum", "geometric_median", "centered_clipping"):
        assert aggregate(rule, 1, benign, row).abs().max() < 10
    assert (crafted("huge", 2, benign, size=7.0) == 7).all()


@pytest.mark.parametrize(
    ("attack", "why"),
    [("inf", "not finite"), ({"name": "wrong_shape", "extra": 3}, "not a vector of")],
)
def test_what_is_broken_costs_its_sender_only(attack: Any, why: str) -> None:
    table: dict[str, Any] = {
        "name": "t",
        "rounds": 1,
        "data": {"name": "digits"},
        "model": "logistic",
        "clients": {"count": 5},
        "threat": {"malicious": 2, "update": attack},
    }
    world, state = build(parse(table))
    after, record = play(state, world)
    (event,) = [event for event in record["events"] if event["what"] == "set_aside"]
    assert event["clients"] == record["malicious"]
    assert why in event["detail"], event
    assert [weight for weight in record["weights"] if weight] == pytest.approx([1 / 3] * 3)
    assert after.params.isfinite().all()
    assert not torch.equal(after.params, state.params)


def test_broken_updates_are_what_they_say() -> None:
    params = torch.zeros(7)
    assert (fedpoison.craft("inf", n_malicious=2, params=params) == torch.inf).all()
    assert fedpoison.craft("wrong_shape", n_malicious=2, params=params).shape == (2, 8)
    assert fedpoison.craft("wrong_shape", n_malicious=3, params=params, extra=5).shape == (3, 12)


def test_free_riders_are_kept_by_multi_krum_for_nothing() -> None:
    benign = honest(10)
    previous = benign.mean(0) + 0.3 * torch.randn(200, generator=drawn(9), dtype=torch.float64)
    made = crafted("free_rider", 3, benign, previous=previous)
    torch.testing.assert_close((made - previous).norm(dim=1), (0.1 * previous.norm()).expand(3))
    verdict = fedpoison.aggregate("multi_krum", torch.cat([benign, made]), f=3)
    assert verdict.weights is not None
    assert (verdict.weights[10:] > 0).all()
    assert not crafted("free_rider", 3, benign).any()  # nothing is known before the first aggregate
    assert torch.equal(crafted("free_rider", 2, benign, previous=previous, noise=0.0), previous.expand(2, -1))
