"""What a client that crashes, or means to crash the server, sends: Inf, huge numbers, the wrong shape."""

import torch
from jaxtyping import Float
from torch import Tensor

from fedpoison.contract.registry import update_attack
from fedpoison.types import Count, Crafted, Params, Positive

Misshapen = Float[Tensor, "{n_malicious} wrong"]


@update_attack(
    source="secondary: benchmarks of the field send it, under this name or as NaN's twin",
    evidence="tests/attacks/test_useless_updates.py::test_what_is_broken_costs_its_sender_only",
)
def inf(n_malicious: int, params: Params) -> Crafted:
    """Send infinity in every coordinate.

    Must win: one such row makes an unscreened average infinite; here it is set aside, and its sender has no say.
    """
    return params.new_full((n_malicious, len(params)), torch.inf)


@update_attack(
    source="secondary: benchmarks of the field send it; the number is this package's",
    evidence="tests/attacks/test_useless_updates.py::test_one_huge_row_carries_the_mean_away_and_no_robust_rule",
)
def huge(n_malicious: int, params: Params, *, size: Positive = 1e10) -> Crafted:
    """Send `size` in every coordinate: finite, so that no screen sets it aside.

    Must win: against the mean, with one attacker, by the distance of the aggregate from the honest mean, size / n a
    coordinate. Every rule that bounds what one row can do stands.
    """
    return params.new_full((n_malicious, len(params)), size)


@update_attack(
    source="secondary: servers of the field are tried with it",
    evidence="tests/attacks/test_useless_updates.py::test_what_is_broken_costs_its_sender_only",
)
def wrong_shape(n_malicious: int, params: Params, *, extra: Count = 1) -> Misshapen:
    """Send vectors of `extra` numbers more than the model has parameters.

    Must win: a server that stacks what it is sent fails; here such a row is an event, and its sender has no say.
    """
    return params.new_zeros(n_malicious, len(params) + extra)
