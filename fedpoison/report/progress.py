"""What is seen while runs are made: a bar with the time left on a terminal, plain lines in a pipe."""

import time
from collections.abc import Sequence
from types import TracebackType

from rich import progress as bars
from rich.console import Console

from fedpoison.config.config import Config
from fedpoison.contract.vocabulary import Record, stopped

_SHOWN = {"accuracy": "accuracy", "asr": "asr", "target_success": "target success"}


class Progress:
    """Watches runs; use as a context manager and hand `watch` to whoever makes them."""

    def __init__(self, console: Console, configs: Sequence[Config], names: Sequence[str]) -> None:
        self._console, self._configs, self._names = console, configs, names
        self._left = [config.rounds for config in configs]
        self._started = [0.0] * len(configs)
        self._done = 0
        self._bar = bars.Progress(
            bars.TextColumn("{task.description}", markup=False),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TextColumn("rounds"),
            bars.TimeElapsedColumn(),
            bars.TimeRemainingColumn(elapsed_when_finished=False),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("", total=sum(self._left))

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def watch(self, number: int, record: Record) -> None:
        """Take note of a run's next record."""
        config = self._configs[number]
        if record["round"] <= config.rounds - self._left[number]:  # it was told of by the process that was at it before
            return
        if self._left[number] == config.rounds:
            self._started[number] = time.perf_counter()
        played = self._left[number] if stopped(record) else 1
        self._left[number] -= played
        name = self._names[number]
        self._bar.update(self._task, advance=played, description=f"{name} · {_figures(record)}")
        if self._left[number] == 0:
            self._done += 1
            count, width = f"{self._done}/{len(self._configs)}", len(str(len(self._configs)))
            took = time.perf_counter() - self._started[number]
            line = f"{count:>{2 * width + 1}}  {name}: {_figures(record)}  ({took:.1f} s)"
            self._bar.console.print(line, markup=False, soft_wrap=True)


def _figures(record: Record) -> str:
    return ", ".join(f"{label} {record[key]:.3f}" for key, label in _SHOWN.items() if record[key] is not None)
