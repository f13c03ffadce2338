"""Mistakes in rules that choose subsets, in the bounds they publish, and against other libraries' outputs."""

SUBSETS = "tests/defences/test_subset_rules.py"
PRE = "tests/defences/test_preaggregators.py"
THEORY = "tests/defences/test_theory.py"
GOLDEN = "tests/differential/test_golden.py"
UPDATE = "tests/attacks/test_update_attacks.py"

MUTANTS = [
    ("MDA keeps one too few", "defences/aggregators/mda.py", "(1 << n) - 1, n - f", "(1 << n) - 1, n - f - 1", SUBSETS),
    (
        "MDA takes the last of equal sets",
        "defences/aggregators/mda.py",
        "for row in range(n):  #",
        "for row in reversed(range(n)):  #",
        SUBSETS,
    ),
    (
        "SMEA without centring",
        "defences/aggregators/smea.py",
        "centred = among - among.mean(dim=1, keepdim=True)",
        "centred = among",
        SUBSETS,
    ),
    (
        "SMEA by the smallest eigenvalue",
        "defences/aggregators/smea.py",
        "eigenvalues[:, -1]",
        "eigenvalues[:, 0]",
        SUBSETS,
    ),
    ("CAF forgets the tightest mean", "defences/aggregators/caf.py", "if values[-1] < smallest:", "if True:", SUBSETS),
    (
        "CAF by the unsquared deviation",
        "defences/aggregators/caf.py",
        "(along / along.max()) ** 2",
        "along / along.max()",
        SUBSETS,
    ),
    ("CAF removes f only", "defences/aggregators/caf.py", "len(gram) - 2 * f", "len(gram) - f", SUBSETS),
    (
        "the trimmed mean's bound is half of it",
        "defences/aggregators/trimmed_mean.py",
        'kappa="f/(n - 2*f)"',
        'kappa="f/(n - 2*f)/2"',
        THEORY,
    ),
    (
        "SMEA's bound is half of it",
        "defences/aggregators/smea.py",
        'kappa="4*f/(n - 2*f)"',
        'kappa="2*f/(n - 2*f)"',
        THEORY,
    ),
    (
        "Krum beside other libraries counts one more",
        "defences/aggregators/krum.py",
        "max(1, n - f - 2)",
        "max(1, n - f - 1)",
        GOLDEN,
    ),
    (
        "CGE keeps the longest",
        "defences/aggregators/cge.py",
        "norms.argsort(stable=True)[:keep]",
        "norms.argsort(stable=True)[-keep:]",
        GOLDEN,
    ),
    ("ALIE's s is one less", "attacks/updates/alie.py", "n // 2 + 1 - f", "n // 2 - f", GOLDEN),
    (
        "a bucket that is not full weighs less",
        "defences/preaggregators/bucketing.py",
        "1 / len(members)",
        "1 / s",
        GOLDEN,
    ),
    ("Min-Max by the mean distance", "attacks/updates/min_max.py", "[1].max() - apart)", "[1].mean() - apart)", UPDATE),
    (
        "Min-Max solves for one client",
        "attacks/updates/min_max.py",
        "- along).min() / square",
        "- along)[0] / square",
        UPDATE,
    ),
    ("Min-Sum forgets the number of clients", "attacks/updates/min_max.py", "(len(benign) * square)", "square", UPDATE),
    (
        "Min-Max with the sample's deviation",
        "attacks/updates/directions.py",
        "std(dim=0, correction=0)",
        "std(dim=0)",
        UPDATE,
    ),
]
