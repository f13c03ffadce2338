"""Products of float32 rows by the widest instructions that the processor has.

MKL and numpy's library keep to AVX2 on AMD's processors; oneDNN, which torch carries for its convolutions, takes
AVX-512 there and is up to twice as fast. Torch shows oneDNN's product to its compiler only, as an operator that has
been the same since 2.0; where it is missing, or torch may round products more than float32 does, others do the work.
"""

import os
from functools import cache

import torch
from torch import Tensor

_STRIP = 64
"""Rows of a symmetric product that are made at once: few, or more than half of it is made; many, or each is slow."""


def upper_products(rows: Tensor) -> Tensor:
    """rows [n, w] · rowsᵀ in its upper triangle; what is below the diagonal does not count."""
    if not wide(rows):
        half = rows.numpy()
        return torch.from_numpy(half @ half.T)  # numpy sees that it is symmetric and does half the work
    made = rows.new_zeros(len(rows), len(rows))
    for start in range(0, len(rows), _STRIP):
        strip = rows[start : start + _STRIP]
        made[start : start + _STRIP, start:] = torch.ops.mkldnn._linear_pointwise(
            strip, rows[start:], None, "none", [], ""
        )
    return made


def wide(rows: Tensor) -> bool:
    """Whether oneDNN can multiply these, in full precision."""
    return rows.dtype == torch.float32 and _has_onednn() and _full_precision()


@cache
def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _full_precision() -> bool:
    """Whether nobody has allowed torch or oneDNN to round products to bfloat16 or TF32 on the way."""
    if any(os.environ.get(f"{name}_DEFAULT_FPMATH_MODE", "STRICT") != "STRICT" for name in ("ONEDNN", "DNNL")):
        return False
    setting = getattr(torch.backends.mkldnn, "matmul", None)  # since torch 2.9; it knows the settings above it
    if setting is None:
        return torch.get_float32_matmul_precision() == "highest"
    return setting.fp32_precision in ("none", "ieee")
