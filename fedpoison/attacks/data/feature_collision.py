"""Poison Frogs: samples of one class that a net sees as a certain sample of another."""

from functools import partial

import torch
from torch import Tensor, nn

from fedpoison.attacks.data.perturbing import gradient
from fedpoison.attacks.data.relabelling import draw
from fedpoison.attacks.data.victims import Place, aim_at_one, check_classes
from fedpoison.contract.registry import data_attack
from fedpoison.models.features import features
from fedpoison.types import Images, Labels, NotNegative, Positive, Repeats, Share, Victims


def backward_step(forward: Images, bases: Images, rate: Tensor | float, beta: float) -> Images:
    """(x̂ + λβb) / (1 + λβ), then [0, 1]: of all pictures the one with the least ½‖x − x̂‖² + λβ/2 · ‖x − b‖²."""
    return ((forward + rate * beta * bases) / (1 + rate * beta)).clamp(0, 1)


def collide(net: nn.Module, bases: Images, victim: Victims, beta: float, lr: float, iterations: int) -> Images:
    """Pictures near the bases with the victim's features: least ‖φ(x) − φ(t)‖² + β/2 · ‖x − b‖², each its own.

    Each picture's rate λ is halved when its objective would rise, and the step is not taken.
    """
    goal = features(net, victim).detach()

    def distances(pictures: Images) -> Tensor:
        return (features(net, pictures) - goal).square().sum(dim=1)

    def objectives(pictures: Images) -> Tensor:
        with torch.no_grad():
            return distances(pictures) + beta / 2 * (pictures - bases).flatten(1).square().sum(dim=1)

    pictures, rates = bases, torch.full((len(bases), 1, 1, 1), lr)
    reached = objectives(pictures)
    for _ in range(iterations):
        forward = pictures - rates * gradient(lambda x: distances(x).sum(), pictures)
        tried = backward_step(forward, bases, rates, beta)
        objective = objectives(tried)
        better = objective <= reached
        taken = better.view(-1, 1, 1, 1)
        pictures, reached = torch.where(taken, tried, pictures), torch.where(better, objective, reached)
        rates = torch.where(taken, rates, rates / 2)
    return pictures


@data_attack(
    paper="arXiv:1804.00792",
    source="secondary: two public implementations, the benchmark of arXiv:2006.12557 among them",
    evidence="tests/attacks/test_clean_label.py::test_feature_collision_reaches_the_victims_features_near_the_base",
    goal="targeted",
    samples=("pictures",),
    aim=aim_at_one,
    check=partial(check_classes, "feature_collision"),
)
def feature_collision(
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
    beta: NotNegative = 0.1,
    opacity: Share = 0.0,
    lr: Positive = 0.1,
    iterations: Repeats = 100,
) -> tuple[Images, Labels]:
    """Move samples of the target class to where the net sees the victim, and keep how they look and their labels.

    Shafahi et al. 2018, Algorithm 1: a step down ‖φ(x) − φ(t)‖², then one back towards the base. The rate λ begins at
    `lr` and halves where the objective would rise; the paper's is fixed. `opacity`: of the victim, laid over the base
    as a watermark first (γ, .3 in the paper where a whole net is trained). Nothing but β keeps a poison near
    its base: the features of a small net leave little room, and its poisons show. `share` of the attacker's samples
    of the target class, rounded half up.
    """
    places = draw(labels == target, share, rng)
    poisoned = images.clone()
    if len(places):
        bases = opacity * victims + (1 - opacity) * images[places]
        poisoned[places] = collide(surrogate, bases, victims, beta, lr, iterations)
    return poisoned, labels.clone()
