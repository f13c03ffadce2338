"""Clipped clustering: part the clients in two by direction, keep the bigger part."""

import torch
from torch import Tensor

from fedpoison.contract.registry import aggregator
from fedpoison.linalg.angles import cosines
from fedpoison.linalg.sorting import middle
from fedpoison.types import Cosines, Norms, Positive, State, Updates, Weights


@aggregator(
    paper="Li et al., IEEE Transactions on Big Data 2023",
    source="secondary: the authors' code",
    evidence="tests/defences/test_detection_rules.py::test_clipped_clustering_equals_its_definition",
    decides=True,
    references=("origin",),
    claims=("unanimity",),
)
def clipped_clustering(
    updates: Updates, norms: Norms, state: State, *, max_tau: Positive | None = None
) -> tuple[Weights, State]:
    """Clip to the median of all norms seen so far, then average the bigger of two clusters by cosine distance.

    Li et al. 2023: agglomerative clustering with average linkage, down to two clusters. The median is over this round
    and all before it; `max_tau` (1e5 in the authors' code) may cap it. Of two clusters of one size that of the first
    client is kept; a zero update is at distance 1 from all. There are always two clusters: a round without attackers
    loses clients as well, and attackers who go two ways leave one of their groups among the others. The memory is
    one number for each update ever seen.
    """
    seen = torch.cat([state.get("clipped_clustering.norms", norms[:0]), norms])
    tau = min(float(middle(seen)), max_tau or torch.inf)
    kept = bigger_half(cosines(updates))
    weights = torch.where(norms > tau, tau / norms, 1.0) * kept / kept.sum()
    return torch.cat([weights, 1 - weights.sum().unsqueeze(0)]), {**state, "clipped_clustering.norms": seen}


def bigger_half(similarity: Cosines) -> Tensor:
    """Who is in the bigger of two clusters [n], bool."""
    from scipy.cluster.hierarchy import cut_tree, linkage  # slow to import

    n = len(similarity)
    if n == 1:
        return torch.ones(1, dtype=torch.bool)
    pairs = torch.triu_indices(n, n, offset=1)
    distances = 1 - similarity[pairs[0], pairs[1]]
    with_first = torch.from_numpy(cut_tree(linkage(distances.numpy(), "average"), 2).flatten() == 0)
    return with_first if 2 * int(with_first.sum()) >= n else ~with_first
