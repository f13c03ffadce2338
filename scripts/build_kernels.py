#!/usr/bin/env python3
"""Build the kernels in C beside their source unless they are there; without a compiler the package does without them.

python scripts/build_kernels.py   (scripts/environment does it, and a build of the package as its hook)
"""

import os
import platform
import shlex
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run by hand
    BuildHookInterface = object

ROOT = Path(__file__).resolve().parents[1]
SOURCE = Path("fedpoison", "linalg", "kernels.c")
WITHOUT = "fedpoison does without its loops in C, only slower"


def library(root: Path) -> Path:
    """Where the library is, within the root; its name has the checksum of its source, as kernels.py expects."""
    return SOURCE.with_name(f"_kernels-{zlib.crc32((root / SOURCE).read_bytes()):08x}.so")


def build(root: Path) -> str | None:
    """Compile, into a file of another name first, and remove other versions; why that cannot be, or None."""
    wanted = root / library(root)
    if wanted.exists():
        return None
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "they are for x86-64 Linux"
    made = wanted.with_suffix(f".{os.getpid()}")
    compiler = shlex.split(os.environ.get("CC") or "cc")
    command = [*compiler, "-O3", "-ffp-contract=off", "-shared", "-fPIC", "-o", str(made), str(root / SOURCE)]
    try:
        subprocess.run(command, check=True, capture_output=True, encoding="utf-8")
        for old in wanted.parent.glob("_kernels-*.so"):
            old.unlink()
        made.replace(wanted)
    except subprocess.CalledProcessError as error:
        return error.stderr.strip() or str(error)
    except OSError as error:
        return str(error)
    return None


class KernelsHook(BuildHookInterface):
    """Puts the library into what is built, which is then for one kind of machine."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build it; what is built without it is for all machines."""
        why = build(Path(self.root))
        if why:
            self.app.display_warning(f"{WITHOUT}: {why}")
            return
        build_data["artifacts"].append(str(library(Path(self.root))))
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-linux_x86_64"


if __name__ == "__main__":
    why = build(ROOT)
    sys.exit(f"{WITHOUT}: {why}" if why else None)
