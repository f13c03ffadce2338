"""Splits along the labels' order: at random, sorted, part of both, or in shards."""

import numpy as np

from fedpoison.common.rounding import half_up
from fedpoison.contract.registry import partition
from fedpoison.data.partitions.common import Indices, check
from fedpoison.types import Count, Share


@partition()
def iid(labels: Indices, n_clients: int, rng: np.random.Generator) -> list[Indices]:
    """Shuffle the samples and deal them out evenly: sizes differ by at most one."""
    check("iid", len(labels), n_clients, 1)
    return [np.sort(part) for part in np.array_split(rng.permutation(len(labels)), n_clients)]


@partition()
def label_sorted(labels: Indices, n_clients: int, rng: np.random.Generator) -> list[Indices]:
    """Sort the samples by label and cut them evenly: the least alike that clients of one size can be.

    Samples of one label are shuffled first. Karimireddy et al. 2022 (arXiv:2006.09365) experiment on it.
    """
    check("label_sorted", len(labels), n_clients, 1)
    return [np.sort(part) for part in np.array_split(_by_label(labels, rng.permutation(len(labels))), n_clients)]


@partition(paper="arXiv:1910.06378", revision=1)
def gamma_similarity(labels: Indices, n_clients: int, rng: np.random.Generator, *, gamma: Share = 0.5) -> list[Indices]:
    """Deal a share `gamma` of the samples out at random and cut the rest by label: 1 is `iid`, 0 `label_sorted`.

    Karimireddy et al. 2020, who call it similarity in percent. Each client has its even part of both; what is over
    of the rest is dealt on from where that of the first part ended, so that sizes differ by at most one.
    """
    check("gamma_similarity", len(labels), n_clients, 1)
    order = rng.permutation(len(labels))
    alike, rest = np.split(order, [half_up(gamma * len(labels))])
    turn = (np.arange(n_clients) - len(alike)) % n_clients
    sizes = len(rest) // n_clients + (turn < len(rest) % n_clients)
    parts = np.array_split(alike, n_clients), np.split(_by_label(labels, rest), sizes.cumsum()[:-1])
    return [np.sort(np.concatenate(pair)) for pair in zip(*parts, strict=True)]


@partition(paper="arXiv:1602.05629")
def shards(labels: Indices, n_clients: int, rng: np.random.Generator, *, per_client: Count = 2) -> list[Indices]:
    """Sort the samples by label, cut them into equal shards, and deal each client `per_client` of them at random.

    McMahan et al. 2017, the pathological non-IID split: most clients see as many classes as they have shards.
    """
    check("shards", len(labels), n_clients, per_client)
    pieces = np.array_split(_by_label(labels, rng.permutation(len(labels))), n_clients * per_client)
    dealt = rng.permutation(len(pieces)).reshape(n_clients, per_client)
    return [np.sort(np.concatenate([pieces[i] for i in mine])) for mine in dealt]


@partition(paper="arXiv:2102.02079")
def classes_per_client(
    labels: Indices, n_clients: int, rng: np.random.Generator, *, classes: Count = 2
) -> list[Indices]:
    """Give each client exactly so many classes; the clients that share a class have even parts of it.

    Li et al. 2021, quantity-based label imbalance, but for who gets which classes: a client gets those that fewest
    have so far, ties at random, so that no class is left out.
    """
    check("classes_per_client", len(labels), n_clients, classes)
    known = np.unique(labels)
    if classes > len(known) or classes * n_clients < len(known):
        raise ValueError(
            f"classes_per_client: {n_clients} clients with {classes} classes each cannot share {len(known)} classes"
        )
    owners: list[list[int]] = [[] for _ in known]
    for client in range(n_clients):
        scarcity = np.array([len(have) for have in owners]) + rng.random(len(known))
        for c in scarcity.argsort()[:classes]:
            owners[c].append(client)
    parts: list[list[Indices]] = [[] for _ in range(n_clients)]
    for label, have in zip(known, owners, strict=True):
        samples = rng.permutation(np.flatnonzero(labels == label))
        if len(samples) < len(have):
            raise ValueError(f"classes_per_client: {len(samples)} samples of class {label} for {len(have)} clients")
        for client, part in zip(have, np.array_split(samples, len(have)), strict=True):
            parts[client].append(part)
    return [np.sort(np.concatenate(mine)) for mine in parts]


def _by_label(labels: Indices, order: Indices) -> Indices:
    """The samples of this order, sorted by label and within a label as they come."""
    return order[np.argsort(labels[order], kind="stable")]
