"""Inner-product manipulation."""

from fedpoison.contract.registry import update_attack
from fedpoison.types import Crafted, Real, Updates


@update_attack(
    paper="arXiv:1903.03936",
    source="secondary: the code of a later paper's authors",
    evidence="tests/attacks/test_update_attacks.py::test_ipm_turns_the_mean_round_only_beyond_its_bound",
)
def ipm(benign: Updates, n_malicious: int, *, epsilon: Real = 0.5) -> Crafted:
    """Inner-product manipulation: −epsilon times the honest mean.

    Xie et al. 2020. It turns the plain mean round only if epsilon > (n − f)/f; a small one slips past
    distance-based rules. Must win: against the mean, with full knowledge and such an epsilon, by the aggregate's
    direction.
    """
    return (-epsilon * benign.mean(dim=0)).repeat(n_malicious, 1)
