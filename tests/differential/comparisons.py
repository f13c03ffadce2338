"""The table: each function of byzfl, krum and byzpy, ours, and exactly where they differ and why.

`PYTHONPATH=tests python -m differential.comparisons` writes README.md from it.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import torch
from differential.peers import (
    HERE,
    Comparison,
    Difference,
    Finding,
    Library,
    Ours,
    close,
    faults_of,
    inputs,
    library,
    readme,
)
from torch import Tensor

from fedpoison import aggregate, aggregator, craft
from fedpoison.types import Update, Updates

# ---- ours


def rule(name: str, **options: Any) -> Ours:
    return lambda rows, f: aggregate(name, rows, f=f, **options).update


def rule_from_the_first(name: str) -> Ours:
    """A rule that trusts one vector, given the first row."""
    return lambda rows, f: aggregate(name, rows, f=f, root_update=rows[0]).update


def step(name: str, **options: Any) -> Ours:
    """The rows that a pre-aggregator hands on."""

    def ours(rows: Tensor, f: int) -> Tensor:
        seen: list[Tensor] = []

        @aggregator()
        def onlooker(updates: Updates) -> Update:
            """Remember the rows that arrive."""
            seen.append(updates.clone())
            return updates[0]

        aggregate(onlooker, rows, f=f, pre=[{"name": name, **options}])
        return seen[0]

    return ours


def attack(name: str, own: Callable[[Tensor], Tensor] = lambda rows: rows[0], **options: Any) -> Ours:
    """What the first attacker sends who knows all rows; `own`: what its own training gave."""

    def ours(rows: Tensor, f: int) -> Tensor:
        malicious = max(1, f)
        with warnings.catch_warnings(action="ignore"):  # ALIE remarks on a z that it cannot use
            given = {"benign": rows, "own": own(rows).repeat(malicious, 1), "n_malicious": malicious}
            crafted = craft(name, **given, **options)
        return (crafted[0] if isinstance(crafted, tuple) else crafted)[0]

    return ours


# ---- what a library is said to do, plainly


def lower_median(rows: Tensor, f: int) -> Tensor:
    return rows.sort(dim=0).values[(len(rows) - 1) // 2]


def mean_around_lower_median(rows: Tensor, f: int) -> Tensor:
    nearest = (rows - lower_median(rows, f)).abs().argsort(dim=0)[: len(rows) - f]
    return rows.gather(0, nearest).mean(dim=0)


def one_neighbour_more(name: str) -> Ours:
    """Krum or Multi-Krum with n − f − 1 neighbours: those of f − 1."""

    def ours(rows: Tensor, f: int) -> Tensor:
        return aggregate(name, rows, f=f - 1, **({"m": len(rows) - f} if name == "multi_krum" else {})).update

    return ours


def bulyan_of_averages(m: int | None) -> Ours:
    """n − 2f − 2 averages of the m best by Krum's score, whose nearest row then leaves; their trimmed mean."""

    def ours(rows: Tensor, f: int) -> Tensor:
        exact, n, averages = rows[rows.isfinite().all(dim=1)].double(), len(rows), []
        for turn in range(n - 2 * f - 2):
            distances = torch.stack([(exact - row).square().sum(dim=1) for row in exact])
            scores = distances.sort(dim=1).values[:, 1 : n - turn - f - 1].sum(dim=1)
            best = scores.argsort(stable=True)[: min(m or n - f, n - f - 2 - turn)]
            averages.append(exact[best].mean(dim=0))
            leaves = best[(exact[best] - averages[-1]).norm(dim=1).argmin()]
            exact = torch.cat([exact[:leaves], exact[leaves + 1 :]])
        return torch.stack(averages).sort(dim=0).values[f : len(averages) - f].mean(dim=0)

    return ours


def three_steps_from_zero(rows: Tensor, f: int) -> Tensor:
    exact = rows[~rows.isinf().any(dim=1)].double()
    point = torch.zeros_like(exact[0])
    for _ in range(3):
        weights = 1 / (exact - point).norm(dim=1).clamp(min=0.1)
        point = (weights.unsqueeze(1) * exact).sum(dim=0) / weights.sum()
    return point


def median_that_is_no_minimum(rows: Tensor, f: int) -> Tensor:
    """The coordinate-wise median; AssertionError if nowhere near it the sum of distances is less."""
    point = lower_median(rows, f).double()
    away = aggregate("geometric_median", rows).update.double()
    assert (rows - away).norm(dim=1).sum() < (rows - point).norm(dim=1).sum()
    return point


