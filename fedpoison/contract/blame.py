"""Whose code an error left: a user's net or engine is called by what does not guard it, as his functions are."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from fedpoison.common.errors import AlgorithmError
from fedpoison.contract import usercode
from fedpoison.contract.entry import in_words, shortest


def told(error: BaseException) -> str:
    """An error in a sentence, behind the file and line where it left the user's own code if it came through that."""
    if isinstance(error, AlgorithmError):
        return error.sentence
    own = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if usercode.holds(str(frame.f_globals.get("__name__")))
    ]
    return f"{shortest(*own[-1])}: {in_words(error)}" if own else in_words(error)


@contextmanager
def staying() -> Iterator[None]:
    """Have a user's sys.exit fail, where it would end a worker's process."""
    try:
        yield
    except SystemExit as error:
        raise AlgorithmError(told(error), "SystemExit") from error
