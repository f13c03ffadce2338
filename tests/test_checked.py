"""The checks of annotations that run beside every test find what is wrong."""

import sys
from types import ModuleType

import pytest
import torch

SOURCE = """
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Row = Float[Tensor, " d"]


@dataclass(frozen=True)
class Pair:
    first: Row
    second: Row

    def told(self, number: int) -> str:
        return number if number == 7 else "told"


def together(rows: Float[Tensor, "n d"], row: Row) -> Float[Tensor, " n"]:
    return rows @ row if len(row) < 9 else row


def some(count: int) -> Float[Tensor, "{count}"]:
    return torch.zeros(min(count, 5))


def each(rows: list[Row]) -> Iterator[Row]:
    yield from rows


def inner(value: object) -> int:
    def half(of: int) -> int:
        return of / 2 if of == 8 else of // 2

    return half(value)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """A module of the package that is imported as all of them are."""
    import fedpoison

    folder = tmp_path_factory.mktemp("checked")
    (folder / "to_be_checked.py").write_text(SOURCE)
    fedpoison.__path__.append(str(folder))
    import fedpoison.to_be_checked as module

    fedpoison.__path__.remove(str(folder))
    del sys.modules["fedpoison.to_be_checked"]
    return module


def test_what_fits_passes(made: ModuleType) -> None:
    assert made.together(torch.ones(3, 2), torch.ones(2)).shape == (3,)
    assert made.Pair(torch.ones(2), torch.ones(2)).told(1) == "told"
    assert len(made.some(4)) == 4
    assert [len(row) for row in made.each([torch.ones(2)] * 2)] == [2, 2]
    assert [made.inner(4), made.inner(6)] == [2, 3]


def test_what_does_not_fit_is_an_error(made: ModuleType) -> None:
    for wrong in (
        lambda: made.together(torch.ones(3, 2), torch.ones(4)),  # two shapes of the arguments
        lambda: made.together(torch.ones(3, 9), torch.ones(9)),  # the shape of what is returned
        lambda: made.together(torch.ones(3, 2).long(), torch.ones(2)),  # a dtype
        lambda: made.some(9),  # a shape that an argument tells
        lambda: made.Pair(torch.ones(2), torch.ones(3)),  # a record's fields
        lambda: made.Pair(torch.ones(2), torch.ones(2)).told("1"),  # a method's argument
        lambda: made.Pair(torch.ones(2), torch.ones(2)).told(7),  # what it returns
        lambda: made.each(torch.ones(2)),  # a generator's argument
        lambda: made.inner("4"),  # an argument of a function inside another, the first time and the second
        lambda: made.inner("4"),
        lambda: made.inner(8),  # what it returns
    ):
        with pytest.raises(Exception, match=r"(?i)type-?check|violates type hint"):
            wrong()
