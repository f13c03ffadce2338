"""Attacks that try the defence out."""

from typing import Any

import pytest
import torch
from torch import Tensor

import fedpoison
from fedpoison.attacks.updates.tailored import tailored
from fedpoison.common.errors import ConfigError
from fedpoison.config.config import parse
from fedpoison.round import play
from fedpoison.runs.world import build
from fedpoison.types import Verdict
from tests.attacks.crafting import against, crafted, damage, drawn, honest, under

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
RULES = ["krum", "multi_krum", "bulyan", "trimmed_mean", "median"]
OTHERS = ["alie", "min_max", "min_sum", "fang_trimmed_mean", "fang_krum"]


@pytest.mark.parametrize("rule", RULES)
def test_tailored_does_more_damage_than_attacks_that_do_not_know_the_rule(rule: str) -> None:
    benign, f = honest(16, seed=1), 4
    most = max(damage(rule, attack, f, benign) for attack in OTHERS)
    assert damage(rule, "tailored", f, benign) >= 0.97 * most  # what a row can do to the median is soon done


@pytest.mark.parametrize("rule", ["krum", "multi_krum", "trimmed_mean", "median"])
def test_min_max_and_min_sum_do_more_damage_than_alie_and_ipm(rule: str) -> None:
    benign, f = honest(16, seed=1), 4
    least = min(damage(rule, attack, f, benign) for attack in ("min_max", "min_sum"))
    assert least > 1.2 * max(damage(rule, attack, f, benign) for attack in ("alie", "ipm"))


@pytest.mark.parametrize("rule", [*RULES, "geometric_median", "mean"])
def test_opt_alie_and_opt_ipm_are_the_best_alie_and_ipm(rule: str) -> None:
    benign, f = honest(16, seed=2), 4
    mean, deviation = benign.mean(0), benign.std(0, correction=0)

    def along(attack: str, towards: Tensor, **given: Any) -> float:
        made = crafted(attack, f, benign, defend=under(rule, f), **given)
        return float((under(rule, f)(torch.cat([benign, made])).update - mean) @ towards / towards.norm())

    best = abs(along("opt_alie", deviation))
    for z in (None, 0.5, 1.0, 2.0, 4.0, -0.5, -1.0, -2.0, -4.0):
        sign = -1 if z is None or z > 0 else 1
        assert best >= sign * along("alie", deviation, z=z) - 1e-9
    best = along("opt_ipm", -mean)
    for epsilon in (0.125, 0.5, 1.0, 4.0, 16.0):
        assert best >= along("ipm", -mean, epsilon=epsilon) - 1e-9


def test_against_the_mean_the_strongest_is_the_strongest_that_is_tried() -> None:
    benign, f = honest(16), 4
    made = crafted("opt_ipm", f, benign, defend=under("mean", f))
    torch.testing.assert_close(made[0] / benign.mean(0), torch.full((200,), -64 * 2**0.9375, dtype=torch.float64))
    assert against("mean", "opt_ipm", f, benign) < 0


@pytest.mark.parametrize("f", [1, 4])
def test_krum_is_sent_the_longest_that_it_still_takes(f: int) -> None:
    """Krum's limit, by halving; alone it is shorter than honest updates are off their mean."""
    benign = honest(16, seed=3)
    mean, step = benign.mean(0), -benign.std(0, correction=0)

    def taken(gamma: float) -> bool:
        row = mean + gamma * step
        return torch.equal(under("krum", f)(torch.cat([benign, row.repeat(f, 1)])).update, row)

    low, high = 0.0, 64.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if taken(middle) else (low, middle)
    found = float((crafted("tailored", f, benign, defend=under("krum", f))[0] - mean).norm() / step.norm())
    assert 0.95 * low <= found <= low * (1 + 1e-9)
    assert (low < 1) == (f == 1)


def test_an_honest_client_far_off_that_is_chosen_is_no_damage() -> None:
    benign = honest(6)
    mean, step = benign.mean(0), -benign.std(0, correction=0)
    across = honest(1, seed=9)[0]
    across -= (across @ step) / (step @ step) * step

    def defend(updates: Tensor) -> Verdict:
        gamma = (updates[-1] - mean).norm() / step.norm()
        return Verdict(updates[-1] if gamma < 1.9 else mean + 100 * across)

    found = (crafted("tailored", 1, benign, defend=defend)[0] - mean).norm() / step.norm()
    assert 1.8 < float(found) < 1.9


