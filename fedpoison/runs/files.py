"""A run's files, read.

config.toml, environment.json   what was run, on what
run.json                        how tables and figures call it, and which clean run it is compared with
rounds.jsonl                    one Record a round, appended
checkpoint.safetensors          the State after a written round, replaced atomically; gone at the end
model.safetensors               the final parameters; its presence says that the run is finished
"""

import json
import os
import tomllib
from pathlib import Path
from typing import Any

from fedpoison.common import former
from fedpoison.contract.vocabulary import Record


class RunFiles:
    """`results/<name>/<hash>/` of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def finished(self) -> bool:
        """Whether the run is over."""
        return self.model.is_file()

    @property
    def model(self) -> Path:
        """The file of the final parameters."""
        return self.path / "model.safetensors"

    @property
    def begun(self) -> float:
        """When it was begun, as its files' times tell."""
        return (self.path / "environment.json").stat().st_mtime

    @property
    def last_run(self) -> float:
        """When it was asked for last, as its files' times tell."""
        return (self.path / "run.json").stat().st_mtime

    def described(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The configuration and the labels, as `describe` wrote them."""
        config = tomllib.loads((self.path / "config.toml").read_text(encoding="utf-8"))
        return former.config(config), json.loads((self.path / "run.json").read_text(encoding="utf-8"))

    def records(self) -> list[Record]:
        """All rounds that are wholly written."""
        rounds = self.path / "rounds.jsonl"
        if not rounds.is_file():
            return []
        return [json.loads(line) for line in rounds.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def replace_file(path: Path, content: bytes) -> None:
    """Write a file as a whole or not at all."""
    temporary = path.with_suffix(path.suffix + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
