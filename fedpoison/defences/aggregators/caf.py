"""The covariance-bound agnostic filter."""

import torch

from fedpoison.contract.registry import aggregator
from fedpoison.types import Gram, Weights


@aggregator(
    paper="arXiv:2505.01874",
    source="secondary: Algorithm 2 as the library of the authors' laboratory documents it, and notes on the paper",
    evidence="tests/defences/test_subset_rules.py::test_caf_equals_its_definition",
    needs="n > 2*f",
    claims=("permutation", "unanimity", "translation", "scale", "rotation"),
)
def caf(gram: Gram, f: int) -> Weights:
    """Weigh down, turn by turn, who lies far out along the direction of largest spread; keep the tightest mean.

    Allouah et al. 2025, Algorithm 2. Weights c start at 1. While they add up to more than n − 2f: take the weighted
    mean and covariance, and multiply each c_i by 1 − τ_i / max τ, where τ_i is row i's squared deviation from the mean
    along the covariance's first eigenvector. The result is that mean whose covariance had the smallest maximum
    eigenvalue; f = 0 is the mean. The maximum is over rows that still have weight, which ends it within the 2f turns
    that the paper speaks of: taken over all rows, as the library does, one huge row that is out already stalls it.
    """
    counts = torch.ones(len(gram), dtype=torch.float64)
    best, smallest = counts / counts.sum(), torch.inf
    while counts.sum() > len(gram) - 2 * f:
        weights = counts / counts.sum()
        deviations = gram - weights @ gram
        deviations = deviations - (deviations @ weights).unsqueeze(1)  # inner products about the weighted mean
        roots = weights.sqrt()
        values, vectors = torch.linalg.eigh(roots.unsqueeze(1) * deviations * roots)
        if values[-1] < smallest:
            best, smallest = weights, float(values[-1])
        along = (deviations @ (roots * vectors[:, -1])).abs() * (counts > 0)
        if along.max() == 0:
            break
        counts = counts * (1 - (along / along.max()) ** 2)
    return best
