"""The attacks that need no paper of their own: sign flip, Gaussian noise, NaN."""

import torch

from fedpoison.contract.registry import update_attack
from fedpoison.types import Crafted, Malicious, NotNegative, Params, Real


@update_attack(
    paper="arXiv:2006.09365",
    source="read: first version, experiments: attackers send the negated gradient",
    evidence="tests/attacks/test_update_attacks.py::test_sign_flip_shrinks_the_mean",
)
def sign_flip(own: Malicious, *, scale: Real = 1.0) -> Malicious:
    """Send the own update with its sign turned, times `scale`.

    f of n such clients shrink the plain mean to (n − 2f)/n of what it was if all updates are alike. Must win: against
    the mean, blind, by accuracy.
    """
    return -scale * own


@update_attack(
    paper="Blanchard et al., NeurIPS 2017",
    source="secondary: restated in arXiv:2006.09365v1 (read there) with a deviation of 200",
    evidence="tests/attacks/test_update_attacks.py::test_gaussian_has_the_asked_deviation",
)
def gaussian(n_malicious: int, params: Params, rng: torch.Generator, *, std: NotNegative = 0.5) -> Crafted:
    """Send noise: every coordinate is drawn from N(0, std²).

    In the units of an update, so the local model sent is the global one plus noise. Must win: with a std of 5 against
    the mean, blind, by accuracy.
    """
    noise = torch.randn(n_malicious, len(params), generator=rng, dtype=torch.float64)
    return (std * noise).to(params.dtype)


@update_attack(
    source="secondary: a client that crashes or means to crash the server",
    evidence="tests/test_round.py::test_nan_costs_the_sender_only",
)
def nan(n_malicious: int, params: Params) -> Crafted:
    """Send NaN in every coordinate; one such update turns an unscreened average into NaN.

    Must win: against a server that does not look; here it is set aside, and its sender has no say.
    """
    return params.new_full((n_malicious, len(params)), torch.nan)
