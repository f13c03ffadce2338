"""Inner products and distances of rows, exact enough to withstand rows made to spoil them.

‖x‖² + ‖y‖² − 2x·y cancels when the rows lie far from the origin compared to their distance, and one row of
1e6 spoils every other pair when the rows are centred on the mean or on the first row. So:

- rows are centred on the row of median norm, each is scaled by a power of two (exact) so that its centred
  norm is below 1, blocks are multiplied in the rows' own precision and accumulated in float64;
- if that centre turns out to lie far from where most rows are, the product is made again about a row that
  lies among them;
- pairs that are still much closer to each other than to the centre (colluders) are computed again about one
  of their own.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from fedpoison.common.parallel import in_parallel
from fedpoison.linalg import kernels
from fedpoison.linalg.blocks import WIDTH, column_blocks, row_norms
from fedpoison.types import AllNorms, Gram, Norms, References, SquaredDistances, Update, Updates

_WIDTH = 4 * WIDTH
"""Columns a product: wider than where nothing is done but read and write."""
_GROUP = 4 * _WIDTH
"""Columns that one task accumulates before its sum is handed over."""
_ORDINARY = (-40, 60)
"""Exponents of norms whose products float32 holds without scaling."""
_FAR = 100.0
"""A centre whose median squared distance to the rows is this many times the smallest of all rows' is replaced."""
_CANCELLED = 1e-2
"""A squared distance below this share of the squared norms it comes from is computed again."""


def inner_products(rows: Updates, centre: int, norms: AllNorms, references: References | None = None) -> Gram:
    """(x − rows[centre]) · (x − rows[centre])ᵀ in float64, for the rows x and the references that follow them.

    `norms`: of the rows, then of the references.
    """
    n, d = len(norms), rows.shape[1]
    lowest = math.frexp(torch.finfo(rows.dtype).tiny)[1]  # beyond, the scale itself would overflow
    exponent = torch.frexp(norms + norms[centre]).exponent.clamp(min=lowest)
    if ((exponent > _ORDINARY[0]) & (exponent < _ORDINARY[1])).all():
        exponent = torch.zeros_like(exponent)  # nothing can overflow or vanish, and a power of two changes no digit
    down = torch.ldexp(torch.ones(n, dtype=torch.float64), -exponent).to(rows.dtype)
    pieces = [rows] if references is None else [rows, references]
    group: Callable[[slice], Gram]
    if kernels.multiplies(pieces):
        each = [row for piece in pieces for row in piece]
        group = partial(kernels.centred_products, each, down, rows[centre])
    else:
        group = partial(_centred_products, pieces, down if exponent.any() else None, rows[centre])
    total = torch.zeros(n, n, dtype=torch.float64)
    for part in in_parallel(group, column_blocks(d, _GROUP)):
        total += part
    up = torch.ldexp(torch.ones(n, dtype=torch.float64), exponent)
    return (total.triu() + total.triu(1).T) * (up * up.unsqueeze(1))


def _centred_products(pieces: list[Tensor], scales: Norms | None, centre: Update, columns: slice) -> Gram:
    """(x − centre) · (x − centre)ᵀ in these columns, for the pieces' rows x, each times its scale if there are any."""
    lengths = [len(piece) for piece in pieces]
    n = sum(lengths)
    total, space = torch.zeros(n, n, dtype=torch.float64), centre.new_empty(n * _WIDTH)
    for block in column_blocks(columns.stop, _WIDTH, columns.start):
        width = block.stop - block.start
        centred = space[: n * width].view(n, width)
        parts = centred.split(lengths)
        for number, (piece, part) in enumerate(zip(pieces, parts, strict=True)):
            if scales is None:
                torch.sub(piece[:, block], centre[block], out=part)
            else:
                scale = scales.split(lengths)[number].unsqueeze(1)
                torch.mul(piece[:, block], scale, out=part).sub_(centre[block] * scale)
        half = centred.numpy()
        total += torch.from_numpy(half @ half.T)  # numpy sees that it is symmetric and does half the work
    return total


def distances_of(gram: Gram) -> SquaredDistances:
    """‖x_i − x_j‖² from a Gram matrix."""
    norms = gram.diagonal()
    return (norms + norms.unsqueeze(1) - 2 * gram).clamp_(min=0).fill_diagonal_(0)


def median_distances(distances: SquaredDistances) -> Tensor:
    """Each row's median squared distance to all rows, itself among them; of an even number the lower middle."""
    return distances.kthvalue((len(distances) + 1) // 2, dim=1).values


def geometry(
    rows: Updates, norms: Norms | None = None, references: References | None = None
) -> tuple[Gram, SquaredDistances]:
    """The Gram matrix of `rows` [n, d] about a good centre, and their squared distances.

    The rows decide what a good centre is; `references` [r, d] follow them in both.
    """
    rows, clients = kernels.side_by_side(rows), len(rows)
    references = None if references is None else kernels.side_by_side(references)
    norms = row_norms(rows) if norms is None else norms
    all_norms = norms if references is None else torch.cat([norms, row_norms(references)])
    centre = int(norms.argsort(stable=True)[(clients - 1) // 2])
    for _ in range(clients):  # each turn brings the centre ten times closer to the others: one or two suffice
        gram = inner_products(rows, centre, all_norms, references)
        distances = distances_of(gram)
        typical = median_distances(distances[:clients, :clients])
        if typical[centre] <= _FAR * typical.min():
            break
        centre = int(typical.argmin())
    _repair(rows, references, all_norms, gram, distances)
    return gram, distances


def _repair(
    rows: Updates, references: References | None, norms: AllNorms, gram: Gram, distances: SquaredDistances
) -> None:
    """Compute the cancelled pairs again about one of their own; equal rows get equal rows in `gram` too."""
    norms_about = gram.diagonal()
    doubtful = distances < _CANCELLED * (norms_about + norms_about.unsqueeze(1))
    doubtful.fill_diagonal_(False)
    while doubtful.any():
        centre = int(doubtful.sum(dim=1).argmax())
        group = torch.cat([torch.tensor([centre]), doubtful[centre].nonzero().flatten()])
        few = [rows[i] if references is None or i < len(rows) else references[i - len(rows)] for i in group.tolist()]
        about = inner_products(torch.stack(few), 0, norms[group])
        better = distances_of(about)
        pairs = (group.unsqueeze(1), group)
        distances[pairs] = torch.where(doubtful[pairs], better, distances[pairs])
        squares = about.diagonal()
        doubtful[pairs] &= better < _CANCELLED * (squares + squares.unsqueeze(1))
        doubtful[centre, :] = doubtful[:, centre] = False
        for twin in group[1:][squares[1:] == 0].tolist():
            for matrix in (gram, distances):
                matrix[twin, :] = matrix[centre, :]
                matrix[:, twin] = matrix[:, centre]
            gram[twin, twin] = gram[centre, centre]
            distances[twin, centre] = distances[centre, twin] = 0
