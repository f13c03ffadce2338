"""Skew by Dirichlet draws: of labels by class or by client, or of sizes alone."""

import math

import numpy as np

from fedpoison.contract.registry import partition
from fedpoison.data.partitions.common import Indices, check, enough
from fedpoison.types import Count, Positive


@partition(paper="arXiv:1905.12022")
def dirichlet(
    labels: Indices, n_clients: int, rng: np.random.Generator, *, alpha: Positive = 0.5, min_samples: Count = 1
) -> list[Indices]:
    """Split each class over the clients by shares drawn from Dir(alpha): the smaller, the more skewed.

    The form by class of Yurochkin et al. 2019 (arXiv:1905.12022) and Li et al. 2021 (arXiv:2102.02079): for
    each class a vector of shares over the clients ~ Dir(alpha·1), so clients differ in size too. Hsu et al.
    2019, after whom it is called, draw for each client its shares of classes, all clients of one size.
    Cuts are the cumulated shares rounded down. All shares are drawn again, up to 1000 times, until each
    client has `min_samples`. Unlike both groups' code this does not zero the share of a client that already
    has its even part of the samples: the shares stay Dirichlet's but for the redrawing.
    """
    check("dirichlet", len(labels), n_clients, min_samples)
    _check_alpha("dirichlet", alpha, n_clients)
    classes = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    counts = np.array([[len(samples)] for samples in classes])

    def draw() -> Indices:
        shares = rng.dirichlet(np.full(n_clients, alpha), len(classes))
        cuts: Indices = np.floor(shares.cumsum(axis=1)[:, :-1] * counts).astype(np.int64)
        return cuts

    def sizes(cuts: Indices) -> Indices:
        found: Indices = np.diff(cuts, axis=1, prepend=0, append=counts).sum(axis=0)
        return found

    cuts = enough(draw, sizes, min_samples, f"dirichlet with alpha = {alpha}")
    pieces = [np.split(samples, cut) for samples, cut in zip(classes, cuts, strict=True)]
    return [np.sort(np.concatenate(shard)) for shard in zip(*pieces, strict=True)]


@partition(paper="arXiv:1909.06335")
def dirichlet_by_client(
    labels: Indices, n_clients: int, rng: np.random.Generator, *, alpha: Positive = 5.0
) -> list[Indices]:
    """Give each client shares of the classes drawn from Dir(alpha · p), all clients of one size.

    Hsu et al. 2019; p is the classes' distribution in the whole, so alpha here is as many times that of `dirichlet`
    as there are classes. Clients draw their samples in turn without replacement; where a class has run out, what is
    missing is drawn from the classes that are left, by the client's shares of them, or where it has none by what is
    left of each. The last clients so differ less from the rest than the first.
    """
    check("dirichlet_by_client", len(labels), n_clients, 1)
    _check_alpha("dirichlet_by_client", alpha, 1)
    classes = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    left = np.array([len(samples) for samples in classes])
    concentration = np.maximum(alpha * left / left.sum(), np.finfo(float).tiny)
    shards = []
    for size in (len(part) for part in np.array_split(np.arange(len(labels)), n_clients)):
        shares, taken = rng.dirichlet(concentration), np.zeros_like(left)
        while missing := size - taken.sum():
            open_shares = np.where(left > taken, shares, 0.0)
            if not open_shares.sum() > 0:
                open_shares = (left - taken).astype(float)
            taken = np.minimum(taken + rng.multinomial(missing, open_shares / open_shares.sum()), left)
        parts = [samples[have - take : have] for samples, have, take in zip(classes, left, taken, strict=True)]
        left = left - taken
        shards.append(np.sort(np.concatenate(parts)))
    return shards


@partition(paper="arXiv:2102.02079")
def quantity_skew(
    labels: Indices, n_clients: int, rng: np.random.Generator, *, alpha: Positive = 0.5, min_samples: Count = 1
) -> list[Indices]:
    """Give clients sizes by shares drawn from Dir(alpha), and labels at random.

    Li et al. 2021, quantity skew. Shares are drawn again, up to 1000 times, until each client has `min_samples`.
    """
    check("quantity_skew", len(labels), n_clients, min_samples)
    _check_alpha("quantity_skew", alpha, n_clients)

    def draw() -> tuple[Indices, Indices]:
        cuts = np.floor(rng.dirichlet(np.full(n_clients, alpha)).cumsum()[:-1] * len(labels)).astype(np.int64)
        return cuts, rng.permutation(len(labels))

    def sizes(drawn: tuple[Indices, Indices]) -> Indices:
        return np.diff(drawn[0], prepend=0, append=len(labels))

    cuts, order = enough(draw, sizes, min_samples, f"quantity_skew with alpha = {alpha}")
    return [np.sort(part) for part in np.split(order, cuts)]


def _check_alpha(name: str, alpha: float, n_clients: int) -> None:
    if not (alpha > 0 and math.isfinite(alpha * n_clients)):  # beyond, numpy's shares are all 0
        raise ValueError(f"{name}: alpha must be a finite number above 0, it is {alpha}")
