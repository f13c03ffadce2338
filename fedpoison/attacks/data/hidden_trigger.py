"""Hidden triggers: samples of the target class that a net sees as samples of the source class with the trigger."""

from typing import Any

import torch
from torch import Tensor, nn

from fedpoison.attacks.data.badnets import Position, misplaced, stamp
from fedpoison.attacks.data.perturbing import gradient, within_linf
from fedpoison.attacks.data.relabelling import draw
from fedpoison.attacks.data.victims import check_classes
from fedpoison.contract.registry import data_attack
from fedpoison.models.features import features
from fedpoison.types import Few, Images, Labels, Positive, Repeats, Share


def pair(distances: Tensor) -> Tensor:
    """For each row its own column: the closest pair of those left, again and again."""
    left, columns = distances.clone(), torch.empty(len(distances), dtype=torch.int64)
    for _ in range(len(left)):
        row, column = divmod(int(left.argmin()), left.shape[1])
        columns[row] = column
        left[row], left[:, column] = torch.inf, torch.inf
    return columns


def hide(net: nn.Module, bases: Images, patched: Images, epsilon: float, lr: float, iterations: int) -> Images:
    """Pictures within ε of the bases with the features of the patched ones, paired anew in each iteration."""
    project, pictures = within_linf(bases, epsilon), bases
    with torch.no_grad():
        goals = features(net, patched)
    for iteration in range(iterations):
        with torch.no_grad():
            mine = goals[pair(torch.cdist(features(net, pictures), goals))]

        def distance(x: Images, mine: Tensor = mine) -> Tensor:
            return (features(net, x) - mine).square().sum()

        rate = lr * 0.5 ** (5 * iteration // iterations)
        pictures = project(pictures - rate * gradient(distance, pictures))
    return pictures


def _check(n_classes: int, *, source: int, target: int, position: Position, **others: Any) -> list[str]:
    wrong = check_classes("hidden_trigger", n_classes, source=source, target=target)
    return wrong + misplaced("hidden_trigger", position)


def _aim(
    images: Images, labels: Labels, n_classes: int, *, source: int, target: int, **options: Any
) -> tuple[Images, Labels]:
    look = (options[name] for name in ("position", "size", "value"))
    return stamp(images, *look), torch.where(labels == source, target, -1)


@data_attack(
    paper="arXiv:1910.00033",
    source="secondary: the authors' code, with rand_loc = false",
    evidence="tests/attacks/test_clean_label.py::test_hidden_trigger_reaches_the_features_of_patched_sources",
    goal="backdoor",
    samples=("pictures",),
    aim=_aim,
    check=_check,
)
def hidden_trigger(
    images: Images,
    labels: Labels,
    surrogate: nn.Module,
    rng: torch.Generator,
    *,
    source: int = 1,
    target: int = 0,
    share: Share = 1.0,
    epsilon: Share = 16 / 255,
    lr: Positive = 0.01,
    iterations: Repeats = 100,
    position: Position = "bottom_right",
    size: Few = 3,
    value: Share = 1.0,
) -> tuple[Images, Labels]:
    """Move samples of the target class to where the net sees samples of the source class with a patch; labels stay.

    Saha et al. 2020, Algorithm 1: pair each poison with a patched source, greedily by distance of features, and take a
    step of projected gradient descent on Σ‖φ(z) − φ(s̃)‖² with ‖z − t‖∞ ≤ ε; 5000 times in their code, the rate halved
    after each fifth of them. No sample shows the patch until the test. It is a bright square at one place; theirs has
    colours and moves. An attacker with fewer samples of the source class than poisons uses them again.
    """
    places, sources = draw(labels == target, share, rng), draw(labels == source, 1.0, rng)
    poisoned = images.clone()
    if len(places) and len(sources):
        again = sources[torch.arange(len(places)) % len(sources)]
        patched = stamp(images[again], position, size, value)
        poisoned[places] = hide(surrogate, images[places], patched, epsilon, lr, iterations)
    return poisoned, labels.clone()
