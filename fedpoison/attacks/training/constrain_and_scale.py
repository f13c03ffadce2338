"""Constrain-and-scale."""

from typing import Annotated, Any

from annotated_types import Gt, Le

from fedpoison.clients.training import Local
from fedpoison.contract.registry import training_attack
from fedpoison.types import Count, Drill, Positive


@training_attack(
    paper="arXiv:1807.00459",
    source="secondary: a description of the authors' code",
    evidence="tests/attacks/test_constrained_training.py::test_constrain_and_scale_descends_its_own_loss",
)
def constrain_and_scale(
    local: Local,
    *,
    alpha: Annotated[float, Gt(0), Le(1)] = 0.5,
    lr: Positive | None = None,
    epochs: Count | None = None,
    radius: Positive | None = None,
) -> Drill:
    """Train on the loss and on the distance from the global model together, then boost with model_replacement.

    Bagdasaryan et al. 2020: L = α · loss + (1 − α) · anomaly, the anomaly being ½‖w − global‖², which the paper leaves
    open and the authors' code has without the square; α = 1 is no constraint. `radius`: of the ball that each step is
    brought back to, before the boost, which is the update attack's: `update = "model_replacement"`. The rate follows no
    schedule; the code's own decay of it within a round and its stop at a small loss are left out. Must win: against
    rules that turn the longest updates away, by the update's norm: shorter than without the constraint, and still a
    backdoor.
    """
    rate = local.lr if lr is None else lr
    settings: dict[str, Any] = {} if epochs is None else {"epochs": epochs}
    # the gradient of L over alpha, so the rate is the smaller; Adam's step does not know how long its gradients are
    settings |= {"prox": (local.prox + 1 - alpha) / alpha, "weight_decay": local.weight_decay / alpha}
    settings |= {"lr": rate, "eps": local.eps / alpha} if local.optimizer == "adam" else {"lr": alpha * rate}
    settings |= {"clip_norm": local.clip_norm / alpha} if local.clip_norm else {}
    return Drill(local=settings, radius=radius, every=1)
