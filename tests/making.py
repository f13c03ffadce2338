"""What more than one file of tests builds."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hypothesis import settings

few = False
"""Whether this run leaves out what is exhaustive; conftest sets it."""


def draws(some: int, many: int) -> settings:
    """Of hypothesis, the same each time, and many only where exhaustive tests run too."""
    return settings(derandomize=True, deadline=None, max_examples=some if few else many)


def put_records(folder: Path, records: Iterable[dict[str, Any]]) -> None:
    """Have a run say this. As one of an older version, it has no checksums."""
    (folder / "sums.json").unlink(missing_ok=True)
    (folder / "rounds.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
