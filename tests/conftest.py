"""While the tests run, every annotation in the package is checked: shapes by jaxtyping, types by beartype."""

from collections.abc import Iterator

import checked
import making
import pytest

checked.install()


def pytest_configure(config: pytest.Config) -> None:
    making.few = "not exhaustive" in config.option.markexpr


@pytest.fixture(autouse=True, scope="session")
def one_thread_an_operation() -> Iterator[None]:
    """As in a run: two threads inside one operation only get in each other's way."""
    from fedpoison.common import parallel

    with parallel.using(None):
        yield