def test_what_is_found_is_said_and_the_defence_is_tried_with_each_in_its_place() -> None:
    benign, said, tried = honest(5), [], []
    malicious = torch.tensor([True, False, False, True, False, False, False])

    def defend(updates: Tensor) -> Verdict:
        tried.append(updates.clone())
        return fedpoison.aggregate("trimmed_mean", updates, f=2)

    made = tailored(benign, 2, malicious, defend, said.append)
    assert len(tried) == 19
    for updates in tried:
        assert torch.equal(updates[~malicious], benign)
        assert torch.equal(updates[0], updates[3])
    assert any(torch.equal(updates[malicious], made) for updates in tried)
    (text,) = said
    assert text.startswith("tailored: gamma = ")


def test_honest_updates_that_are_not_known_are_drawn_like_those_that_are() -> None:
    known, malicious = honest(6), torch.arange(406) < 6
    seen: list[Tensor] = []

    def defend(updates: Tensor) -> Verdict:
        seen.append(updates[~malicious].clone())
        return Verdict(updates.mean(0))

    tailored(known, 6, malicious, defend, lambda said: None)
    assert torch.equal(seen[0], seen[-1])
    assert torch.equal(seen[0][:6], known)
    others = seen[0][6:]
    assert len(others) == 394
    deviation = known.std(0, correction=0)
    assert ((others.mean(0) - known.mean(0)).abs() / deviation).max() < 0.35
    assert float((others.std(0) / deviation).mean()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("equal", [torch.zeros(5, 30), torch.ones(5, 30)])
def test_where_nothing_spreads_it_still_sends_something_finite(equal: Tensor) -> None:
    for attack in ("tailored", "opt_alie", "opt_ipm"):
        assert crafted(attack, 2, equal, defend=under("median", 2)).isfinite().all()


@pytest.mark.parametrize("rule", ["trimmed_mean", "median", "multi_krum", "mean"])
def test_pga_sends_the_length_that_moves_the_aggregate_most(rule: str) -> None:
    rows, f = honest(20, seed=4), 4
    benign, own = rows[:16], 2 * rows[16:]
    made = crafted("pga", f, benign, own=own, defend=under(rule, f))
    usual = under(rule, f)(torch.cat([benign, own])).update

    def moved(malicious: Tensor) -> float:
        return float((under(rule, f)(torch.cat([benign, malicious])).update - usual).norm())

    alike = -own / own.norm(dim=1, keepdim=True) * benign.norm(dim=1).mean()
    gamma = float(made[0].norm() / alike[0].norm())
    torch.testing.assert_close(made, gamma * alike)
    assert 0 < gamma <= 5.0001
    assert gamma == pytest.approx(round(20 * gamma) / 20)
    assert moved(made) >= max(moved(tried * alike) for tried in (0.5, 1.0, 2.0, 3.5, 5.0)) - 1e-9
    assert moved(made) >= moved(crafted("sign_flip", f, benign, own=own / 2))
    assert float((made.mean(0) - usual) @ benign.mean(0)) < 0
    nothing = crafted("pga", f, benign, own=torch.zeros_like(own), defend=under(rule, f))
    assert not nothing.any()


TABLE: dict[str, Any] = {
    "name": "t",
    "rounds": 1,
    "data": {"name": "digits"},
    "model": "logistic",
    "clients": {"count": 9},
    "threat": {"malicious": 2, "update": "tailored", "knows": ["all", "defence"]},
    "defence": {"aggregator": "trimmed_mean"},
}


def test_in_a_run_it_must_know_the_defence_and_may_know_colluders_alone() -> None:
    with pytest.raises(ConfigError, match=r'tailored asks for the defence: threat.knows must hold "defence"'):
        parse({**TABLE, "threat": {**TABLE["threat"], "knows": "all"}})
    for knows in ("all", "colluders"):
        world, state = build(parse({**TABLE, "threat": {**TABLE["threat"], "knows": [knows, "defence"]}}))
        (event,) = play(state, world)[1]["events"]
        assert event["detail"].startswith("tailored: gamma = ")


def test_a_direction_may_be_chosen() -> None:
    benign = honest(16) + 0 * torch.randn(1, generator=drawn())
    for direction in ("unit", "sign"):
        away = crafted("tailored", 4, benign, defend=under("median", 4), direction=direction)[0] - benign.mean(0)
        step = benign.mean(0).sign() if direction == "sign" else benign.mean(0)
        assert float(torch.cosine_similarity(away, -step, dim=0)) == pytest.approx(1)
