"""Clients that train nothing: zeros, a random direction, last round's aggregate."""

import torch

from fedpoison.contract.registry import update_attack
from fedpoison.linalg.blocks import row_norms
from fedpoison.types import Crafted, NotNegative, Params, Positive, Update, Updates


@update_attack(
    source="secondary: benchmarks of the field send it",
    evidence="tests/attacks/test_useless_updates.py::test_krum_picks_zeros_where_honest_updates_are_far_apart",
)
def zero(n_malicious: int, params: Params) -> Crafted:
    """Send zeros: the model as it was.

    Must win: against Krum, blind, by the norm of the aggregate: where honest updates are farther from each other than
    from 0, as in high dimension, Krum picks it and nothing is learned. The mean only shrinks to (n − f)/n.
    """
    return params.new_zeros(n_malicious, len(params))


@update_attack(
    source="secondary: benchmarks of the field send random updates, each with a scale of its own; the length is ours",
    evidence="tests/attacks/test_useless_updates.py::test_random_is_as_long_as_the_honest_and_has_no_direction",
)
def random(benign: Updates, n_malicious: int, rng: torch.Generator, *, scale: Positive = 1.0) -> Crafted:
    """Send a random direction, each client its own, `scale` times as long as the median honest update.

    Unlike `gaussian` it is on the scale of the honest, so no rule of lengths sees it. Must win: with scale = 30 against
    the mean, by the distance of the aggregate from the honest mean; at scale 1 no norm tells it from an honest update.
    """
    drawn = torch.randn(n_malicious, benign.shape[1], generator=rng, dtype=torch.float64)
    drawn *= scale * row_norms(benign).quantile(0.5) / torch.linalg.vector_norm(drawn, dim=1, keepdim=True)
    return drawn.to(benign.dtype)


@update_attack(
    paper="arXiv:1911.12560",
    source="secondary: descriptions of its delta-weights attack",
    evidence="tests/attacks/test_useless_updates.py::test_free_riders_are_kept_by_multi_krum_for_nothing",
)
def free_rider(previous: Update, n_malicious: int, rng: torch.Generator, *, noise: NotNegative = 0.1) -> Crafted:
    """Send last round's aggregate again, with noise of a share of its norm, and train nothing.

    Lin, Du and Liu 2019, delta weights: what the global model moved by last time. Nothing is known before the first
    aggregate, and zeros are sent. Must win: under Multi-Krum, knowing the broadcast models alone, by credit: its
    clients have the weight of honest ones as long as aggregates of successive rounds are alike.
    """
    drawn = torch.randn(n_malicious, len(previous), generator=rng, dtype=torch.float64)
    drawn *= noise * torch.linalg.vector_norm(previous.double()) / torch.linalg.vector_norm(drawn, dim=1, keepdim=True)
    return (previous + drawn).to(previous.dtype)
