"""Projected gradient descent."""

from typing import Any

from fedpoison.contract.registry import training_attack
from fedpoison.types import Count, Drill, Positive


@training_attack(
    paper="arXiv:2007.05084",
    source="secondary: a description of the authors' code",
    evidence="tests/attacks/test_constrained_training.py::test_projected_gradient_passes_where_a_plain_boost_is_found",
)
def projected_gradient(
    *, radius: Positive = 2.0, every: Count = 10, lr: Positive | None = 0.02, epochs: Count | None = 5
) -> Drill:
    """Train on poison within a ball about the global model, so that the update is as short as an honest one.

    Wang et al. 2020: every `every` minibatches, and after the last, what is farther from the global model than `radius`
    is moved back to it along the straight line; a momentum is left as it is. `lr`, `epochs`: the attacker's own. The
    paper's radius shrinks from round to round; here it stays. With the update attack model_replacement it is the
    paper's "PGD with replacement". Must win: against rules that turn the longest updates away, as cge does, by attack
    success, with a radius below the honest norms: where they find the same poison with a boost.
    """
    local: dict[str, Any] = {name: value for name, value in (("lr", lr), ("epochs", epochs)) if value is not None}
    return Drill(local=local, radius=radius, every=every)
