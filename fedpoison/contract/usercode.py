"""A user's code, loaded from the very bytes that its digest is of, with all that it imports of its own.

Own is what lies neither in the standard library nor where packages are installed. A file or module that is named has
its own modules in a namespace of their own in sys.modules (`user_1.helper`): neighbours of one name in two folders are
not mixed up, and what was edited is loaded anew. No bytecode of theirs is read or written.
"""

import ast
import builtins
import hashlib
import importlib.util
import linecache
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec, PathFinder
from itertools import accumulate, count
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from fedpoison.common.seeding import Stream, drawing_from, settings_kept


class Module(NamedTuple):
    """A module of the user's: its file and the bytes that were read, and where its parts lie if it is a package."""

    path: str = ""
    content: bytes = b""
    parts: tuple[str, ...] | None = None


class UserCode:
    """What a file (a Path) or a module (its name) is made of: `modules` by name; None is what is not the user's own.

    What a module's text imports is read beforehand, whether it is ever imported or not; what is imported otherwise is
    read then.
    """

    def __init__(self, place: Path | str, name: str, modules: dict[str, Module | None] | None = None) -> None:
        self.place, self.name, self.modules = place, name, modules or {}
        self.entry = place.name.replace(".", "_") if isinstance(place, Path) else place
        self.digest = ""
        self._counted: frozenset[str] = frozenset()
        self._strays: set[str] = set()
        self._builtins = {**vars(builtins), "__import__": self._import}

    def __reduce__(self) -> tuple[Any, ...]:
        return UserCode, (self.place, self.name, self.modules)

    @property
    def module(self) -> ModuleType:
        """The file or module itself, imported."""
        return importlib.import_module(f"{self.name}.{self.entry}")

    def load(self) -> None:
        """Import it. What has been read by then makes the digest."""
        before = set(sys.modules)
        importlib.invalidate_caches()
        self._read(self.entry)
        try:
            _ = self.module
        except BaseException:
            for name in [name for name in [*sys.modules] if name.partition(".")[0] == self.name]:
                del sys.modules[name]
            raise
        self._counted, self._strays = frozenset(self._files), _strays(before)
        digests = {name: hashlib.sha256(module.content).hexdigest() for name, module in self._files.items()}
        whole = digests.pop(self.entry)
        if digests:  # alone, a file's digest is its content's
            lines = [whole, *(f"{name} {digests[name]}" for name in sorted(digests))]
            whole = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        self.digest = whole[:16]

    @property
    def _files(self) -> dict[str, Module]:
        return {name: module for name, module in self.modules.items() if module and module.path}

    def is_current(self) -> bool:
        """Whether it would be made of the same now."""
        tops = {name: module for name, module in self.modules.items() if "." not in name and name != self.entry}
        places = ((_own(name, self._folder), module) for name, module in tops.items())
        same = all((now or Module())[::2] == (then or Module())[::2] for now, then in places)
        return same and all(map(_holds, self._files.values()))

    def uncounted(self, before: set[str]) -> set[str]:
        """The files of its own that the digest does not count; `before`: what sys.modules had before the run."""
        self._strays |= _strays(before)
        return self._strays | {module.path for name, module in self._files.items() if name not in self._counted}

    @property
    def _folder(self) -> Path | None:
        return self.place.parent if isinstance(self.place, Path) else None

    def _read(self, name: str) -> Module | None:
        """A module, with those that its text imports; None if it is not the user's own."""
        module: Module | None = None
        for part in accumulate(name.split("."), "{}.{}".format):
            if part not in self.modules:
                self.modules[part] = found = self._find(part, module)
                for imported in _imports(found, part) if found else ():
                    self._read(imported)
            module = self.modules[part]
            if module is None:
                return None
        return module

    def _find(self, name: str, package: Module | None) -> Module | None:
        if name == self.entry and isinstance(self.place, Path):
            return Module(str(self.place), self.place.read_bytes())
        if package is None:
            return _own(name, self._folder)
        return _module(PathFinder.find_spec(name.rpartition(".")[2], package.parts or ()))

    def find_spec(self, fullname: str) -> ModuleSpec | None:
        """How one of its modules is imported; None where there is none of that name."""
        name = fullname.partition(".")[2]
        module = self._read(name) if name else Module(parts=())
        if module is None:
            return None
        if not module.path:  # a package without a file only holds its parts
            spec = ModuleSpec(fullname, None, is_package=True)
            spec.submodule_search_locations = list(module.parts or ())
            return spec
        parts = None if module.parts is None else list(module.parts)
        loader: Any = _Loader(module, self._builtins)
        if Path(module.path).suffix != ".py":  # an extension: it is loaded from its file
            found = PathFinder.find_spec(fullname, [str(Path(module.path).parent)])
            loader = found.loader if found else None
        return importlib.util.spec_from_file_location(
            fullname, module.path, loader=loader, submodule_search_locations=parts
        )

    def _import(
        self, name: str, globals: Any = None, locals: Any = None, fromlist: Sequence[str] | None = (), level: int = 0
    ) -> ModuleType:
        """What an import statement in it calls."""
        top = name.partition(".")[0]
        if level or self._read(top) is None:
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        if fromlist:
            return builtins.__import__(f"{self.name}.{name}", globals, locals, fromlist)
        importlib.import_module(f"{self.name}.{name}")
        return sys.modules[f"{self.name}.{top}"]


