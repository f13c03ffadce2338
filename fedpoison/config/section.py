"""What the tables of the TOML have in common."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A table of the TOML."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def as_list(given: Any) -> Any:
    """A name alone is a list of one."""
    return [given] if isinstance(given, str) else given
