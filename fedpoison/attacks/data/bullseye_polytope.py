"""Bullseye Polytope: samples of one class whose mean a net sees where it sees a certain sample of another."""

from functools import partial

import torch
from torch import Tensor, nn

from fedpoison.attacks.data.perturbing import adam, within_linf
from fedpoison.attacks.data.relabelling import draw
from fedpoison.attacks.data.victims import Place, aim_at_one, check_classes
from fedpoison.contract.registry import data_attack
from fedpoison.models.features import features
from fedpoison.types import Images, Labels, Positive, Repeats, Share, Victims


def off_centre(net: nn.Module, pictures: Images, goal: Tensor) -> Tensor:
    """½ ‖φ(t) − mean of φ(x_j)‖² / ‖φ(t)‖² for the goal φ(t), with gradient."""
    return (features(net, pictures).mean(dim=0) - goal).square().sum() / (2 * goal.square().sum().clamp(min=1e-12))


@data_attack(
    paper="arXiv:2005.00191",
    source="secondary: the authors' code, which has the norm itself where the paper has its square",
    evidence="tests/attacks/test_clean_label.py::test_bullseye_polytope_has_its_mean_at_the_victims_features",
    goal="targeted",
    samples=("pictures",),
    aim=aim_at_one,
    check=partial(check_classes, "bullseye_polytope"),
)
def bullseye_polytope(
    images: Images,
    labels: Labels,
    victims: Victims,
    surrogate: nn.Module,
    rng: torch.Generator,
    *,
    source: int = 1,
    target: int = 0,
    victim: Place = 0,
    share: Share = 1.0,
    epsilon: Share = 0.1,
    lr: Positive = 0.04,
    iterations: Repeats = 100,
) -> tuple[Images, Labels]:
    """Perturb samples of the target class until the mean of their features is the victim's; labels stay.

    Aghakhani et al. 2021, with one net in place of several: the least ½‖φ(t) − 1/k Σ_j φ(x_j)‖² / ‖φ(t)‖² with
    ‖x_j − b_j‖∞ ≤ ε, by Adam, 4000 iterations in their code. `share` of the attacker's samples of the target
    class, rounded half up; theirs are five.
    """
    places = draw(labels == target, share, rng)
    poisoned = images.clone()
    if len(places):
        bases, goal = images[places], features(surrogate, victims)[0].detach()
        poisoned[places] = adam(
            lambda x: off_centre(surrogate, x, goal), bases, within_linf(bases, epsilon), lr, iterations
        )
    return poisoned, labels.clone()
