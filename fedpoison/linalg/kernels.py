"""Loops in C (kernels.c) for what numpy and torch have no fast way to do, where they could be built.

They are optional: sorting.py, blocks.py and gram.py ask here first and else take their plain routes, to which these
are equal for finite values: medians to the bit but for the sign of zero, the others to rounding.
FEDPOISON_KERNELS=off in the environment turns them off; another word than _WORDS has is refused at import.
"""

import os
import zlib
from ctypes import CDLL, c_int, c_ssize_t, c_void_p
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from fedpoison.common.errors import ConfigError
from fedpoison.types import Gram, Norms, Update, Updates

_WORDS = {"": True, "on": True, "1": True, "yes": True, "off": False, "0": False, "no": False}
_SOURCE = Path(__file__).with_name("kernels.c")
_STRIP = 64
"""Columns that order statistics take at a time."""
_ROWS = 2**15 - 1
"""Rows that they can count."""
_TILE = 4
"""Rows that inner products take at a time."""
_WIDTH = 1024
"""Columns that they take at a time."""


def allowed() -> bool:
    """Whether FEDPOISON_KERNELS in the environment leaves them on; ConfigError for a word that says neither."""
    word = os.environ.get("FEDPOISON_KERNELS", "")
    if word.lower() not in _WORDS:
        words = ", ".join(filter(None, _WORDS))
        raise ConfigError(
            [f"FEDPOISON_KERNELS = {word!r} in the environment says neither on nor off; it may be {words}"]
        )
    return _WORDS[word.lower()]


allowed()  # so that a wrong word is said at once, and not in the middle of a run


@cache
def level() -> int:
    """What can be used: 0 nothing, 1 order statistics and sums (AVX2), 2 inner products too (AVX-512)."""
    if not allowed():
        return 0
    try:
        return int(_library().level())
    except OSError:  # not built, or for another system
        return 0


@cache
def _library() -> CDLL:
    checksum = zlib.crc32(_SOURCE.read_bytes())  # a library of another version has another name
    library = CDLL(str(_SOURCE.with_name(f"_kernels-{checksum:08x}.so")))
    library.trimmed_means.argtypes = [c_void_p, c_ssize_t, c_int, c_ssize_t, c_int, c_void_p, c_void_p]
    library.weighted_sum.argtypes = [c_void_p, c_void_p, c_int, c_ssize_t, c_ssize_t, c_void_p]
    library.centred_products.argtypes = [
        *(c_void_p, c_void_p, c_int, c_void_p),
        *(c_ssize_t, c_ssize_t, c_void_p, c_void_p),
    ]
    for function in (library.trimmed_means, library.weighted_sum, library.centred_products):
        function.restype = None
    return library


def side_by_side(rows: Tensor) -> Tensor:
    """The rows, or a row, with values side by side, so that the route does not depend on how they were laid out."""
    return rows.resolve_neg() if rows.stride(-1) == 1 else rows.contiguous()


def _readable(tensor: Tensor) -> bool:
    """Whether the memory of its rows holds float32 values side by side, and nothing else has to be known of it."""
    return (
        tensor.dtype == torch.float32
        and tensor.device.type == "cpu"
        and (tensor.stride(-1) == 1 or tensor.shape[-1] == 1)
        and not (tensor.is_neg() or tensor.requires_grad)
    )


def sorts(updates: Updates) -> int:
    """How many of the first columns order statistics are made of here."""
    able = level() >= 1 and 0 < len(updates) <= _ROWS and _readable(updates)
    return updates.shape[1] // _STRIP * _STRIP if able else 0


def trimmed_means(updates: Updates, cut: int | None) -> Update:
    """The mean of each column without its `cut` least and greatest values; its median if that is None.

    For as many columns as `sorts` says.
    """
    n, d = updates.shape
    if cut is not None and not 0 <= 2 * cut < n:
        raise ValueError(f"of {n} values, {cut} cannot be cut at either end")
    result = updates.new_empty(d)
    space = updates.new_empty(n * (_STRIP + _STRIP // 2 + 8))
    _library().trimmed_means(
        *(updates.data_ptr(), updates.stride(0), n, d),
        *(-1 if cut is None else cut, result.data_ptr(), space.data_ptr()),
    )
    return result


def sums(rows: list[Update]) -> bool:
    """Whether weighted sums of these rows are made here."""
    return level() >= 1 and len(rows) > 0 and all(map(_readable, rows))


def weighted_sum(weights: Tensor, rows: list[Update], result: Update, columns: slice) -> None:
    """Put Σ weights[i] · rows[i] into these columns of the result; weights are float64."""
    starts = _starts(rows)
    _library().weighted_sum(
        *(starts.data_ptr(), weights.data_ptr(), len(rows)),
        *(columns.start, columns.stop, result.data_ptr()),
    )


def multiplies(matrices: list[Tensor]) -> bool:
    """Whether inner products of these matrices' rows are made here."""
    return level() >= 2 and all(map(_readable, matrices))


def centred_products(rows: list[Update], scales: Norms, centre: Update, columns: slice) -> Gram:
    """(x − centre) · (x − centre)ᵀ in these columns, for the rows x, each times its scale; in the upper triangle."""
    n, padding = len(rows), -len(rows) % _TILE
    starts = _starts([*rows, *[centre] * padding])
    factors = torch.cat([scales.to(torch.float32), centre.new_zeros(padding)])
    products = centre.new_zeros(n + padding, n + padding, dtype=torch.float64)
    space = centre.new_empty(len(starts) * _WIDTH)
    _library().centred_products(
        *(starts.data_ptr(), factors.data_ptr(), len(starts), centre.data_ptr()),
        *(columns.start, columns.stop, products.data_ptr(), space.data_ptr()),
    )
    return products[:n, :n]


def _starts(rows: list[Update]) -> Tensor:
    return torch.tensor([row.data_ptr() for row in rows], dtype=torch.int64, device="cpu")
