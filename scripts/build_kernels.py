#!/usr/bin/env python3
"""Build the kernels in C beside their source; without a compiler the package does without them.

python scripts/build_kernels.py   (installing the package does it too, as a hook of its build)
"""

import os
import platform
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
LIBRARY = SOURCE.with_name("_kernels.so")


def build(root: Path) -> str | None:
    """Compile, into a file of another name first; why there is no library, or None."""
    source, library = root / SOURCE, root / LIBRARY
    made = library.with_suffix(".new")
    library.unlink(missing_ok=True)
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "they are for x86-64 Linux"
    checksum = f"-DSOURCE={zlib.crc32(source.read_bytes())}u"
    command = [
        os.environ.get("CC", "cc"),
        "-O3",
        "-ffp-contract=off",
        "-shared",
        "-fPIC",
        checksum,
        "-o",
        str(made),
        str(source),
    ]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except OSError as error:
        return str(error)
    except subprocess.CalledProcessError as error:
        return error.stderr.strip() or str(error)
    made.replace(library)
    return None


class KernelsHook(BuildHookInterface):
    """Puts the library into what is built, which is then for one kind of machine."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build it; what is built without it is for all machines."""
        why = build(Path(self.root))
        if why:
            self.app.display_warning(f"fedpoison is built without its kernels in C and will be slower: {why}")
            return
        build_data["artifacts"].append(str(LIBRARY))
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-linux_x86_64"


if __name__ == "__main__":
    sys.exit(build(ROOT))
