"""How much memory there is, so that what cannot fit is refused before it is taken."""

import math
import os
from pathlib import Path


def of_this_machine() -> float:
    """Bytes of memory that a process may have here, by the machine or its container; infinite where nobody says."""
    found = [_limit(Path(f"/sys/fs/cgroup/{file}")) for file in ("memory.max", "memory/memory.limit_in_bytes")]
    if hasattr(os, "sysconf") and {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= os.sysconf_names.keys():
        found.append(float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))
    return min(found)


def _limit(file: Path) -> float:
    """What a control group grants (version 2 or 1)."""
    try:
        return float(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # there is none, or it says "max"
        return math.inf


def gigabytes(count: float) -> str:
    """A number of bytes as it is told."""
    return f"{count / 1e9:,.1f} GB"
