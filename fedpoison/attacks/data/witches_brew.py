"""Witches' Brew: samples whose gradient is that of a certain sample with the wrong label."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy

from fedpoison.attacks.data.perturbing import adam, within_linf
from fedpoison.attacks.data.relabelling import draw
from fedpoison.attacks.data.victims import Place, aim_at_one, check_classes
from fedpoison.contract.registry import data_attack
from fedpoison.types import Few, Images, Labels, Positive, Repeats, Share, Victims

DECAYS = (3 / 8, 5 / 8, 7 / 8)


def slope(net: nn.Module, images: Images, labels: Labels, create_graph: bool = False) -> Tensor:
    """The gradient [d] of the mean cross-entropy with respect to what is trained of the net."""
    trained = [p for p in net.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(cross_entropy(net(images), labels), trained, create_graph=create_graph)
    return torch.cat([gradient.flatten() for gradient in gradients])


def mismatch(net: nn.Module, pictures: Images, labels: Labels, wanted: Tensor) -> Tensor:
    """1 − the cosine of the poison's mean gradient and the wanted one, with gradient."""
    return 1 - cosine_similarity(slope(net, pictures, labels, create_graph=True), wanted, dim=0)


@data_attack(
    paper="arXiv:2009.02276",
    source="secondary: the authors' code",
    evidence="tests/attacks/test_clean_label.py::test_witches_brew_matches_gradients",
    goal="targeted",
    samples=("pictures",),
    aim=aim_at_one,
    check=partial(check_classes, "witches_brew"),
)
def witches_brew(
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
    epsilon: Share = 16 / 255,
    lr: Positive = 0.1,
    iterations: Repeats = 50,
    restarts: Few = 2,
) -> tuple[Images, Labels]:
    """Perturb samples of the target class until training on them is training the victim to be of it; labels stay.

    Geiping et al. 2021, Algorithm 1: the least 1 − cos(∇L(victim, target), mean ∇L(poison)) with ‖δ‖∞ ≤ ε, by Adam on
    the gradient's signs from random perturbations, the rate divided by ten after 3/8, 5/8 and 7/8 of the iterations;
    the best of the restarts stays (8 of 250 iterations in the paper). Left out: differentiable augmentation.
    """
    places = draw(labels == target, share, rng)
    poisoned = images.clone()
    if len(places):
        bases, own = images[places], labels[places]
        wanted = slope(surrogate, victims, torch.tensor([target]))
        project = within_linf(bases, epsilon)
        least = torch.inf
        for _ in range(restarts):
            start = bases + epsilon * torch.randn(bases.shape, generator=rng)
            brew = adam(
                lambda x: mismatch(surrogate, x, own, wanted),
                start,
                project,
                lr,
                iterations,
                signed=True,
                decays=DECAYS,
            )
            reached = mismatch(surrogate, brew, own, wanted).item()
            if reached < least:
                least, poisoned[places] = reached, brew
    return poisoned, labels.clone()