def mean_of_all(rows: Tensor, f: int) -> Tensor:
    return rows.double().mean(dim=0)


def sent_together(rows: Tensor, f: int) -> float:
    """z = Φ⁻¹((n − s) / n), s = ⌊n/2⌋ + 1 − f, n the attackers included."""
    n = len(rows) + max(1, f)
    return NormalDist().inv_cdf((n - max(1, n // 2 + 1 - max(1, f))) / n)


def alie_of(z: Callable[[Tensor, int], float]) -> Ours:
    return lambda rows, f: attack("alie", z=z(rows, f))(rows, f)


def bucket_sizes(buckets: Tensor) -> Tensor:
    """Of buckets of unit vectors: how many each holds and in what share, how often each client is in one."""
    held = buckets > 0
    sizes = torch.stack([held.sum(dim=1).float(), buckets.amax(dim=1)]).sort(dim=1).values
    return torch.cat([sizes.flatten(), held.sum(dim=0).float()])


# ---- what shows that a difference is what it is said to be

Shown = Callable[[Library, str, str], bool]


def gives(said: Ours) -> Shown:
    """The library gives what `said` computes."""

    def shown(theirs: Library, function: str, name: str) -> bool:
        result, rows = theirs.result(function, name), inputs()[name]
        return result is not None and close(result, said(rows.clone(), faults_of(name)), rows)

    return shown


def fails(how: str) -> Shown:
    return lambda theirs, function, name: how in theirs.error(function, name)


def gives_finite(theirs: Library, function: str, name: str) -> bool:
    result = theirs.result(function, name)
    return result is not None and bool(result.isfinite().all())


def gives_no_numbers(theirs: Library, function: str, name: str) -> bool:
    return not gives_finite(theirs, function, name)


def passes_that_row_on(theirs: Library, function: str, name: str) -> bool:
    """That row alone is still not finite."""
    result = theirs.result(function, name)
    bad = ~inputs()[name].isfinite().all(dim=1)
    return result is not None and torch.equal(~result.isfinite().all(dim=1), bad)


def moves_otherwise(theirs: Library, function: str, name: str) -> bool:
    """The same rows about the origin, exactly, give another choice than the rows far from it."""
    back = name.replace("shifted", "back")
    near, far = theirs.result(function, back), theirs.result(function, name)
    return near is not None and far is not None and not close(far - SHIFT, near, inputs()[back])


def is_farther_from_all(theirs: Library, function: str, name: str) -> bool:
    """The sum of distances to the rows is larger than at ours."""
    rows, result = inputs()[name].double(), theirs.result(function, name)
    ours = aggregate("geometric_median", rows).update
    return result is not None and bool((rows - result).norm(dim=1).sum() > (rows - ours).norm(dim=1).sum())


def gives_nothing_huge(theirs: Library, function: str, name: str) -> bool:
    result = theirs.result(function, name)
    return result is not None and bool((result.abs() < 1e3).all())


def is_a_choice(theirs: Library, function: str, name: str) -> bool:
    """There are equal distances or values to choose from."""
    rows = inputs()[name].double()
    distances = torch.cdist(rows, rows).triu(diagonal=1)
    distances = distances[distances > 0]
    return gives_finite(theirs, function, name) and len(distances.round(decimals=6).unique()) < len(distances)


def changes_with_the_seed(theirs: Library, function: str) -> bool:
    """Two calls, with the global generator in two states, differ on some input."""
    pairs = [(theirs.result(function, name), theirs.result(f"{function}_again", name), name) for name in inputs()]
    return any(a is not None and b is not None and not close(a, b, inputs()[name]) for a, b, name in pairs)


# ---- differences that several have

OURS = "ours"
CHOICE = "both: no paper says which"
ASIDE = "no paper says; ours sets the row aside"
SHIFT = 1e4


def spoilt(where: str = "nan-* inf-*") -> Difference:
    what = "a row with NaN or Inf spoils the result"
    return Difference(where, what, ASIDE, gives_no_numbers)


def counted(where: str) -> Difference:
    what = "a row with NaN or Inf counts as one of the largest"
    return Difference(where, what, ASIDE, gives_finite)


def overflow(what: str, shown: Shown = gives_finite) -> Difference:
    return Difference("overflow-*", f"the square of 1e30 overflows float32: {what}", OURS, shown)


def ties(where: str) -> Difference:
    return Difference(where, "takes another of equal distances", CHOICE, is_a_choice)


def too_many() -> Difference:
    what = "takes n = 5, f = 2, which ours refuses"
    return Difference("gaussian-5-2", what, "ours: proved for n > 2f + 2 only", gives_finite)


def cancels(where: str, how: str) -> Difference:
    what = f"{how} in float32 cancels far from the origin; on `back-*`, the same rows moved, it chooses otherwise"
    return Difference(where, what, OURS, moves_otherwise)


def neighbours(where: str, said: Ours) -> Difference:
    what = "counts n − f − 1 neighbours: it is ours with f − 1"
    return Difference(where, what, "ours: the n − f − 2 nearest others", gives(said))


FORMULA, CDIST = "‖x‖² + ‖y‖² − 2x·y", "torch.cdist of more than 25 rows"

# ---- the table

KRUM, MULTI_KRUM = one_neighbour_more("krum"), one_neighbour_more("multi_krum")


def coordinates() -> list[Comparison]:
    ours, median_of = rule("trimmed_mean"), rule("median")
    lower = Difference(
        "back-10-2 back-26-5 clusters-10-2 colluders-10-2 gaussian-10-2 huge-10-2 overflow-10-2 shifted-10-2 "
        "shifted-26-5 small-10-2 ties-10-2",
        "of an even number of values the lower middle one",
        "ours: the usual median, the mean of the middle two",
        gives(lower_median),
    )
    around_lower = Difference(
        "back-10-2 back-26-5 clusters-10-2 colluders-10-2 gaussian-10-2 huge-10-2 shifted-10-2 shifted-26-5 small-10-2",
        "of an even number of values the lower middle one is the median",
        "ours: the usual median, the mean of the middle two",
        gives(mean_around_lower_median),
    )
    counts = (counted("nan-* inf-*"),)
    middle = (spoilt("nan-*"), counted("inf-*"))
    return [
        Comparison("byzfl", "mean", "Average()", "mean", rule("mean"), (spoilt(),)),
        Comparison("krum", "mean", "Average", "mean", rule("mean"), (spoilt(),)),
        Comparison("byzfl", "median", "Median()", "median", median_of, middle),
        Comparison("krum", "median", "Median", "median", median_of, middle),
        Comparison(
            "byzpy",
            "median",
            "CoordinateWiseMedian()",
            "median",
            median_of,
            (lower, spoilt("nan-*"), counted("inf-7-1 inf-11-2")),
        ),
        Comparison("byzfl", "trimmed_mean", "TrMean(f)", "trimmed_mean", ours, counts),
        Comparison("krum", "trimmed_mean", "TrimmedMean(f)", "trimmed_mean", ours, counts),
        Comparison("byzpy", "trimmed_mean", "CoordinateWiseTrimmedMean(f)", "trimmed_mean", ours, counts),
        Comparison(
            "byzfl",
            "meamed",
            "Meamed(f)",
            "meamed",
            rule("meamed"),
            (ties("corner-5-1 ties-*"), spoilt("nan-10-2 nan-11-2"), counted("inf-10-2 inf-11-2")),
        ),
        Comparison(
            "byzpy",
            "meamed",
            "MeanOfMedians(f)",
            "meamed",
            rule("meamed"),
            (around_lower, ties("corner-5-1 ties-*"), spoilt("nan-*"), counted("inf-11-2")),
        ),
    ]


def krums() -> list[Comparison]:
    krum, multi_krum, bulyan = rule("krum"), rule("multi_krum"), rule("bulyan")
    other_bulyan = (
        "back-* clusters-* colluders-* gaussian-7-0 gaussian-7-1 gaussian-11-2 gaussian-25-5 huge-* inf-* nan-* "
        "overflow-* shifted-7-1 shifted-11-2 shifted-25-5 small-* ties-*"
    )
    return [
        Comparison(
            "byzfl",
            "krum",
            "Krum(f)",
            "krum",
            krum,
            (
                neighbours("back-7-1 shifted-7-1 huge-7-1 huge-11-2", KRUM),
                cancels("shifted-26-5", CDIST),
                spoilt("nan-*"),
                too_many(),
            ),
        ),
        Comparison("krum", "krum", "Krum(n, f)", "krum", krum, (cancels("shifted-26-5", CDIST),)),
        Comparison(
            "byzpy",
            "krum",
            "Krum(f)",
            "krum",
            krum,
            (
                neighbours("back-7-1 huge-7-1 huge-11-2 nan-11-2", KRUM),
                cancels("shifted-7-1 shifted-10-2 shifted-25-5", FORMULA),
                too_many(),
            ),
        ),
        Comparison(
            "byzfl",
            "multi_krum",
            "MultiKrum(f)",
            "multi_krum",
            multi_krum,
            (
                neighbours("back-11-2 back-25-5 shifted-11-2 shifted-25-5", MULTI_KRUM),
                cancels("shifted-26-5", CDIST),
                ties("unit-*"),
                too_many(),
            ),
        ),
        Comparison(
            "krum",
            "multi_krum",
            "MultiKrum(n, f)",
            "multi_krum",
            lambda rows, f: aggregate("multi_krum", rows, f=f, m=len(rows) - 2 * f - 3).update,
            (cancels("shifted-26-5", CDIST),),
            "m = n − 2f − 3, its default",
        ),
        Comparison(
            "krum",
            "multi_krum_n_f",
            "MultiKrum(n, f, m=n − f)",
            "multi_krum",
            multi_krum,
            (cancels("shifted-26-5", CDIST),),
        ),
        Comparison(
            "byzpy",
            "multi_krum",
            "MultiKrum(f, q=n − f)",
            "multi_krum",
            multi_krum,
            (neighbours("back-11-2 back-25-5", MULTI_KRUM), cancels("shifted-*", FORMULA), too_many()),
        ),
        Comparison(
            "krum",
            "bulyan",
            "Bulyan(n, f)",
            "bulyan",
            bulyan,
            (
                Difference(
                    other_bulyan,
                    "n − 2f − 2 times the average of the best by Krum's score, then the trimmed mean of these averages",
                    "ours: n − 2f updates chosen by Krum, then the mean around their median",
                    gives(bulyan_of_averages(None)),
                ),
                cancels("shifted-26-5", CDIST),
                ties("unit-7-1"),
            ),
        ),
        Comparison(
            "krum",
            "bulyan_of_krum",
            "Bulyan(n, f, m=1)",
            "bulyan",
            bulyan,
            (
                Difference(
                    other_bulyan,
                    "chooses n − 2f − 2 updates by Krum, then takes their trimmed mean",
                    "ours: n − 2f updates chosen by Krum, then the mean around their median",
                    gives(bulyan_of_averages(1)),
                ),
                cancels("shifted-26-5", CDIST),
            ),
        ),
    ]


def centres() -> list[Comparison]:
    geometric_median, mean = rule("geometric_median"), rule("mean")
    three = {"tau": 1.0, "iterations": 3}
    ten: Any = {"tau": 1.0, "iterations": 10}
    unsettled = "ours: the sum of distances is less; to stop early is a choice"
    units = "a choice; ours is relative to the updates' spread"
    return [
        Comparison(
            "byzfl",
            "geometric_median",
            "GeometricMedian()",
            "geometric_median",
            geometric_median,
            (
                Difference(
                    "back-* clusters-* colluders-* corner-* gaussian-* huge-* inf-* shifted-7-1 ties-*",
                    "stops after three steps from zero",
                    unsettled,
                    gives(three_steps_from_zero),
                ),
                Difference(
                    "small-*", "distances below nu = 0.1 count as 0.1: the mean of small updates", units, gives(mean)
                ),
                spoilt("nan-*"),
                overflow("that row does not pull"),
            ),
        ),
        Comparison(
            "byzfl",
            "geometric_median_long",
            "GeometricMedian(nu=1e-6, T=1000)",
            "geometric_median",
            geometric_median,
            (spoilt("nan-*"), overflow("that row does not pull")),
        ),
        Comparison(
            "krum",
            "geometric_median",
            "GeometricMedian(n, f)",
            "geometric_median",
            geometric_median,
            (
                Difference(
                    "small-*", "distances below nu = 0.1 count as 0.1: the mean of small updates", units, gives(mean)
                ),
                Difference("clusters-10-2", "has not settled after 100 steps", unsettled, is_farther_from_all),
                spoilt(),
                overflow("NaN", gives_no_numbers),
            ),
        ),
        Comparison(
            "byzpy",
            "geometric_median",
            "GeometricMedian()",
            "geometric_median",
            geometric_median,
            (
                Difference(
                    "corner-5-1",
                    "stays on a row that its start, the coordinate-wise median, happens to be",
                    "ours: the sum of distances is less elsewhere",
                    gives(median_that_is_no_minimum),
                ),
                Difference(
                    "small-*",
                    "a step below 1e-6 counts as settled, of whatever size updates are",
                    OURS,
                    is_farther_from_all,
                ),
                spoilt(),
                overflow("NaN", gives_no_numbers),
            ),
        ),
        Comparison(
            "byzfl",
            "centered_clipping",
            "CenteredClipping(L=3, tau=1.0)",
            "centered_clipping",
            rule("centered_clipping", **three),
            (spoilt(), overflow("that row does not pull")),
            "`tau` = 1, 3 iterations from zero",
        ),
        Comparison(
            "byzpy",
            "centered_clipping",
            'CenteredClipping(c_tau=1, M=3, init="zero")',
            "centered_clipping",
            rule("centered_clipping", **three),
            (spoilt(), overflow("NaN", gives_no_numbers)),
            "`tau` = 1, 3 iterations from zero",
        ),
        Comparison(
            "byzpy",
            "centered_clipping_default",
            "CenteredClipping(c_tau=1)",
            "centered_clipping",
            rule("centered_clipping", **ten),
            (
                Difference(
                    "back-* clusters-* colluders-* corner-* gaussian-* huge-* shifted-* ties-*",
                    "starts from the mean of this round's rows: `huge-*` carries it 1e4 away",
                    "ours: from last round's aggregate, which this round's attackers cannot move",
                    gives(
                        lambda rows, f: (
                            aggregate("centered_clipping", rows, f=f, previous=rows.mean(dim=0), **ten).update
                        )
                    ),
                ),
                spoilt(),
                overflow("NaN", gives_no_numbers),
            ),
            "`tau` = 1, 10 iterations from zero",
        ),
    ]


def subsets() -> list[Comparison]:
    random = "one power step from a random vector stands for the largest eigenvalue"
    every = "ours: the eigenvector itself"
    endless = "does not end in 5 s: a row whose weight is 0 stays the farthest, so no other loses any"
    return [
        Comparison("byzfl", "mda", "MDA(f)", "mda", rule("mda")),
        Comparison("krum", "mda", "Brute(n, f)", "mda", rule("mda")),
        Comparison(
            "byzpy", "mda", "MinimumDiameterAveraging(f)", "mda", rule("mda"), (cancels("shifted-*", FORMULA), spoilt())
        ),
        Comparison(
            "byzfl",
            "smea",
            "SMEA(f)",
            "smea",
            rule("smea"),
            (
                Difference(
                    "back-11-2 clusters-10-2 clusters-11-2 colluders-10-2 colluders-11-2 corner-5-1 gaussian-10-2 "
                    "gaussian-11-2 gaussian-7-1 gaussian-7-2 huge-10-2 huge-11-2 inf-10-2 inf-11-2 nan-11-2 "
                    "overflow-10-2 overflow-11-2 shifted-11-2 small-* ties-* unit-*",
                    random,
                    every,
                    gives_finite,
                ),
                Difference("equal-10-2", "fails where all send the same", OURS, fails("NoneType")),
            ),
        ),
        Comparison(
            "byzpy",
            "smea",
            "SMEA(f)",
            "smea",
            rule("smea"),
            (
                cancels("shifted-*", "the uncentred Gram matrix"),
                spoilt(),
                overflow("an error", fails("LinAlgError")),
            ),
        ),
        Comparison(
            "byzfl",
            "caf",
            "CAF(f)",
            "caf",
            rule("caf"),
            (
                Difference(
                    "back-* colluders-* gaussian-10-2 gaussian-11-2 gaussian-25-5 gaussian-5-2 shifted-* small-10-2 "
                    "small-11-2 ties-10-2 ties-11-2",
                    random,
                    every,
                    gives_finite,
                ),
                Difference("huge-*", endless, OURS, fails("does not end")),
                Difference("gaussian-7-0", "gives None for f = 0", OURS, fails("None")),
                spoilt(),
                overflow("None", fails("None")),
            ),
        ),
        Comparison(
            "byzpy",
            "caf",
            "CAF(f)",
            "caf",
            rule("caf"),
            (
                Difference(
                    "back-10-2 back-11-2 back-25-5 back-26-5 colluders-* corner-5-1 gaussian-10-2 gaussian-11-2 "
                    "gaussian-25-5 gaussian-5-2 gaussian-7-1 shifted-11-2 shifted-25-5 shifted-26-5 small-10-2 "
                    "small-11-2 ties-10-2 ties-11-2",
                    "three power steps stand for the eigenvector",
                    every,
                    gives_finite,
                ),
                Difference("huge-*", endless, OURS, fails("does not end")),
                spoilt(),
                overflow("the mean, 1e30 and all", gives(mean_of_all)),
            ),
        ),
        Comparison(
            "byzpy",
            "caf_long",
            "CAF(f, power_iters=1000)",
            "caf",
            rule("caf"),
            (
                Difference("huge-*", endless, OURS, fails("does not end")),
                spoilt(),
                overflow("the mean, 1e30 and all", gives(mean_of_all)),
            ),
        ),
    ]


def others() -> list[Comparison]:
    nna = rule_from_the_first("monna")
    return [
        Comparison("byzpy", "cge", "ComparativeGradientElimination(f)", "cge", rule("cge")),
        Comparison(
            "krum",
            "medoid",
            "Medoid(n, f)",
            "medoid",
            rule("medoid"),
            (
                cancels("shifted-26-5", CDIST),
                spoilt("inf-*"),
                Difference(
                    "nan-*",
                    "with a row of NaN every sum is NaN: the first row, whatever the others are",
                    OURS,
                    gives(lambda rows, f: rows[0]),
                ),
            ),
        ),
        Comparison(
            "krum",
            "aksel",
            "Aksel(f)",
            "aksel",
            rule("aksel"),
            (ties("corner-5-1 unit-*"), spoilt("nan-10-2 nan-11-2")),
        ),
        Comparison(
            "byzfl",
            "monna",
            "MoNNA(f, idx=0)",
            "monna",
            nna,
            (cancels("shifted-26-5", CDIST), ties("corner-5-1 unit-*")),
        ),
        Comparison("krum", "monna", "NearestNeighborAverage(n − f, rows[0])", "monna", nna),
        Comparison("byzpy", "monna", "MoNNA(f)", "monna", nna),
    ]


def steps() -> list[Comparison]:
    nnm, clipping, arc = step("nnm"), step("clipping", threshold=2.0), step("arc")
    unit = step("bucketing", s=2)
    passed_on = Difference("nan-* inf-*", "a row with NaN or Inf is passed on", ASIDE, passes_that_row_on)
    instead = "in the place of a row with NaN or Inf an average of others comes out"
    replaced = Difference("nan-7-1 inf-*", instead, ASIDE, gives_finite)
    kept = (passed_on, overflow("that row becomes zero, not one of the greatest length allowed"))
    return [
        Comparison(
            "byzfl",
            "nnm",
            "NNM(f)",
            "nnm",
            nnm,
            (
                cancels("shifted-26-5", CDIST),
                ties("corner-5-1 ties-7-1 ties-11-2 unit-*"),
                spoilt("nan-10-2 nan-11-2"),
                replaced,
            ),
            kind="preaggregator",
        ),
        Comparison(
            "byzpy",
            "nnm",
            "NearestNeighborMixing(f)",
            "nnm",
            nnm,
            (
                cancels("shifted-*", FORMULA),
                ties("corner-5-1 ties-7-1 ties-11-2 unit-*"),
                spoilt(),
                overflow("in that row's place an average of others comes out", gives_nothing_huge),
            ),
            kind="preaggregator",
        ),
        *(
            Comparison(who, "clipping", call, "clipping", clipping, kept, "`threshold` = 2", kind="preaggregator")
            for who, call in (("byzfl", "Clipping(c=2.0)"), ("byzpy", "Clipping(threshold=2)"))
        ),
        *(Comparison(who, "arc", "ARC(f)", "arc", arc, kept, kind="preaggregator") for who in ("byzfl", "byzpy")),
        *(
            Comparison(
                who, "bucketing", call, "bucketing", unit, (), "up to the shuffle", "preaggregator", bucket_sizes
            )
            for who, call in (("byzfl", "Bucketing(s=2)"), ("byzpy", "Bucketing(2)"))
        ),
    ]


def attacks() -> list[Comparison]:
    mean_of = attack("sign_flip", own=lambda rows: rows.mean(dim=0))
    convention = "a convention: ours subtracts, with the deviation of all (n)"
    in_print = "ours, (n − f − s)/(n − f), gives published values; krum's docstring cites the paper for the other"
    elsewhere = (
        "clusters-10-2 clusters-11-2 clusters-25-5 gaussian-5-2 gaussian-7-2 gaussian-10-2 gaussian-11-2 gaussian-25-5 "
        "shifted-10-2 shifted-11-2 shifted-25-5 shifted-26-5 small-10-2 small-11-2 ties-10-2 ties-11-2"
    )
    first = Difference(
        f"{elsewhere} clusters-7-1 gaussian-7-0 gaussian-7-1 shifted-7-1 small-7-1",
        "copies the first client",
        "the authors copy whoever lies farthest along the direction in which the honest differ most",
        gives(lambda rows, f: rows[0]),
    )
    rows = [
        Comparison("byzfl", "sign_flip", "SignFlipping()", "sign_flip", mean_of, (), "`own` = the honest mean"),
        Comparison("krum", "sign_flip", "SignFlipAttack(f)", "sign_flip", mean_of, (), "`own` = the honest mean"),
        Comparison(
            "byzpy", "sign_flip", "SignFlipAttack()", "sign_flip", attack("sign_flip"), (), "`own` = `base_grad`"
        ),
        Comparison(
            "byzfl",
            "ipm",
            "InnerProductManipulation(tau=0.5)",
            "ipm",
            attack("ipm", epsilon=0.5),
            (),
            "`epsilon` = 0.5",
        ),
        Comparison(
            "byzpy", "ipm", "EmpireAttack(scale=-0.5)", "ipm", attack("ipm", epsilon=0.5), (), "`epsilon` = 0.5"
        ),
        Comparison(
            "byzfl",
            "alie",
            "ALittleIsEnough(tau=1.5)",
            "alie",
            attack("alie", z=1.5),
            (
                Difference(
                    "*",
                    "adds, with the sample's deviation (n − 1): it is ours with z = −1.5 √(n/(n − 1))",
                    convention,
                    gives(alie_of(lambda rows, f: -1.5 * math.sqrt(len(rows) / (len(rows) - 1)))),
                ),
            ),
            "`z` = 1.5",
        ),
        Comparison(
            "krum",
            "alie",
            "ALIEAttack(f)",
            "alie",
            attack("alie"),
            (Difference(elsewhere, "z is larger, Φ⁻¹((n − s)/n)", in_print, gives(alie_of(sent_together))),),
        ),
        Comparison("krum", "alie_z", "ALIEAttack(f, z=1.5)", "alie", attack("alie", z=1.5), (), "`z` = 1.5"),
        Comparison(
            "byzpy",
            "alie",
            "LittleAttack(f)",
            "alie",
            attack("alie"),
            (
                Difference(
                    elsewhere,
                    "adds, and z is Φ⁻¹((n − s)/n)",
                    in_print,
                    gives(alie_of(lambda rows, f: -sent_together(rows, f))),
                ),
            ),
        ),
        Comparison("byzfl", "mimic", "Mimic(epsilon=0)", "mimic", attack("mimic"), (first,)),
        Comparison("byzpy", "mimic", "MimicAttack()", "mimic", attack("mimic"), (first,)),
    ]
    return [replace(row, kind="update_attack") for row in rows]


COMPARISONS = [*coordinates(), *krums(), *centres(), *subsets(), *others(), *steps(), *attacks()]


def spoils_its_input(function: str) -> bool:
    name, kept = "gaussian-11-2", library("byzfl").result(f"{function}_spoils", "gaussian-11-2")
    return kept is not None and not torch.equal(kept, inputs()[name])


def never_starts_from_a_vector() -> bool:
    names = [name for name in inputs() if name.startswith("gaussian")]
    return all("TypeError" in library("byzfl").error("centered_clipping_from_a_vector", name) for name in names)


def default_m_is_zero() -> bool:
    """It refuses its own m, and takes another: n and f are not what it minds."""
    theirs = library("krum")
    refuses = "m=0" in theirs.error("multi_krum", "gaussian-7-2")
    return refuses and theirs.result("multi_krum_n_f", "gaussian-7-2") is not None


FINDINGS = [
    Finding(
        "byzfl",
        "Clipping(c=2.0)",
        "clips the caller's own tensor as well",
        "`gaussian-11-2`",
        "ours leaves it as it was",
        lambda: spoils_its_input("clipping"),
    ),
    Finding(
        "byzfl",
        "ARC(f)",
        "clips the caller's own tensor as well",
        "`gaussian-11-2`",
        "ours leaves it as it was",
        lambda: spoils_its_input("arc"),
    ),
    Finding(
        "byzfl",
        "CenteredClipping(m=rows[0])",
        "TypeError for every m, a tensor too: it cannot start from last round's aggregate unless the object is kept",
        "`gaussian-*`",
        "ours: `previous`",
        never_starts_from_a_vector,
    ),
    Finding(
        "byzfl",
        "CAF(f)",
        "two calls on the same rows differ: it draws from the global generator",
        "`gaussian-*`",
        "an eigenvalue is no matter of chance",
        lambda: changes_with_the_seed(library("byzfl"), "caf"),
    ),
    Finding(
        "byzfl",
        "SMEA(f)",
        "two calls on the same rows differ: it draws from the global generator",
        "`gaussian-*`",
        "an eigenvalue is no matter of chance",
        lambda: changes_with_the_seed(library("byzfl"), "smea"),
    ),
    Finding(
        "krum",
        "MultiKrum(n=7, f=2)",
        "refuses n = 2f + 3, which it says it takes: its default m = n − 2f − 3 is 0",
        "`gaussian-7-2`",
        "the paper leaves m open; ours is n − f",
        default_m_is_zero,
    ),
]

FLOWER = [
    ("mean", "FedAvg", "the same", "test_fedavg_agrees", "both"),
    (
        "mean",
        "FedAvg",
        "weighs by the sample count that the client claims",
        "test_a_claimed_sample_count_outvotes_in_flower_not_here",
        "both; here the server knows the count",
    ),
    (
        "mean, median",
        "FedAvg, FedMedian",
        "a row of NaN spoils the result, one of Inf the mean's",
        "test_fedmedian_and_fedavg_pass_on_what_is_not_finite_ours_set_it_aside",
        ASIDE,
    ),
    ("median", "FedMedian", "the same", "test_median_agrees", "both"),
    (
        "trimmed_mean",
        "FedTrimmedAvg",
        "the same where beta · n is no fraction",
        "test_trimmed_mean_agrees_where_beta_n_is_no_fraction",
        "both",
    ),
    (
        "trimmed_mean",
        "FedTrimmedAvg(beta=0.29)",
        "trims 28 of 100, not 29: beta · n is cut off in floating point",
        "test_fedtrimmedavg_truncates_beta_n_ours_takes_the_count",
        OURS,
    ),
    ("krum", "Krum", "the same", "test_krum_agrees", "both"),
    (
        "krum",
        "Krum",
        "on weights, far from the origin, distances by ‖x‖² + ‖y‖² − 2x·y in float32 cancel: another client is chosen",
        "test_flower_s_krum_cancels_on_weights_ours_does_not",
        OURS,
    ),
    (
        "krum",
        "Krum",
        "takes n = 5, f = 4, with one neighbour, which ours refuses",
        "test_an_impossible_f_is_clamped_by_flower_refused_here",
        "ours: proved for n > 2f + 2 only",
    ),
    ("multi_krum", "MultiKrum", "the same, m given", "test_multi_krum_agrees", "both"),
    (
        "bulyan",
        "Bulyan",
        'scores once and takes the best: it is ours with variant = "one_shot"',
        "test_bulyan_agrees_when_it_chooses_at_once",
        "ours: one after the other",
    ),
]

INTRO = """\
# Ours and other libraries' rules, input by input

What {versions} give on {n} inputs lies in `tests/golden` (made by `scripts/golden`, with torch in float32) and
`test_golden.py` holds this table to it: a difference that is not listed fails, and so does a listed one that is gone
or does not show what it is said to show. This file is made by `PYTHONPATH=tests python -m differential.comparisons`
and tested to be what that makes.

An input is called KIND-n-f; `*` stands for any of them. Kinds: `gaussian`; `shifted` 1e4 from the origin, and `back`,
the same rows moved back exactly; `small` of size 1e-4; `huge` with a row of 1e6 and `overflow` with one of 1e30;
`nan`, `inf` with such a row; `ties` of small integers with equal rows; `colluders`, f equal rows; `clusters`, two
apart; `equal` rows; `corner`, whose coordinate-wise median is a row; `unit` vectors. Rules that try every subset are
run where there are at most 1000; attacks on honest kinds only. What a paper says is taken from where each rule's
`source` says it was read. What both refuse is not counted.

Not compared: byzfl's optimised ALIE and IPM, krum's small perturbation and full-gradient negation (there is none here
of that definition), Gaussian noise and Inf (nothing to compute), and byzpy's pools of actors.
"""


def text() -> str:
    """README.md."""
    return readme(COMPARISONS, FINDINGS, FLOWER, INTRO)


if __name__ == "__main__":
    torch.set_num_threads(1)
    (HERE / "README.md").write_text(text())
