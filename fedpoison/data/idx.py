"""IDX, the format of MNIST and its relatives."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

UNSIGNED_BYTE = 0x08
_MOST = 1 << 28
"""Bytes of an IDX file that is unpacked; MNIST's largest has 47 million."""


def read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """The unsigned bytes in an IDX file, raw or gzipped, as an array of that many dimensions.

    The file: two zero bytes, the type, the number of dimensions, each dimension as a big-endian uint32,
    then the values. ValueError says what was found instead.
    """
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":  # by content: tools that unpack do not always rename
        try:
            with gzip.open(path) as packed:
                content = packed.read(_MOST + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is a damaged gzip file: {error}") from error
        if len(content) > _MOST:
            raise ValueError(f"{path} holds more than {_MOST} bytes")
    if len(content) < 4 or content[:2] != b"\0\0":
        raise ValueError(f"{path} is not an IDX file: it starts with {content[:4].hex() or 'nothing'}, not 0000")
    if content[2] != UNSIGNED_BYTE:
        raise ValueError(f"{path} holds values of type 0x{content[2]:02x}, not 0x08 (unsigned bytes)")
    if content[3] != dimensions:
        raise ValueError(f"{path} has {content[3]} dimensions, not {dimensions}")
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise ValueError(f"{path} ends after {len(content)} bytes, within its header of {start}")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise ValueError(
            f"{path} has {len(content) - start} bytes of values, not the {math.prod(shape)} of its shape {shape}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
