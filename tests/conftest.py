"""While the tests run, every annotation in the package is checked: shapes by jaxtyping, types by beartype."""

import os
from collections.abc import Iterator

import checked
import pytest

checked.install()


def pytest_configure(config: pytest.Config) -> None:
    import making  # loads the package, which is checked from here on

    making.few = "not exhaustive" in config.option.markexpr
    checked.often = not making.few


@pytest.fixture(autouse=True, scope="session")
def no_waiting_for_the_disk() -> Iterator[None]:
    """No test outlasts a power cut, and thousands of runs would wait; tests/runs holds when they do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def one_thread_an_operation() -> Iterator[None]:
    """As in a run: two threads inside one operation only get in each other's way."""
    from fedpoison.common import parallel

    with parallel.using(None):
        yield
