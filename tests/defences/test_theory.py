"""What the papers promise, on random updates and on those an attacker would choose.

A rule is (f, κ)-robust (Allouah et al. 2023) if for every set S of n − f rows
‖F(x) − x̄_S‖² ≤ κ/|S| · Σ_{i∈S} ‖x_i − x̄_S‖². Nobody knows which rows are honest, so every S is tried.
The κ of a rule is the one it declares. Those that are not a paper's are proved here. Below, V is the variance of S,
the right-hand side without κ, and of rows of variance V the mean of a share p lies within √(V(1 − p)/p) of their mean.

Trimmed mean, b dropped at each side, f ≤ b < n/2. Take one coordinate, x̄_S = 0 and a positive result. At least
b + j − f rows of S are no smaller than the j-th largest value that is kept. So the result is at most the mean of the
(b + 1 − f)-th to (n − b − f)-th largest of S, and that at most the mean of its n − f − b largest:
κ = b/(n − f − b), which is f/(n − 2f) for b = f. The median drops b = ⌊(n − 1)/2⌋.

MDA. The chosen C and S share n − 2f rows or more, so (n − f)(x̄_C − x̄_S) is a sum of at most f differences between a
row of C and one of S. By way of a shared row each is at most 2D long, D the diameter of S, which is no smaller than
that of C: ‖x̄_C − x̄_S‖ ≤ 2fD/(n − f) (a resilient averaging, Farhadkhani et al. 2022). The two farthest rows of S
alone make (n − f)V ≥ D²/2: κ = 4f²/(n − f)² · 2(n − f) = 8f²/(n − f).

SMEA. Along x̄_C − x̄_S the variances of C and S are at most λ ≤ V, the maximum eigenvalue of S, which is no smaller
than that of C. Both means lie within √(λf/(n − 2f)) of that of the shared rows: κ = 4f/(n − 2f).
"""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from making import draws, rows
from torch import Tensor

from fedpoison import aggregate
from fedpoison.api import chain
from fedpoison.contract.lookup import entries

searched = draws(15, 40)
ROBUST = sorted(name for name, entry in entries("aggregator").items() if entry.kappa)
"""The rules that declare a κ."""
REACHED = {"trimmed_mean", "median", "smea"}
"""Those whose κ some updates reach, so that no smaller one would do."""
SIZES = ((3, 1), (5, 1), (5, 2), (8, 2), (9, 3))
CASES = [(rule, n, f) for rule in ROBUST for n, f in SIZES if chain(rule).robustness(n, f) is not None]
FEW = [case for case in CASES if case[1:] in ((5, 1), (9, 3))]
STEPS = (("nnm",), ("arc",), ("arc", "nnm"))

each = pytest.mark.parametrize(("rule", "n", "f"), CASES)
each_of_few = pytest.mark.parametrize(("rule", "n", "f"), FEW)


def kappa_of(rule: str, n: int, f: int, *pre: str) -> float:
    kappa = chain(rule, pre).robustness(n, f)
    assert kappa is not None
    return kappa


def excess(updates: Tensor, result: Tensor, f: int) -> float:
    """The smallest κ for which the definition holds of this result: the worst choice of n − f honest rows."""
    n = len(updates)
    subsets = torch.tensor(list(itertools.combinations(range(n), n - f)))
    honest = updates[subsets]  # [choice, n − f, d]
    middles = honest.mean(dim=1)
    variances = (honest - middles.unsqueeze(1)).square().sum(dim=2).mean(dim=1)
    errors = (result - middles).square().sum(dim=1)
    rounding = 1e-12 * updates.square().sum(dim=1).max()
    return float(torch.where(errors <= rounding, 0, errors / variances).max())


def assert_robust(rule: str, updates: Tensor, f: int, *pre: str) -> None:
    result = aggregate(rule, updates, f=f, pre=pre).update
    assert excess(updates, result, f) <= kappa_of(rule, len(updates), f, *pre) * (1 + 1e-6)


