"""An algorithm chosen in the TOML: its name and its options, checked against its signature."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_serializer

from fedpoison.common.fingerprint import fingerprint
from fedpoison.contract.entry import Entry, Step
from fedpoison.contract.lookup import GIVEN, find, name_of


class Component(BaseModel):
    """An algorithm chosen by name, with all its options; in the TOML a name or a table with `name`."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)
    name: str
    options: dict[str, Any]
    entry: Entry = Field(exclude=True)

    @model_serializer
    def _as_table(self, info: Any) -> dict[str, Any]:
        name, options = self.name, {k: v for k, v in self.options.items() if v is not None}
        if by_content(info):
            name = f"{self.entry.file_hash}:{self.entry.name}" if self.entry.file_hash else name
            options = {k: v for k, v in options.items() if k not in self.entry.places}
            options |= {"revision": self.entry.revision} if self.entry.revision else {}
            options |= {k: fingerprint(options[k]) for k in self.entry.contents if k in options}
        return {"name": name, **options}

    @property
    def digests(self) -> dict[str, str]:
        """Short digests of the files of the user's in it: its own under "", those that options name under these."""
        own = {"": self.entry.file_hash} if self.entry.file_hash else {}
        return own | {k: fingerprint(self.options[k])[:16] for k in self.entry.contents if self.options.get(k)}

    @property
    def label(self) -> str:
        """The name that tables show; a user's own is told from ours by its file."""
        return self.name.rsplit("/", 1)[-1] if self.entry.file_hash else self.name

    @property
    def given(self) -> bool:
        """Whether it is a function that only this process has."""
        return (self.entry.kind, self.name) in GIVEN

    @property
    def step(self) -> Step:
        """The entry and its options, as the rest of the package takes them."""
        return self.entry, self.options


def by_content(info: Any) -> bool:
    """Whether a table is made to tell runs apart: what the user's files hold counts then, not where they lie."""
    return bool(info.context and info.context.get("by_content"))


def resolver(kind: str) -> Callable[[Any, Any], Any]:
    """The validator that looks a name or table up among a kind's entries; `folder` in its context is for user files."""

    def resolve(given: Any, info: Any) -> Any:
        if isinstance(given, Component) or given is None:
            return given
        table = {"name": given} if isinstance(given, str) or callable(given) else given
        if isinstance(table, Mapping) and callable(table.get("name")):
            table = {**table, "name": name_of(kind, table["name"])}
        if not isinstance(table, Mapping) or not isinstance(table.get("name"), str):
            raise ValueError(f'a name is needed, or a table with one, such as {{ name = "…" }}; this is {given!r}')
        folder = (info.context or {}).get("folder")
        entry = find(kind, table["name"], folder)
        options = entry.validate({k: v for k, v in table.items() if k != "name"})
        return Component(name=_from_anywhere(table["name"], folder), options=options, entry=entry)

    return resolve


def _from_anywhere(name: str, folder: Path | None) -> str:
    """A user's file by its whole path, so that a run's config.toml can be run again from anywhere."""
    place, _, attribute = name.rpartition(":")
    return f"{((folder or Path()) / place).resolve()}:{attribute}" if place.endswith(".py") else name


def a(kind: str) -> Any:
    """The type of a field that holds an algorithm of this kind."""
    return Annotated[Component, BeforeValidator(resolver(kind))]


def maybe_a(kind: str) -> Any:
    """The type of a field that may hold one."""
    return Annotated[Component | None, BeforeValidator(resolver(kind))]