class _Loader(InspectLoader):
    def __init__(self, module: Module, names: dict[str, Any]) -> None:
        self._module, self._builtins = module, names

    def get_source(self, fullname: str) -> str:
        return importlib.util.decode_source(self._module.content)

    def exec_module(self, module: ModuleType) -> None:
        linecache.cache.pop(self._module.path, None)  # of an earlier content
        vars(module)["__builtins__"] = self._builtins
        with drawing_from(Stream(0, "code")), settings_kept():
            exec(self.source_to_code(self._module.content, self._module.path), vars(module))


class _Finder:
    @staticmethod
    def find_spec(fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        code = _codes.get(fullname.partition(".")[0])
        return code.find_spec(fullname) if code else None


_codes: dict[str, UserCode] = {}
"""All that was loaded here or sent here, by the name of its namespace."""
_latest: dict[Path | str, UserCode] = {}
_numbers = count(1)
_loading = threading.RLock()
sys.meta_path.insert(0, _Finder)


def load(place: Path | str) -> UserCode | None:
    """The code of a file or module as it is on disk now; None for a module that is not the user's own."""
    with _loading:
        known = _latest.get(place)
        if known and known.is_current():
            return known
        if isinstance(place, str) and _own(place.partition(".")[0], None) is None:
            return None
        code = UserCode(place, f"user_{next(_numbers)}")
        _codes[code.name] = code
        try:
            code.load()
        except BaseException:
            del _codes[code.name]
            raise
        _latest[place] = code
        return code


def codes() -> list[UserCode]:
    """All that is loaded here, for another process to `install`: it can then import what is defined in it."""
    return list(_codes.values())


def install(given: Iterable[UserCode]) -> None:
    """Have code that was loaded in another process, as the bytes that it was loaded from."""
    _codes.update({code.name: code for code in given if code.name not in _codes})


def of(functions: Iterable[Callable[..., Any]]) -> list[UserCode]:
    """The code that these functions are defined in."""
    names = dict.fromkeys(function.__module__.partition(".")[0] for function in functions)
    return [_codes[name] for name in names if name in _codes]


def holds(name: str) -> bool:
    """Whether a module of this name, as it stands in sys.modules, was loaded from the user's code, or is a notebook."""
    return name == "__main__" or name.partition(".")[0] in _codes


def is_own(name: str) -> bool:
    """Whether a module of this name is the user's own."""
    top = name.partition(".")[0]
    return top in _codes or _own(top, None) is not None


def _imports(module: Module, name: str) -> Iterator[str]:
    """The names of all modules that a module's text may import, relative ones resolved."""
    package = name if module.parts is not None else name.rpartition(".")[0]
    try:
        statements = list(ast.walk(ast.parse(module.content))) if module.path.endswith(".py") else []
    except (SyntaxError, ValueError):  # it says so when it is imported
        return
    for statement in statements:
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            above = package.split(".")[: -(statement.level - 1) or None] if statement.level else []
            base = [part for part in (*above, statement.module) if part]
            yield from (".".join([*base, alias.name]) for alias in statement.names)


def _own(name: str, folder: Path | None) -> Module | None:
    """A module that no package holds, if it is the user's own: a neighbour in the folder before all others."""
    if not name or name in sys.stdlib_module_names or name in ("fedpoison", "__main__"):
        return None
    near = PathFinder.find_spec(name, [str(folder)]) if folder else None
    if near is None or near.origin is None:
        near = next((spec for finder in sys.meta_path if (spec := finder.find_spec(name, None))), near)
    module = _module(near)
    places = [module.path, *(module.parts or ())] if module else []
    return None if any(_is_installed(Path(place).parent) for place in places if place) else module


def _module(spec: ModuleSpec | None) -> Module | None:
    if spec is None:
        return None
    parts = None if spec.submodule_search_locations is None else tuple(spec.submodule_search_locations)
    if spec.has_location and spec.origin and Path(spec.origin).is_file():
        return Module(str(Path(spec.origin).resolve()), Path(spec.origin).read_bytes(), parts)
    return Module(parts=parts) if parts and spec.origin is None else None


@cache
def _is_installed(folder: Path) -> bool:
    """Whether a folder is the standard library's, or one in which packages are installed, or inside of one."""
    library = Path(sysconfig.get_path("stdlib"))
    if library in (folder, *folder.parents) or {"site-packages", "dist-packages"} & {*folder.parts}:
        return True
    return any(folder.glob("*.dist-info"))


def _strays(before: set[str]) -> set[str]:
    """The files of the user's modules that were imported by other ways than import statements of the user's code."""
    files = set()
    for name in set(sys.modules) - before:
        top, file = name.partition(".")[0], getattr(sys.modules.get(name), "__file__", None)
        if file and top not in _codes and top[0] != "_" and _own(top, None):
            files.add(str(Path(file).resolve()))
    return files


def _holds(module: Module) -> bool:
    path = Path(module.path)
    return path.is_file() and path.read_bytes() == module.content
