"""The command line: the app, what becomes of errors, and one file a command."""

import atexit
import contextlib
import gc
import io
import os
import select
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

from cyclopts import App, CycloptsError
from rich.console import Console
from rich.segment import Segment

from fedpoison.common.errors import AlgorithmError, BusyError, ConfigError, FetchError, RunError, WatchError
from fedpoison.common.plain import plain
from fedpoison.common.version import VERSION

app = App(
    name="fedpoison",
    version=VERSION,
    help="Federated learning under poisoning: run experiments, list what there is, look at results.",
    suppress_keyboard_interrupt=False,
    help_epilogue="Exit codes: 0 done, 1 a run failed or a contract is broken, 2 the input is wrong, 130 interrupted, "
    "143 terminated.",
)


class _Ended(KeyboardInterrupt):
    """A signal that asks to end was received; it is answered as Ctrl-C is."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.code = 128 + number


def _end(number: int, frame: object) -> None:
    raise _Ended(number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; a user's mistake gives sentences, not a traceback."""
    if arguments is None:  # a process of its own
        atexit.register(_leave)
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number and signal.getsignal(number) == signal.SIG_DFL:  # nohup has them ignored
                signal.signal(number, _end)
        for stream in (sys.stdout, sys.stderr):  # a locale may lack what is printed
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
    errors = error_output()
    try:
        code = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        errors.print(f"fedpoison: {error}")
        return 2
    except KeyboardInterrupt as interrupt:
        with contextlib.suppress(OSError):  # after a hangup nobody may be there to read it
            errors.print("interrupted; the same command goes on from here")
        return interrupt.code if isinstance(interrupt, _Ended) else 130
    except ConfigError as error:
        for problem in error.problems:
            errors.print(f"fedpoison: {problem}")
        return 2
    except (AlgorithmError, WatchError) as error:
        errors.print(f"fedpoison: {error}")
        return 2
    except RunError as error:
        for line in error.sentences():
            errors.print(f"fedpoison: {line}")
        return 1
    except (BusyError, FetchError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _is_unread():  # by `print`: who read it has enough
            _deafen(sys.stdout)
            return 0
        for line in str(error).splitlines():
            errors.print(f"fedpoison: {line}")
        return 1
    return code or 0


def _leave() -> None:
    """Spare Python the search of all of torch for garbage, half a second; it would have flushed files in cycles."""
    for left in gc.get_objects():
        if type(left) in (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom):
            with contextlib.suppress(OSError, ValueError):  # it may be closed or detached
                left.flush()
    gc.freeze()


class Output(Console):
    """What is printed to, as it is: names of the user's are no markup, no pictures and no commands to a terminal.

    Where nobody reads on, as behind `| head`, the work goes on and says no more.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"highlight": False, "markup": False, "emoji": False, **settings})

    def render(self, *what: Any, **how: Any) -> Iterator[Segment]:
        """What is to be written, with all escaped that a terminal would obey and that is not our own."""
        for segment in super().render(*what, **how):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield segment._replace(text="\n".join(map(plain, segment.text.split("\n"))))

    def on_broken_pipe(self) -> None:
        """Be quiet, where rich would leave."""
        self.quiet = True
        _deafen(self.file)


def _is_unread() -> bool:
    """Whether standard output is a pipe that nobody reads any more."""
    try:
        number = sys.stdout.fileno()
    except OSError:  # it is no file
        return False
    asked = select.poll()
    asked.register(number, 0)  # what is said without being asked for: that the other end is gone
    return bool(asked.poll(0))


def _deafen(stream: IO[str]) -> None:
    """Lead what is still to be flushed to nowhere."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def error_output() -> Output:
    """Standard error; lines are as long as they are."""
    return Output(stderr=True, soft_wrap=True)


def output() -> Output:
    """Standard output; a pipe gets lines of 120 columns, as tables need them, unless $COLUMNS says otherwise."""
    console = Output()
    return console if console.is_terminal or "COLUMNS" in os.environ else Output(width=120)


def say(remarks: Iterable[str], console: Console) -> None:
    """Print what must be known of runs under their table or figure."""
    for line in remarks:
        console.print(f"note: {line}", soft_wrap=True)


# Below the app, because these files enter their commands in it.
from fedpoison.cli import check as check  # noqa: E402
from fedpoison.cli import completion as completion  # noqa: E402
from fedpoison.cli import data as data  # noqa: E402
from fedpoison.cli import list as list  # noqa: E402
from fedpoison.cli import plot as plot  # noqa: E402
from fedpoison.cli import preview as preview  # noqa: E402
from fedpoison.cli import run as run  # noqa: E402
from fedpoison.cli import show as show  # noqa: E402
from fedpoison.cli import table as table  # noqa: E402
from fedpoison.cli import tune as tune  # noqa: E402
from fedpoison.cli import watch as watch  # noqa: E402
