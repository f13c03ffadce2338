"""Update attacks against their papers' definitions, and what `fedpoison.craft` refuses."""

from functools import partial
from pathlib import Path
from typing import Any

import making
import pytest
import torch
from torch import Tensor

import fedpoison
from fedpoison.attacks.updates.alie import largest_hidden_z
from fedpoison.config.config import parse
from fedpoison.config.sweep import load
from fedpoison.round import play
from fedpoison.runs.running import Job
from fedpoison.runs.world import build
from fedpoison.types import Verdict

DTYPES = [torch.float32, torch.float64]


rows = partial(making.rows, mean=0.5)


def mean_of(*parts: Tensor) -> Tensor:
    return fedpoison.aggregate("mean", torch.cat(parts)).update


# ALIE


@pytest.mark.parametrize(("n", "f", "z"), [(25, 5, 0.2533), (50, 24, 1.4261), (51, 12, 0.3612), (100, 20, 0.2858)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_alie_equals_the_papers_numbers(n: int, f: int, z: float, dtype: torch.dtype) -> None:
    assert largest_hidden_z(n, f) == pytest.approx(z, abs=5e-5)
    benign = rows(n - f)
    crafted = fedpoison.craft("alie", n_malicious=f, benign=benign.to(dtype)).double()
    mean = benign.sum(dim=0) / (n - f)
    std = ((benign - mean) ** 2).sum(dim=0).div(n - f).sqrt()  # the population's
    assert crafted.shape == (f, 30)
    torch.testing.assert_close((mean - crafted) / std, torch.full((f, 30), z).double(), atol=6e-5, rtol=0)


# Min-Max and Min-Sum

DIRECTIONS = ["std", "unit", "sign"]


def towards(benign: Tensor, direction: str) -> Tensor:
    mean = benign.mean(dim=0)
    return {"std": -benign.std(dim=0, correction=0), "unit": -mean / mean.norm(), "sign": -mean.sign()}[direction]


def halved(allowed: Any) -> float:
    """The largest γ that is allowed, by halving intervals as the paper does."""
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if allowed(middle) else (low, middle)
    return low


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("seed", range(4))
def test_min_max_goes_as_far_as_its_bound_lets_it(direction: str, seed: int) -> None:
    benign = rows(9, seed=seed)
    mean, step, farthest = benign.mean(dim=0), towards(benign, direction), torch.pdist(benign).max()
    gamma = halved(lambda g: (mean + g * step - benign).norm(dim=1).max() <= farthest)
    crafted = fedpoison.craft("min_max", n_malicious=2, benign=benign, direction=direction)
    torch.testing.assert_close(crafted, (mean + gamma * step).expand(2, -1))
    assert gamma > 0.1


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("seed", range(4))
def test_min_sum_goes_as_far_as_its_bound_lets_it(direction: str, seed: int) -> None:
    benign = rows(9, seed=seed)
    mean, step = benign.mean(dim=0), towards(benign, direction)
    most = max(float((benign - row).square().sum()) for row in benign)
    gamma = halved(lambda g: (mean + g * step - benign).square().sum() <= most)
    crafted = fedpoison.craft("min_sum", n_malicious=2, benign=benign, direction=direction)
    torch.testing.assert_close(crafted, (mean + gamma * step).expand(2, -1))
    assert gamma > 0.1


def test_min_sum_is_nearer_than_min_max_and_both_send_the_mean_of_equals() -> None:
    benign = rows(12, seed=5)
    far, near = (fedpoison.craft(name, n_malicious=1, benign=benign)[0] for name in ("min_max", "min_sum"))
    assert (near - benign.mean(0)).norm() < (far - benign.mean(0)).norm()
    for name in ("min_max", "min_sum"):
        for same in (benign[:1].repeat(4, 1), torch.zeros(4, 30)):
            torch.testing.assert_close(fedpoison.craft(name, n_malicious=1, benign=same)[0], same[0])


def test_min_max_by_hand() -> None:
    benign = torch.tensor([[0.0], [2.0]])  # mean 1, deviation 1; 2 apart: at −γ from the mean, 1 + γ ≤ 2
    assert fedpoison.craft("min_max", n_malicious=1, benign=benign).tolist() == [[0.0]]
    assert fedpoison.craft("min_max", n_malicious=1, benign=benign + 5).tolist() == [[5.0]]


@pytest.mark.parametrize("z", [0.5, 3, -1.0, 0.0])
def test_alie_takes_the_z_that_is_given(z: float) -> None:
    benign = rows(7)
    crafted = fedpoison.craft("alie", n_malicious=2, benign=benign, z=z)
    torch.testing.assert_close(crafted, (benign.mean(0) - z * benign.std(0, correction=0)).expand(2, -1))


IMPOSSIBLE = [(4, 1, "-0.43"), (10, 6, "inf"), (10, 7, "nan"), (3, 1, "0"), (4, 4, "nan")]


@pytest.mark.parametrize(("n", "f", "z"), IMPOSSIBLE)
def test_alie_says_when_its_z_is_no_positive_number_and_sends_the_mean(n: int, f: int, z: str) -> None:
    benign = rows(max(1, n - f))
    with pytest.warns(UserWarning, match=rf"alie: z = {z}\S* for n = {n}, {f} malicious, so 0 is used"):
        crafted = fedpoison.craft("alie", n_malicious=f, benign=benign, n=n)
    torch.testing.assert_close(crafted, benign.mean(0).expand(f, -1))


@pytest.mark.parametrize(("n", "f"), [case[:2] for case in IMPOSSIBLE])
@pytest.mark.filterwarnings("error")
def test_alie_is_silent_when_z_is_given(n: int, f: int) -> None:
    benign = rows(max(2, n - f))
    crafted = fedpoison.craft("alie", n_malicious=f, benign=benign, n=n, z=1.0)
    torch.testing.assert_close(crafted, (benign.mean(0) - benign.std(0, correction=0)).expand(f, -1))


@pytest.mark.parametrize("attack", ["alie", "min_max", "min_sum"])
def test_who_knows_a_single_honest_update_sends_it_and_says_so(attack: str) -> None:
    alone = rows(1)
    with pytest.warns(UserWarning, match=f"{attack}: they know a single honest update"):
        crafted = fedpoison.craft(attack, n_malicious=2, benign=alone, n=5)  # where alie's z is positive
    torch.testing.assert_close(crafted, alone.expand(2, -1))


@pytest.mark.parametrize(
    ("clients", "threat", "said"),
    [
        ({"count": 20}, {"share": 0.1}, ["alie: z = 0 for n = 20, 2 malicious"]),
        ({"count": 10}, {"malicious": 1}, ["alie: z = -0.1397 for n = 10, 1 malicious"]),
        ({"count": 20}, {"malicious": 4}, []),
        ({"count": 20}, {"malicious": 2, "update": {"name": "alie", "z": 1.0}}, []),
        (
            {"count": 40, "per_round": 10},
            {"malicious": 9},
            ["alie: z = 0 for n = 10, 2 malicious"],
        ),  # in an expected cohort
        ({"count": 9}, {"malicious": 1, "update": "min_max", "knows": "colluders"}, ["min_max: they know a single"]),
        ({"count": 9}, {"malicious": 1, "update": "min_max"}, []),
    ],
)
def test_an_attack_that_is_the_honest_mean_is_warned_of_before_the_start(
    clients: dict[str, Any], threat: dict[str, Any], said: list[str], tmp_path: Path
) -> None:
    table = {"name": "t", "rounds": 1, "data": "digits", "clients": clients, "defence": {"f": 4}}
    notes = Job(load({**table, "threat": {"update": "alie", **threat}}), tmp_path).warnings()
    notes = [note for note in notes if "than f" not in note]
    assert [note[: len(start)] for note, start in zip(notes, said, strict=True)] == said


def test_alies_remark_is_an_event_of_the_round() -> None:
    table = {
        "name": "t",
        "rounds": 1,
        "data": {"name": "digits"},
        "model": "logistic",
        "clients": {"count": 4},
        "threat": {"malicious": 1, "update": "alie"},
    }
    world, state = build(parse(table))
    events = play(state, world)[1]["events"]
    assert [event["what"] for event in events] == ["attack"]
    assert "alie: z = -0.43" in events[0]["detail"]
    table["threat"] = {"malicious": 1, "update": {"name": "alie", "z": 1.0}}
    world, state = build(parse(table))
    assert play(state, world)[1]["events"] == []


# IPM


@pytest.mark.parametrize(("n", "f"), [(10, 2), (10, 4), (7, 3), (20, 1)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_ipm_turns_the_mean_round_only_beyond_its_bound(n: int, f: int, dtype: torch.dtype) -> None:
    benign, bound = rows(n - f, dtype=dtype), (n - f) / f

    def product(epsilon: float) -> float:
        crafted = fedpoison.craft("ipm", n_malicious=f, benign=benign, epsilon=epsilon)
        torch.testing.assert_close(crafted, (-epsilon * benign.mean(0)).expand(f, -1))
        return float(mean_of(benign, crafted) @ benign.mean(0))

    assert product(0.99 * bound) > 0
    assert product(1.01 * bound) < 0


# Model replacement


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("server_lr", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_model_replacement_replaces_the_model(k: int, server_lr: float, dtype: torch.dtype) -> None:
    n, params, wanted = 12, rows(1, seed=1, dtype=dtype)[0], rows(1, seed=2, dtype=dtype)[0]
    own = (wanted - params).repeat(k, 1)
    crafted = fedpoison.craft("model_replacement", n_malicious=k, own=own, n=n, params=params, server_lr=server_lr)
    torch.testing.assert_close(crafted, own * (n / (k * server_lr)))
    still = torch.zeros(n - k, len(params), dtype=dtype)
    torch.testing.assert_close(params + server_lr * mean_of(still, crafted), wanted)


def test_colluders_who_differ_replace_the_model_by_their_mean() -> None:
    own = rows(3)
    crafted = fedpoison.craft("model_replacement", n_malicious=3, own=own, n=10, server_lr=0.5)
    torch.testing.assert_close(0.5 * mean_of(torch.zeros(7, 30, dtype=torch.float64), crafted), own.mean(0))


def test_model_replacement_takes_the_scale_that_is_given() -> None:
    own = rows(3)
    crafted = fedpoison.craft("model_replacement", n_malicious=3, own=own, n=10, server_lr=0.5, scale=7.0)
    torch.testing.assert_close(crafted, 7 * own)


# The simple ones


@pytest.mark.parametrize(("n", "f"), [(10, 2), (10, 5), (7, 3), (9, 6)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sign_flip_shrinks_the_mean(n: int, f: int, dtype: torch.dtype) -> None:
    update = rows(1, dtype=dtype)
    crafted = fedpoison.craft("sign_flip", n_malicious=f, own=update.repeat(f, 1))
    torch.testing.assert_close(mean_of(update.repeat(n - f, 1), crafted), (n - 2 * f) / n * update[0])


def test_sign_flip_turns_and_scales_each_attackers_own_update() -> None:
    own = rows(3)
    torch.testing.assert_close(fedpoison.craft("sign_flip", n_malicious=3, own=own, scale=2.5), -2.5 * own)


@pytest.mark.parametrize("std", [0.5, 200, 1e-3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gaussian_has_the_asked_deviation(std: float, dtype: torch.dtype) -> None:
    params = torch.ones(20_000, dtype=dtype)
    crafted = fedpoison.craft("gaussian", n_malicious=3, params=params, std=std)
    assert crafted.shape == (3, 20_000)
    assert crafted.dtype == dtype
    for row in crafted.double() / std:
        assert float(row.mean()) == pytest.approx(0, abs=0.03)
        assert float(row.std()) == pytest.approx(1, abs=0.03)
        assert float((row**4).mean()) == pytest.approx(3, abs=0.3)  # the normal distribution's kurtosis
    assert (torch.corrcoef(crafted).fill_diagonal_(0).abs() < 0.05).all()


def test_gaussian_draws_alike_for_a_seed_and_anew_each_round() -> None:
    def draw(**of: int) -> Tensor:
        return fedpoison.craft("gaussian", n_malicious=2, params=torch.zeros(9), **of)

    assert torch.equal(draw(seed=1, round=2), draw(seed=1, round=2))
    assert not torch.equal(draw(seed=1, round=2), draw(seed=1, round=3))
    assert not torch.equal(draw(seed=1, round=2), draw(seed=2, round=2))


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_is_nan_everywhere(dtype: torch.dtype) -> None:
    crafted = fedpoison.craft("nan", n_malicious=2, params=torch.zeros(9, dtype=dtype))
    assert crafted.shape == (2, 9)
    assert crafted.dtype == dtype
    assert crafted.isnan().all()


# craft


@fedpoison.update_attack()
def asks_for_all(  # type: ignore[no-untyped-def]
    benign,
    benign_ids,
    full_knowledge,
    own,
    n_malicious,
    malicious,
    n,
    params,
    previous,
    server_lr,
    defend,
    say,
    state,
    rng,
):
    """Ask for every word there is."""
    verdict = defend(torch.cat([benign, own]))
    say(f"{n} {server_lr} {float(previous.sum())} {sorted(state)} {isinstance(verdict, Verdict)}")
    say(f"{benign_ids.tolist()} {full_knowledge} {malicious.int().tolist()}")
    return own + benign.mean(0), {**state, "seen": params}


@pytest.mark.parametrize(
    ("attack", "given", "missing"),
    [
        ("alie", {}, "alie asks for benign, n, which is not given"),
        ("ipm", {"own": rows(2)}, "ipm asks for benign,"),
        ("sign_flip", {"benign": rows(3)}, "sign_flip asks for own,"),
        ("model_replacement", {"own": rows(2)}, "model_replacement asks for n,"),
        ("model_replacement", {"n": 9}, "model_replacement asks for own,"),
        ("gaussian", {}, "gaussian asks for params,"),
        (asks_for_all, {"benign": rows(3), "own": rows(2)}, "asks_for_all asks for defend,"),
        ("sign_flip", {"own": rows(3)}, "own has 3 rows for n_malicious = 2"),
        ("sign_flip", {"own": rows(2), "epsilon": 1.0}, "sign_flip has no option 'epsilon'"),
        ("sign_flip", {"own": rows(2), "scale": "big"}, "sign_flip.scale = 'big'"),
        ("sign_flop", {"own": rows(2)}, "there is no update_attack 'sign_flop'; did you mean 'sign_flip'"),
        (rows, {}, "is not a function with the update_attack decorator"),
    ],
)
def test_craft_says_what_is_missing_or_wrong(attack: Any, given: dict[str, Any], missing: str) -> None:
    with pytest.raises(ValueError, match=missing):
        fedpoison.craft(attack, n_malicious=2, **given)


def test_craft_supplies_every_word() -> None:
    benign, own = rows(3), rows(2, seed=1)
    with (
        pytest.warns(UserWarning, match=r"5 0.5 30.0 \['before'\] True"),
        pytest.warns(UserWarning, match=r"\[0, 1, 2\] True \[0, 0, 0, 1, 1\]"),
    ):
        crafted, _ = fedpoison.craft(
            asks_for_all,
            n_malicious=2,
            benign=benign,
            own=own,
            server_lr=0.5,
            previous=torch.ones(30, dtype=torch.float64),
            defend=lambda updates: fedpoison.aggregate("mean", updates),
            state={"before": torch.zeros(1)},
        )
    torch.testing.assert_close(crafted, own + benign.mean(0))
