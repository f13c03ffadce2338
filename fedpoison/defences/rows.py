"""The rows that a defence step is shown, and what it may ask about them.

Every row is an affine combination of [updates; references], kept as a matrix and applied last, so a chain of
any length costs one Gram product and one weighted sum. The combination sums to 1, which is why M·G·Mᵀ is
right for a G about any centre; what a mixing lacks of 1 lies on the origin.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from fedpoison.linalg.blocks import by_columns, mixed_rows, row_norms, weighted_sum
from fedpoison.linalg.gram import distances_of, geometry, median_distances
from fedpoison.types import (
    ClientIds,
    Event,
    Gram,
    Mixing,
    Norms,
    Params,
    Sizes,
    SquaredDistances,
    Update,
    Updates,
    Weights,
)


def screen(
    updates: Tensor | Sequence[Tensor], params: Params, ids: ClientIds
) -> tuple[Tensor, Tensor, tuple[Event, ...]]:
    """The indices that may be aggregated, everybody's norms (NaN where there is none), and what was set aside.

    An update is set aside unless it is a floating-point vector like the parameters, and finite in their precision.
    """
    shape, dtype = params.shape, params.dtype
    shaped = torch.tensor([row.shape == shape and row.is_floating_point() for row in updates], dtype=torch.bool)
    if isinstance(updates, Tensor) and shaped.all():
        norms = row_norms(updates.to(dtype))
    else:
        norms = torch.full((len(updates),), torch.nan, dtype=torch.float64)
        for i in shaped.nonzero().flatten().tolist():
            norms[i] = row_norms(updates[i].to(dtype).unsqueeze(0))[0]
    finite = torch.isfinite(norms)
    reasons = ((~shaped, f"not a vector of {len(params)} numbers"), (shaped & ~finite, "not finite"))
    events = [Event("set_aside", tuple(ids[mask].tolist()), why) for mask, why in reasons if mask.any()]
    return (shaped & finite).nonzero().flatten(), norms, tuple(events)


class Rows:
    """The updates themselves, and every statistic of them that a step asks for, computed once.

    `references`: named vectors [d] that follow the rows in Gram and distance matrices.
    """

    def __init__(self, updates: Updates, norms: Norms, sizes: Sizes, references: Mapping[str, Tensor]) -> None:
        self.updates, self.count = updates, len(updates)
        self.norms, self.sizes = norms, sizes
        self.reference_names = tuple(references)
        for name, vector in references.items():
            if vector.shape != updates.shape[1:]:
                raise ValueError(f"{name} must be a vector of {updates.shape[1]} numbers, not {tuple(vector.shape)}")
        self._references = [vector.detach().to(updates.dtype) for vector in references.values()]

    @cached_property
    def _geometry(self) -> tuple[Gram, SquaredDistances]:
        return geometry(self.updates, self.norms, torch.stack(self._references) if self._references else None)

    def gram(self, references: tuple[str, ...] = ()) -> Gram:
        """Inner products of the rows, then of the references asked for."""
        return self._with(self._geometry[0], references)

    def squared_distances(self, references: tuple[str, ...] = ()) -> SquaredDistances:
        """Squared distances of the rows, then of the references asked for."""
        return self._with(self._geometry[1], references)

    def _with(self, matrix: Tensor, references: tuple[str, ...]) -> Tensor:
        if references == self.reference_names:
            return matrix.clone()
        wanted = self._columns(references)
        return matrix[wanted][:, wanted]

    def _columns(self, references: tuple[str, ...]) -> list[int]:
        return [*range(self.count), *(self.count + self.reference_names.index(name) for name in references)]

    def by_columns(self, rule: Callable[[Updates], Update]) -> Update:
        """The aggregate of a coordinate-wise rule."""
        return by_columns(rule, self.updates)

    def combine(self, weights: Weights, references: tuple[str, ...] = ()) -> tuple[Update, Tensor]:
        """Σ weights · [rows; references asked for], and what each client is credited with [clients]."""
        full = torch.zeros(self.count + len(self._references), dtype=torch.float64)
        full[self._columns(references)] = weights.double()
        total = weighted_sum(full[: self.count], self.updates)
        for weight, vector in zip(full[self.count :], self._references, strict=True):
            if weight != 0:
                total += (weight * vector.double()).to(total.dtype)
        return total, full[: self.count]

    def mixed(self, mixing: Mixing) -> "MixedRows":
        """These rows with a mixing [m, count] applied."""
        return MixedRows(self, mixing)


class MixedRows(Rows):
    """Rows of which each is a mixture of other rows; nothing is formed until a rule asks for it."""

    def __init__(self, before: Rows, mixing: Mixing) -> None:
        mixing = mixing.double()
        self.before, self.mixing, self.count = before, mixing, len(mixing)
        self.reference_names, self._references = before.reference_names, before._references
        shares = mixing.abs()
        self.sizes = shares @ before.sizes / shares.sum(dim=1).clamp(min=torch.finfo(torch.float64).tiny)

    @cached_property
    def _affine(self) -> Tensor:
        rows, r = self.before.count, len(self._references)
        affine = torch.zeros(self.count + r, rows + r, dtype=torch.float64)
        affine[: self.count, :rows] = self.mixing
        affine[self.count :, rows:] = torch.eye(r, dtype=torch.float64)
        if "origin" in self.reference_names:
            affine[: self.count, rows + self.reference_names.index("origin")] = 1 - self.mixing.sum(dim=1)
        return affine

    @cached_property
    def _geometry(self) -> tuple[Gram, SquaredDistances]:
        before = self.before._geometry[0]

        def about(affine: Tensor) -> Gram:
            product = affine @ before @ affine.T
            return (product + product.T) / 2

        # Clipping brings rows closer to each other than to the old centre, so the centre moves to one of them.
        rough = distances_of(about(self._affine))[: self.count, : self.count]
        gram = about(self._affine - self._affine[median_distances(rough).argmin()])
        return gram, distances_of(gram)

    @cached_property
    def norms(self) -> Norms:  # type: ignore[override]
        """The rows' Euclidean norms: their distances from the origin."""
        return self.squared_distances(("origin",))[: self.count, -1].sqrt()

    @cached_property
    def updates(self) -> Updates:  # type: ignore[override]
        """The mixed rows, formed."""
        clients = self._from_clients
        return mixed_rows(clients[1], clients[0])

    @cached_property
    def _from_clients(self) -> tuple[Updates, Mixing]:
        if isinstance(self.before, MixedRows):
            updates, mixing = self.before._from_clients
            return updates, self.mixing @ mixing
        return self.before.updates, self.mixing

    def by_columns(self, rule: Callable[[Updates], Update]) -> Update:
        """The aggregate of a coordinate-wise rule, each block mixed as it is read."""
        updates, mixing = self._from_clients
        return by_columns(rule, updates, mixing)

    def combine(self, weights: Weights, references: tuple[str, ...] = ()) -> tuple[Update, Tensor]:
        """Σ weights · [rows; references asked for], and what each client is credited with [clients]."""
        full = torch.zeros(self.count + len(self._references), dtype=torch.float64)
        full[self._columns(references)] = weights.double()
        return self.before.combine(full @ self._affine, self.reference_names)


def spread(values: Tensor | None, kept: Tensor, n: int, missing: float | bool) -> Tensor | None:
    """What is said of the kept rows as said of all n, those that were set aside getting `missing`."""
    if values is None:
        return None
    everyone = torch.full((n,), missing, dtype=values.dtype)
    everyone[kept] = values
    return everyone
