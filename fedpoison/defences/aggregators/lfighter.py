"""LFighter: find who flips labels among the gradients of two classes."""

from typing import Literal

import torch
from torch import Tensor

from fedpoison.contract.registry import aggregator
from fedpoison.linalg.gram import geometry
from fedpoison.types import Gram, Layer, Updates, Weights

Density = Literal["angles", "cosines"]
_ITERATIONS, _STARTS = 100, 24  # of Lloyd's; rows of which each two are tried as the clusters' first centres


def _output_layer(layers: tuple[Layer, ...]) -> tuple[Layer, Layer | None]:
    """The last matrix [classes, features], and the bias that follows it if there is one."""
    matrices = [i for i, layer in enumerate(layers) if len(layer.shape) == 2]
    weight, after = layers[matrices[-1]], layers[matrices[-1] + 1 :]
    return weight, after[0] if after and after[0].shape == weight.shape[:1] else None


def _lacks(layers: tuple[Layer, ...], **options: str) -> list[str]:
    there, missing = ", ".join(f"{layer.name} {list(layer.shape)}" for layer in layers), "there is none in"
    found = any(len(layer.shape) == 2 for layer in layers)
    return [] if found else [f"lfighter looks at an output layer [classes, features], and {missing} {there}"]


def two_means(rows: Updates) -> Tensor:
    """Which rows are in the second of two clusters with the least sum of squared distances to their means.

    Lloyd's from all pairs of rows, of many those farthest apart; the best is taken. All in the first if rows are equal.
    """
    gram, distances = geometry(rows)
    apart = [int(distances.sum(dim=1).argmax())]
    while len(apart) < min(len(rows), _STARTS):
        apart.append(int(distances[apart].amin(dim=0).argmax()))
    one, other = torch.combinations(torch.tensor(apart)).unbind(dim=1)
    second = distances[other] < distances[one]  # a start a row
    for _ in range(_ITERATIONS):
        second = second[second.any(dim=1) & ~second.all(dim=1)]
        near, far = (_squared_distances_to_means(gram, side) for side in (~second, second))
        before, second = second, far < near
        if torch.equal(before, second):
            break
    best = torch.minimum(near, far).sum(dim=1).argmin() if len(second) else None
    return torch.zeros(len(rows), dtype=torch.bool) if best is None else second[best]


def _squared_distances_to_means(gram: Gram, members: Tensor) -> Tensor:
    """‖x_i − mean of members[s]‖² for each set of members s and each row i."""
    weights = members.double() / members.sum(dim=1, keepdim=True)
    reach = weights @ gram
    return (gram.diagonal() - 2 * reach + (weights * reach).sum(dim=1, keepdim=True)).clamp(min=0)


def _inverse_density(rows: Updates, density: Density) -> float:
    """How far apart a cluster's gradients point: for each the worst other, averaged."""
    units = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)
    if density == "cosines":
        return float((1 - (units @ units.T).fill_diagonal_(0).amin(dim=1)).mean())
    chords = torch.cdist(units, units, compute_mode="donot_use_mm_for_euclid_dist")  # 0 for equal gradients, exactly
    return float((2 * (chords / 2).clamp(max=1).asin()).amax(dim=1).mean())


@aggregator(
    paper="arXiv:2207.01982",
    source="read: arXiv:2207.01982, Algorithm 1 and Procedure 1; the authors' code for what goes into a magnitude",
    evidence="tests/defences/test_layer_rules.py::test_lfighter_equals_its_definition",
    decides=True,
    claims=("permutation", "unanimity", "scale"),
    withstands="huge rows in one direction",
    check=_lacks,
)
def lfighter(updates: Updates, layers: tuple[Layer, ...], *, density: Density = "angles") -> Weights:
    """Average all but the smaller or denser of two clusters of the two most moved classes' output weights.

    Jebreel et al. 2022: each class's magnitude, its weights' norm and its bias's size, is summed over the clients; the
    weights of the two classes with the largest are clustered by k-means; the cluster with the lower score, its share
    of the clients times its inverse density, is left out, of equal scores the smaller one, and nobody if they are equal
    in size too. Inverse density is the mean over the cluster of each gradient's largest angle to another; "cosines"
    takes one less the least cosine, 0 at most, as their later code does. Their second procedure, for clients that hold
    one class each, is not here. A huge row decides which classes are looked at, and two in opposite directions take
    the honest clients into a cluster of theirs.
    """
    weight, bias = _output_layer(layers)
    matrices = updates[:, weight.columns].double().unflatten(1, weight.shape)
    magnitudes = matrices.norm(dim=2).sum(dim=0)
    if bias:
        magnitudes += updates[:, bias.columns].double().abs().sum(dim=0)
    gradients = matrices[:, magnitudes.argsort(descending=True, stable=True)[:2]].flatten(1)
    second = two_means(gradients)
    kept = torch.ones_like(second)
    if second.any():
        clusters = (~second, second)
        marks = [(float(c.double().mean()) * _inverse_density(gradients[c], density), int(c.sum())) for c in clusters]
        if marks[0] != marks[1]:
            kept = clusters[marks.index(max(marks))]
    return kept.double() / kept.sum()
