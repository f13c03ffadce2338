"""The rules that look for attackers in the setting of their papers, where the mean fails; and what gets past them."""

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fedpoison import Verdict, aggregate, craft
from fedpoison.config.config import parse
from fedpoison.round import play
from fedpoison.runs.world import build

RULES = ("fltrust", "foolsgold", "signguard", "clipped_clustering", "alignins", "freqfed")


def noise(n: int, d: int = 400, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def error(update: Tensor, wanted: Tensor) -> float:
    """How far from `wanted`, relative to its length."""
    return float((update - wanted).norm() / wanted.norm())


def flags(verdict: Verdict) -> list[bool]:
    assert verdict.flagged is not None
    return verdict.flagged.tolist()


def weights(verdict: Verdict) -> Tensor:
    assert verdict.weights is not None
    return verdict.weights


# ---- FLTrust: a majority that boosts what it wants


def fltrust_rows(n_honest: int, n_malicious: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Honest updates about a common direction, the root update among them, and a boosted replacement."""
    common = noise(1, seed=seed)[0]
    honest, root = common + noise(n_honest, seed=seed + 1), common + noise(1, seed=seed + 2)[0]
    own = -common + 0.1 * noise(n_malicious, seed=seed + 3)
    crafted = craft("model_replacement", own=own, n_malicious=n_malicious, n=n_honest + n_malicious)
    assert isinstance(crafted, Tensor)
    return honest, root, crafted


@pytest.mark.parametrize(("n_honest", "n_malicious"), [(10, 1), (10, 9), (4, 16)])
def test_fltrust_withstands_boosted_replacement_by_a_majority(n_honest: int, n_malicious: int) -> None:
    honest, root, crafted = fltrust_rows(n_honest, n_malicious)
    matrix, wanted = torch.cat([honest, crafted]), honest.mean(dim=0)
    verdict = aggregate("fltrust", matrix, root_update=root)
    assert weights(verdict)[n_honest:].tolist() == [0.0] * n_malicious
    assert torch.cosine_similarity(verdict.update, wanted, dim=0) > 0.9
    assert float(verdict.update.norm()) <= float(root.norm())
    assert torch.cosine_similarity(aggregate("mean", matrix).update, wanted, dim=0) < 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("large", [1e6, 1e30])
def test_fltrust_is_exact_beside_a_majority_of_huge_equal_rows(large: float, dtype: torch.dtype) -> None:
    """The centre of a Gram matrix would lie among them."""
    honest, root, crafted = fltrust_rows(4, 16)
    alone = aggregate("fltrust", honest, root_update=root).update
    crafted = crafted[:1].repeat(16, 1) / crafted[0].norm() * large
    matrix = torch.cat([crafted, honest]).to(dtype)
    verdict = aggregate("fltrust", matrix, root_update=root.to(dtype))
    assert error(verdict.update.double(), alone) < 1e-6


@pytest.mark.parametrize("short", [1e-3, 1e-38])
def test_fltrust_brings_the_shortest_update_to_the_root_update_s_length(short: float) -> None:
    honest, root, _ = fltrust_rows(3, 1)
    matrix = honest.float()
    matrix[1] *= short
    expected = aggregate("fltrust", honest, root_update=root).update
    verdict = aggregate("fltrust", matrix, root_update=root.float())
    assert error(verdict.update.double(), expected) < 1e-5


def test_fltrust_does_not_look_at_lengths_so_clipping_first_changes_nothing() -> None:
    honest, root, crafted = fltrust_rows(6, 3)
    matrix = torch.cat([honest, crafted])
    clipped = aggregate("fltrust", matrix, root_update=root, pre=[{"name": "clipping", "threshold": 2.0}])
    assert error(clipped.update, aggregate("fltrust", matrix, root_update=root).update) < 1e-9


def test_fltrust_trusts_who_adds_damage_to_the_server_s_direction() -> None:
    honest, root, crafted = fltrust_rows(10, 5)
    damage = noise(1, seed=9)[0]
    crafted = (root + damage).repeat(5, 1)
    update = aggregate("fltrust", torch.cat([honest, crafted]), root_update=root).update
    assert torch.cosine_similarity(update, damage, dim=0) > 0.3


# ---- FoolsGold: sybils with one poison


def clients_of_their_own(n: int, number: int) -> Tensor:
    """Updates of clients that each have data of their own, about which a round's batch varies."""
    return noise(n, seed=50) + 0.5 * noise(n, seed=60 + number)


@pytest.mark.parametrize("n_sybils", [2, 5, 30])
def test_foolsgold_withstands_any_number_of_sybils_with_identical_updates(n_sybils: int) -> None:
    """Cohorts change: the history of those who take part decides, and the sybils' is one direction."""
    state: dict[str, Tensor] = {}
    poison = noise(1, seed=99)[0]
    for number in range(6):
        present = torch.randperm(10, generator=torch.Generator().manual_seed(number))[:7].sort().values
        honest = clients_of_their_own(10, number)[present]
        matrix = torch.cat([honest, poison.repeat(n_sybils, 1)])
        ids = torch.cat([present, 100 + torch.arange(n_sybils)])
        verdict = aggregate("foolsgold", matrix, client_ids=ids, state=state)
        state = dict(verdict.state)
        assert weights(verdict)[7:].tolist() == [0.0] * n_sybils
        assert error(verdict.update, honest.mean(dim=0)) < 0.3
        assert error(aggregate("mean", matrix).update, honest.mean(dim=0)) > 0.5
    assert all(isinstance(tensor, Tensor) for tensor in state.values())
    assert state["foolsgold.rows"].shape == (10 + n_sybils, 400)


def test_foolsgold_s_memory_tells_sybils_who_vary_from_round_to_round() -> None:
    """Their common direction is small in each round, and adds up over rounds."""
    poison, state, found = noise(1, seed=99)[0], {}, []
    for number in range(8):
        sybils = poison + 1.5 * noise(3, seed=300 + number)
        matrix = torch.cat([clients_of_their_own(6, number), sybils])
        verdict = aggregate("foolsgold", matrix, state=state, combine="sum")
        state = dict(verdict.state)
        found.append(float(weights(verdict)[6:].max()))
    assert found[0] > 0.5
    assert found[-1] == 0


def test_foolsgold_gives_nothing_when_everybody_sends_the_same() -> None:
    for dtype in (torch.float32, torch.float64):
        matrix = noise(1, seed=3).to(dtype).repeat(5, 1)
        verdict = aggregate("foolsgold", matrix)
        assert weights(verdict).tolist() == [0.0] * 5
        assert not verdict.update.any()
        assert not aggregate("foolsgold", matrix, combine="sum").update.any()


def test_foolsgold_stays_finite_however_much_one_client_has_sent() -> None:
    state: dict[str, Tensor] = {}
    for number in range(4):
        matrix = noise(3, seed=number).float()
        matrix[0] = torch.finfo(torch.float32).max
        state = dict(aggregate("foolsgold", matrix, state=state).state)
        assert state["foolsgold.rows"].isfinite().all()
    matrix[0] = 0
    assert aggregate("foolsgold", matrix, state=state).update.isfinite().all()


def test_foolsgold_takes_honest_clients_with_the_same_data_for_sybils_and_a_lone_attacker_for_honest() -> None:
    matrix = torch.cat([noise(1) + 0.2 * noise(5, seed=1), -noise(1, seed=2)])
    given = weights(aggregate("foolsgold", matrix))
    assert given[-1] == 1
    assert (given[:-1] < 0.1).all()


# ---- SignGuard: "a little is enough", which changes signs more than distances


@pytest.mark.parametrize("variant", ["plain", "sim", "dist"])
@pytest.mark.parametrize("seed", range(3))
def test_signguard_finds_a_little_is_enough(variant: str, seed: int) -> None:
    honest = 0.3 + noise(16, 2000, seed=seed)
    crafted = craft("alie", benign=honest, n_malicious=4, z=1.0)
    matrix, wanted = torch.cat([honest, crafted]), honest.mean(dim=0)
    verdict = aggregate("signguard", matrix, variant=variant, seed=seed, f=4)
    assert flags(verdict)[16:] == [True] * 4
    assert sum(flags(verdict)[:16]) <= 8
    assert error(verdict.update, wanted) < error(aggregate("mean", matrix).update, wanted)


def test_signguard_counts_none_who_is_huge_and_bounds_the_others_by_the_median_norm() -> None:
    honest = 0.3 + noise(10, 500)
    matrix = torch.cat([honest, 1e30 * honest[:4], 2.9 * honest[4:5]]).float()
    verdict = aggregate("signguard", matrix)
    assert flags(verdict)[10:14] == [True] * 4
    assert float(verdict.update.norm()) <= float(verdict.norms.median())


def test_signguard_lets_pass_who_has_the_length_and_the_signs_of_an_honest_update() -> None:
    honest = 0.3 + noise(10, 2000)
    shuffled = honest[:3, torch.randperm(2000, generator=torch.Generator().manual_seed(1))]
    passed = [not any(flags(aggregate("signguard", torch.cat([honest, shuffled]), seed=s))[10:]) for s in range(8)]
    assert any(passed)


# ---- clipped clustering: a minority that turns round, or boosts


@pytest.mark.parametrize("epsilon", [0.5, 10.0])
def test_clipped_clustering_finds_who_turns_the_inner_product(epsilon: float) -> None:
    honest = 1.0 + noise(14)
    crafted = craft("ipm", benign=honest, n_malicious=6, epsilon=epsilon)
    matrix, wanted = torch.cat([honest, crafted]), honest.mean(dim=0)
    verdict = aggregate("clipped_clustering", matrix, f=6)
    assert flags(verdict) == [False] * 14 + [True] * 6
    assert error(verdict.update, wanted) < 0.1 < error(aggregate("mean", matrix).update, wanted)


def test_clipped_clustering_remembers_how_long_updates_used_to_be() -> None:
    """A majority that boosts in the honest direction is clipped to what was usual."""
    state: dict[str, Tensor] = {}
    for number in range(5):
        state = dict(aggregate("clipped_clustering", 1 + 0.1 * noise(6, seed=number), state=state).state)
    boosted = torch.cat([1 + 0.1 * noise(2), 1e6 * (1 + 0.1 * noise(4, seed=8))])
    assert float(aggregate("clipped_clustering", boosted).update.norm()) > 1e6
    verdict = aggregate("clipped_clustering", boosted, state=state)
    assert float(verdict.update.norm()) < 21
    assert list(verdict.state) == ["clipped_clustering.norms"]
    assert len(verdict.state["clipped_clustering.norms"]) == 36


def test_clipped_clustering_loses_somebody_on_clean_rounds_and_keeps_attackers_who_part() -> None:
    honest = 1.0 + noise(14)
    assert any(flags(aggregate("clipped_clustering", honest)))
    one, other = noise(2, seed=5)
    parted = torch.cat([honest, one.repeat(3, 1), other.repeat(3, 1)])
    kept = [not flag for flag in flags(aggregate("clipped_clustering", parted))]
    assert any(kept[14:])


# ---- AlignIns: a backdoor that is large in a few coordinates


def backdoored(n_honest: int, n_malicious: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """The model, honest updates that shrink it a little, and updates that push a part of the coordinates."""
    model = noise(1, 1000, seed=seed + 40)[0]
    common = -0.3 * model + noise(1, 1000, seed=seed + 41)[0]
    honest = common + 0.5 * noise(n_honest, 1000, seed=seed)
    crafted = common + 0.5 * noise(n_malicious, 1000, seed=seed + 1)
    crafted[:, :150] = -2 * common[:150].sign() + 0.1 * noise(n_malicious, 150, seed=seed + 2)
    return model, honest, crafted


@pytest.mark.parametrize("seed", range(3))
def test_alignins_finds_a_backdoor(seed: int) -> None:
    model, honest, crafted = backdoored(16, 4, seed)
    matrix, wanted = torch.cat([honest, crafted]), honest.mean(dim=0)
    verdict = aggregate("alignins", matrix, params=model)
    assert flags(verdict)[16:] == [True] * 4
    assert sum(flags(verdict)[:16]) < 12
    part = slice(0, 150)
    assert error(verdict.update[part], wanted[part]) < 0.5 * error(aggregate("mean", matrix).update[part], wanted[part])


def test_alignins_clips_to_the_median_norm_of_those_who_stay() -> None:
    model, honest, _ = backdoored(15, 0)
    kept = [not flag for flag in flags(aggregate("alignins", honest, params=model))]
    assert sum(kept) >= 3
    one = kept.index(True)
    boosted = honest.clone()
    boosted[one] *= 1e30  # neither direction nor signs change
    verdict = aggregate("alignins", boosted, params=model)
    assert [not flag for flag in flags(verdict)] == kept
    assert float(verdict.update.norm()) <= float(honest[kept].norm(dim=1).max())


def test_alignins_gives_nothing_when_nobody_stays() -> None:
    matrix = noise(2)
    verdict = aggregate("alignins", matrix, params=noise(1, seed=5)[0])
    assert flags(verdict) == [True, True]
    assert not verdict.update.any()
    assert not verdict.skipped


def test_alignins_lets_pass_who_copies_an_honest_client() -> None:
    model, honest, _ = backdoored(16, 0)
    copies = (torch.cat([honest, row.repeat(4, 1)]) for row in honest)
    assert any(flags(aggregate("alignins", matrix, params=model))[16:] == [False] * 4 for matrix in copies)


# ---- FreqFed: poison that changes low frequencies


def test_freqfed_finds_models_with_other_low_frequencies() -> None:
    model, d = noise(1, seed=40)[0], 400
    honest = 0.5 * noise(1, seed=41)[0] + 0.1 * noise(14, seed=42)
    wave = torch.cos(torch.linspace(0, math.pi, d, dtype=torch.float64))
    crafted = honest[:6] + 2 * wave
    matrix, wanted = torch.cat([honest, crafted]), honest.mean(dim=0)
    verdict = aggregate("freqfed", matrix, params=model)
    assert flags(verdict)[14:] == [True] * 6
    assert sum(flags(verdict)[:14]) < 7
    assert error(verdict.update, wanted) < 0.2 < error(aggregate("mean", matrix).update, wanted)


def test_freqfed_does_not_see_high_frequencies() -> None:
    model, d = noise(1, seed=40)[0], 400
    honest = 0.5 * noise(1, seed=41)[0] + 0.1 * noise(14, seed=42)
    angles = math.pi * (d - 1) / (2 * d) * (2 * torch.arange(d, dtype=torch.float64) + 1)
    crafted = honest + 5 * torch.cos(angles)  # the highest frequency of all, and nothing else
    assert flags(aggregate("freqfed", torch.cat([honest[:7], crafted[7:]]), params=model)) == flags(
        aggregate("freqfed", honest, params=model)
    )
    assert not any(flags(aggregate("freqfed", torch.cat([honest[:7], crafted[7:]]), params=model, share=0.0)))


def test_freqfed_tells_models_apart_that_differ_little_next_to_their_length() -> None:
    """Updates of a ten-thousandth of the model: 1 − cos is 1e-9, and the choice is that of updates in float64."""
    model = 100 * noise(1, seed=40)[0]
    honest = 0.01 * (noise(1, seed=41)[0] + 0.1 * noise(14, seed=42))
    matrix = torch.cat([honest, -honest[:6]])
    assert flags(aggregate("freqfed", matrix.float(), params=model.float()))[14:] == [True] * 6
    assert flags(aggregate("freqfed", matrix.float(), params=model.float())) == flags(
        aggregate("freqfed", matrix, params=model)
    )


# ---- what all of them withstand: anything finite


HARD: dict[str, Callable[[Tensor], Tensor]] = {
    "zeros": torch.zeros_like,
    "one zero": lambda matrix: matrix.index_fill(0, torch.tensor([0]), 0.0),
    "all equal": lambda matrix: matrix[:1].repeat(len(matrix), 1),
    "two and the rest": lambda matrix: torch.cat([matrix[:1], matrix[-1:].repeat(len(matrix) - 1, 1)]),
    "one 1e30": lambda matrix: matrix.index_fill(0, torch.tensor([0]), 1e30),
    "all 1e30": lambda matrix: 1e30 * matrix,
    "one 1e-30": lambda matrix: torch.cat([1e-30 * matrix[:1], matrix[1:]]),
    "opposite": lambda matrix: matrix * (-1.0) ** torch.arange(len(matrix)).unsqueeze(1),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_finite_rows_give_the_same_finite_aggregate_twice(rule: str, n: int, dtype: torch.dtype) -> None:
    variants: list[dict[str, Any]] = [{}]
    if rule == "signguard":
        variants = [{"variant": variant} for variant in ("plain", "sim", "dist")]
    for make in HARD.values():
        matrix = make(0.5 + noise(n, 60)).to(dtype)
        known: dict[str, Any] = {
            "root_update": torch.full((60,), 0.5, dtype=dtype),
            "params": noise(1, 60)[0].to(dtype),
        }
        for variant in variants:
            call = functools.partial(aggregate, rule, matrix, **known, **variant)
            first, again = call(), call()
            assert not first.skipped, first.events
            assert torch.equal(first.update, again.update)
            later = call(state=first.state, previous=first.update)
            assert not later.skipped, later.events


@pytest.mark.parametrize("rule", RULES)
def test_a_run_with_changing_cohorts_takes_each_rule(rule: str) -> None:
    world, state = build(
        parse(
            {
                "name": "t",
                "rounds": 3,
                "data": {"name": "digits", "root": {"samples": 30}},
                "model": "mlp",
                "clients": {"count": 9, "per_round": 6, "local": {"steps": 3}},
                "threat": {"malicious": 2, "update": "sign_flip"},
                "defence": {"aggregator": rule},
            }
        )
    )
    for _ in range(3):
        state, record = play(state, world)
        assert not record["skipped"], record["events"]
        assert all(isinstance(tensor, Tensor) for tensor in state.memory_of("defence").values())
    assert state.params.isfinite().all()
