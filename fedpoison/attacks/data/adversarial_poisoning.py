"""Adversarial examples as training data: what a net learns of a class looks like another one."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedpoison.attacks.data.perturbing import pgd, within_linf
from fedpoison.attacks.data.relabelling import draw
from fedpoison.attacks.data.victims import aim_at_nothing
from fedpoison.contract.registry import data_attack
from fedpoison.types import Images, Labels, Repeats, Share


@data_attack(
    paper="arXiv:2106.10807",
    source="secondary: the authors' code",
    evidence="tests/attacks/test_clean_label.py::test_adversarial_poison_is_taken_for_the_next_class",
    goal="availability",
    samples=("pictures",),
    aim=aim_at_nothing,
)
def adversarial_poisoning(
    images: Images,
    labels: Labels,
    n_classes: int,
    surrogate: nn.Module,
    rng: torch.Generator,
    *,
    towards: Literal["next_class", "away"] = "next_class",
    share: Share = 1.0,
    epsilon: Share = 8 / 255,
    iterations: Repeats = 50,
) -> tuple[Images, Labels]:
    """Perturb samples until the attacker's net takes them for another class, and keep their labels.

    Fowl et al. 2021: projected gradient descent in ‖δ‖∞ ≤ ε from a random point of that box, on the loss of class
    y + 1 ("next_class", the stronger one) or up the loss of the own label ("away"); 250 iterations in the paper, the
    best of 8 restarts, with differentiable augmentation, of which there is none here. Steps are of 2.5 ε / iterations.
    """
    chosen = draw(torch.ones_like(labels, dtype=torch.bool), share, rng)
    bases, own = images[chosen], labels[chosen]

    def objective(pictures: Images) -> Tensor:
        seen = surrogate(pictures)
        if towards == "away":
            return -cross_entropy(seen, own, reduction="sum")
        return cross_entropy(seen, (own + 1) % n_classes, reduction="sum")

    start = bases + epsilon * (2 * torch.rand(bases.shape, generator=rng) - 1)
    poisoned = images.clone()
    poisoned[chosen] = pgd(objective, start, within_linf(bases, epsilon), 2.5 * epsilon / iterations, iterations)
    return poisoned, labels.clone()
