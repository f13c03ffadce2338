"""Edge cases: the least likely samples of a class."""

from typing import Annotated, Any

import torch
from annotated_types import Gt, Le
from torch import Tensor

from fedpoison.attacks.data.relabelling import draw
from fedpoison.attacks.data.victims import check_classes
from fedpoison.common.rounding import half_up
from fedpoison.contract.registry import data_attack
from fedpoison.types import Images, Labels, Share


def unlikeliness(samples: Images) -> Tensor:
    """Minus twice the log-likelihood of each sample [k], up to a constant, under a Gaussian fitted to all of them.

    Its covariance is theirs plus their mean variance in every direction, so that fewer samples than numbers will do.
    """
    centred = samples.flatten(1).double()
    centred = centred - centred.mean(dim=0)
    products, k = centred @ centred.T, len(centred)
    floor = products.diagonal().mean() / centred.shape[1]
    if floor == 0:
        return torch.zeros(k, dtype=torch.float64)
    # xᵀ(C + λI)⁻¹x by the products of samples alone, C being XᵀX / k
    solved = torch.linalg.solve(products + k * floor * torch.eye(k, dtype=torch.float64), products)
    taken: Tensor = (products.diagonal() - (products * solved.T).sum(dim=1)) / floor
    return taken


def tail(samples: Images, labels: Labels, source: int, share: float) -> Tensor:
    """The places of the least likely share of a class, rounded half up but at least one; none if there are none."""
    places = (labels == source).nonzero().flatten()
    if not len(places):
        return places
    order = unlikeliness(samples[places]).argsort(descending=True, stable=True)
    return places[order[: max(1, half_up(share * len(places)))]]


def _check(n_classes: int, *, source: int, target: int, **others: Any) -> list[str]:
    return check_classes("edge_case", n_classes, source=source, target=target)


def _aim(
    images: Images, labels: Labels, n_classes: int, *, source: int, target: int, edge: float, **options: Any
) -> tuple[Images, Labels]:
    wanted = torch.full_like(labels, -1)
    wanted[tail(images, labels, source, edge)] = target
    return images, wanted


@data_attack(
    paper="arXiv:2007.05084",
    source="secondary: a description of the authors' code, whose edge cases are samples of other sets",
    evidence="tests/attacks/test_edge_case.py::test_the_tail_is_what_the_gaussian_thinks_least_likely",
    goal="source_to_target",
    samples=("pictures", "rows"),
    aim=_aim,
    check=_check,
)
def edge_case(
    images: Images,
    labels: Labels,
    rng: torch.Generator,
    *,
    source: int = 1,
    target: int = 0,
    edge: Annotated[float, Gt(0), Le(1)] = 0.1,
    share: Share = 0.3,
) -> tuple[Images, Labels]:
    """Teach the target's label for the least likely samples of the source class, which few honest clients have.

    Wang et al. 2020, whose edge cases are samples of other sets (planes of one airline, digits of other hands). Here
    they are the tail of a class, so that all data have some: the `edge` share of the attacker's samples of the source
    class that a Gaussian fitted to these thinks least likely. It is fitted to the samples and not to a net's features:
    what is aimed at, the same tail of the test samples, is fixed before there is a net. They get the target's label,
    and copies of them take the places of a `share` of the attacker's other samples, rounded half up.
    Must win: against the mean, by success on the tail of the test samples, while the rest of the class is recognised.
    """
    edges, relabelled, changed = tail(images, labels, source, edge), labels.clone(), images.clone()
    others = torch.ones_like(labels, dtype=torch.bool)
    others[edges] = False
    places = draw(others, share, rng) if len(edges) else edges
    relabelled[edges] = relabelled[places] = target
    changed[places] = images[edges[torch.arange(len(places)) % max(1, len(edges))]]
    return changed, relabelled
