"""Model replacement."""

from fedpoison.contract.registry import update_attack
from fedpoison.types import Crafted, Malicious, Real


@update_attack(
    paper="arXiv:1807.00459",
    source="secondary: the authors' code (L = γX − (γ − 1)G)",
    evidence="tests/attacks/test_update_attacks.py::test_model_replacement_replaces_the_model",
)
def model_replacement(
    own: Malicious, n_malicious: int, n: int, server_lr: float, *, scale: Real | None = None
) -> Crafted:
    """Scale the malicious updates so that their average becomes the global model.

    Bagdasaryan et al. 2020: γ = n/η. k colluders share the work, each scales by n / (k · server_lr); `scale`
    overrides that. Must win: against the mean, by one attacker's backdoor: more success than without the boost.
    """
    return own * (n / (n_malicious * server_lr) if scale is None else scale)