def configurations(n: int, f: int, seed: int) -> list[Tensor]:
    """Updates as nature and attackers send them; f rows at random places are the attackers'."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    bad, good = order[:f], order[f:]
    base = rows(n, 4, seed)
    middle, deviation = base[good].mean(dim=0), base[good].std(dim=0, correction=0)
    crafted = (
        middle + 1.5 * deviation,  # a little is enough
        -0.5 * middle,  # inner product manipulation
        base[good[0]],  # mimic
        base[good].max(dim=0).values,
        1e3 * rows(f, 4, seed + 1),
        torch.full((4,), 1e6, dtype=torch.float64),
    )
    poisoned = [base.index_copy(0, bad, c.expand(f, 4)) for c in crafted]
    return [base, base.round(), rows(n, 1, seed), *tight(n, f), *poisoned]


def tight(n: int, f: int) -> list[Tensor]:
    """Updates on a line that are as bad as a bound allows for some rule."""
    found = [[0.0] * (n - f) + [1.0] * f]  # the rows of no variance decide, and those at 1 may be honest
    found += [[0.0] * b + [1.0] * (n - f - b) + [1e3] * f for b in (f, (n - 1) // 2)]  # trimming b leaves the ones
    found.append([0.0] * (n - 2 * f) + [1.0] * f + [-0.9999] * f)  # two sets alike, of which the other is honest
    return [torch.tensor(line, dtype=torch.float64).unsqueeze(1) for line in found]


def climb(rule: str, start: Tensor, f: int, steps: int, *pre: str) -> float:
    """The largest excess that is found by trying updates close to the worst so far."""
    generator = torch.Generator().manual_seed(len(start))
    worst, reach, updates = 0.0, 0.5, start
    for _ in range(steps):
        moved = torch.rand(start.shape, generator=generator) < 0.4
        step = reach * torch.randn(start.shape, generator=generator, dtype=torch.float64) * moved
        found = excess(updates + step, aggregate(rule, updates + step, f=f, pre=pre).update, f)
        if found > worst:
            worst, updates, reach = found, updates + step, 1.5 * reach
        else:
            reach = max(0.95 * reach, 1e-3)
    return worst


@each
def test_a_rule_is_as_robust_as_it_declares(rule: str, n: int, f: int) -> None:
    for updates in configurations(n, f, seed=n):
        assert_robust(rule, updates, f)


@each_of_few
@pytest.mark.parametrize("pre", STEPS, ids="+".join)
def test_a_step_before_it_makes_it_as_robust_as_the_step_declares(
    pre: tuple[str, ...], rule: str, n: int, f: int
) -> None:
    for updates in configurations(n, f, seed=n + 1):
        assert_robust(rule, updates, f, *pre)


@pytest.mark.parametrize("rule", ROBUST)
@searched
@given(data=st.data())
def test_no_configuration_is_found_that_breaks_the_bound(rule: str, data: st.DataObject) -> None:
    n, f = data.draw(st.sampled_from([(n, f) for name, n, f in CASES if name == rule]))
    d = data.draw(st.integers(1, 2))
    values = st.one_of(st.integers(-3, 3).map(float), st.floats(-100, 100), st.sampled_from([1e4, -1e4]))
    drawn = data.draw(st.lists(st.lists(values, min_size=d, max_size=d), min_size=n, max_size=n))
    updates = torch.tensor(drawn, dtype=torch.float64)
    assert_robust(rule, updates, f, *data.draw(st.sampled_from(((), *STEPS))))


@each_of_few
def test_no_search_breaks_the_bound(rule: str, n: int, f: int) -> None:
    for start in (rows(n, 1, 0), rows(n, 2, 1), tight(n, f)[3]):
        assert climb(rule, start, f, 25) <= kappa_of(rule, n, f) * (1 + 1e-6)


@pytest.mark.parametrize(("rule", "n", "f"), [case for case in CASES if case[0] in REACHED])
def test_a_smaller_bound_would_be_broken(rule: str, n: int, f: int) -> None:
    found = max(excess(updates, aggregate(rule, updates, f=f).update, f) for updates in tight(n, f))
    assert found == pytest.approx(kappa_of(rule, n, f), rel=1e-3)


@pytest.mark.parametrize(("n", "f"), SIZES)
def test_mda_has_no_smaller_bound_than_smea(n: int, f: int) -> None:
    found = max(excess(updates, aggregate("mda", updates, f=f).update, f) for updates in tight(n, f))
    assert kappa_of("smea", n, f) * 0.999 <= found <= kappa_of("mda", n, f)


@pytest.mark.parametrize("rule", ["krum", "mda", "median", "smea", "trimmed_mean"])
def test_the_search_by_itself_breaks_half_of_a_bound(rule: str) -> None:
    # Not for the geometric median: nothing that was tried comes within a quarter of its bound.
    n, f = (9, 3) if rule == "krum" else (5, 2)
    found = max(climb(rule, rows(n, d, seed), f, 100) for d, seed in ((1, 0), (2, 1)))
    assert found > kappa_of(rule, n, f) / 2


def test_the_mean_is_not_robust_and_the_search_sees_it() -> None:
    updates = rows(9, 4, 0)
    updates[3] = 1e6
    assert excess(updates, aggregate("mean", updates, f=3).update, 3) > 1e9
    assert climb("mean", rows(9, 1, 0), 3, 100) > 5


@pytest.mark.parametrize(("n", "f"), [(3, 1), (5, 2), (7, 2), (10, 3), (11, 5)])
@pytest.mark.parametrize("far", [1.0, 1e6, 1e30])
def test_the_trimmed_mean_s_bound_is_tight(n: int, f: int, far: float) -> None:
    updates = torch.tensor([0.0] * f + [1.0] * (n - 2 * f) + [far] * f).unsqueeze(1)
    result = aggregate("trimmed_mean", updates, f=f).update
    assert result.tolist() == [1]
    honest = updates[: n - f, 0].double()
    error, variance = (1 - honest.mean()) ** 2, honest.var(correction=0)
    assert (error / variance).item() == pytest.approx(f / (n - 2 * f))


@each_of_few
@pytest.mark.parametrize("pre", [(), *STEPS], ids="+".join)
def test_n_minus_f_equal_rows_decide(pre: tuple[str, ...], rule: str, n: int, f: int) -> None:
    # They have no variance, so whatever has a finite κ must return them; here κ ≥ f/(n − 2f) is forced, too.
    for seed in range(2):
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        agreed = rows(1, 3, seed)[0]
        for others in (agreed + 1, agreed + rows(f, 3, seed + 1), agreed + 1e6):
            updates = agreed.repeat(n, 1).index_copy(0, order[:f], others.expand(f, 3))
            result = aggregate(rule, updates, f=f, pre=pre).update
            torch.testing.assert_close(result, agreed, rtol=1e-9, atol=1e-9)
    bits = torch.tensor([0.0] * (n - f) + [1.0] * f, dtype=torch.float64)
    assert aggregate(rule, bits.unsqueeze(1), f=f, pre=pre).update.item() == pytest.approx(0, abs=1e-9)
    ones = bits[f:]  # n − 2f zeros and f ones could be the honest ones as well
    forced = (ones.mean() ** 2 / ones.var(correction=0)).item()
    assert forced == pytest.approx(f / (n - 2 * f))
    assert forced <= kappa_of(rule, n, f, *pre) + 1e-9


def test_a_fixed_clipping_before_a_rule_leaves_it_no_bound() -> None:
    """n − f equal rows longer than the threshold decide no more (Allouah et al. 2025, Lemma 3.1)."""
    updates = torch.full((9, 3), 2.0, dtype=torch.float64)
    clipping = [{"name": "clipping", "threshold": 1.0}]
    assert aggregate("median", updates, f=2, pre=clipping).update.norm().item() == pytest.approx(1)
    assert chain("median", clipping).robustness(9, 2) is None


AVERAGES = ("mean", "krum", "multi_krum", "geometric_median", "mda", "smea", "caf", "cge")


@pytest.mark.parametrize("rule", AVERAGES)
def test_after_arc_an_average_is_no_longer_than_the_longest_of_any_honest_rows(rule: str) -> None:
    """Allouah et al. 2025, Lemma 5.1: as long as the longest of any n − f rows at the most."""
    n, f = 9, 3
    for seed, far in enumerate((0.1, 1.0, 1e3, 1e30)):
        updates = rows(n, 4, seed)
        updates[seed : seed + f] *= far
        least = updates.norm(dim=1).sort().values[n - f - 1]  # any n − f rows have one that is as long
        assert aggregate(rule, updates, f=f, pre=["arc"]).update.norm() <= least * (1 + 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_client_sets_the_mean_to_whatever_it_wants(dtype: torch.dtype) -> None:
    for seed in range(5):
        updates, wanted = rows(9, 20, seed).to(dtype), 100 * rows(1, 20, seed + 50)[0].to(dtype)
        attacker = seed % 9
        updates[attacker] = 9 * wanted - (updates.sum(dim=0) - updates[attacker])
        within = 1e-4 if dtype == torch.float32 else 1e-10
        torch.testing.assert_close(aggregate("mean", updates).update, wanted, rtol=within, atol=within)


@pytest.mark.parametrize(("n", "f"), [(5, 1), (5, 2), (10, 3), (11, 5)])
def test_the_geometric_median_deviates_no_more_than_its_bound(n: int, f: int) -> None:
    for seed, far in enumerate((1.0, 10.0, 1e3, 1e6, 1e12, 1e30)):
        updates = rows(n, 6, seed)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        bad, good = order[:f], order[f:]
        for crafted in (torch.full((6,), far, dtype=torch.float64), far * rows(f, 6, seed + 50)):
            updates[bad] = crafted
            result = aggregate("geometric_median", updates, f=f).update
            for z in (torch.zeros(6, dtype=torch.float64), updates[good].mean(dim=0), updates[good[0]]):
                bound = 2 * (n - f) / (n - 2 * f) * (updates[good] - z).norm(dim=1).max()
                assert (result - z).norm() <= bound


@pytest.mark.parametrize(("n", "f"), [(4, 1), (10, 3), (11, 5)])
@pytest.mark.parametrize("threshold", [0.1, 3.0])
def test_clipped_clients_move_the_mean_by_their_share_of_the_threshold(n: int, f: int, threshold: float) -> None:
    pre = [{"name": "clipping", "threshold": threshold}]
    for seed, far in enumerate((1.0, 1e3, 1e30)):
        honest = rows(n, 6, seed)
        without = honest.clone()
        without[:f] = 0  # f clients that add nothing
        one, other = honest.clone(), honest.clone()
        one[:f], other[:f] = far * rows(f, 6, seed + 50), -far * rows(f, 6, seed + 50)
        results = [aggregate("mean", u, f=f, pre=pre).update for u in (without, one, other)]
        limit = f * threshold / n * (1 + 1e-9)
        assert (results[1] - results[0]).norm() <= limit
        assert (results[2] - results[1]).norm() <= 2 * limit
        aimed = torch.zeros(f, 6, dtype=torch.float64)
        aimed[:, 0] = far * threshold
        for sign, swapped in ((1, one), (-1, other)):  # both bounds are reached
            swapped[:f] = sign * aimed
        up, down = (aggregate("mean", u, f=f, pre=pre).update for u in (one, other))
        assert (up - results[0]).norm().item() == pytest.approx(f * threshold / n)
        assert (up - down).norm().item() == pytest.approx(2 * f * threshold / n)
