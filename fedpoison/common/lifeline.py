"""Processes that end with the one that started them, however that ends. Light: it is the first thing they load."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process, resource_tracker
from multiprocessing.connection import wait


def hold() -> None:
    """Have this process end as soon as its parent is gone, whatever it is at; what it writes bears that at any time."""
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), name="lifeline", daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])  # a pipe whose other end the parent has: it breaks also where the parent is killed
    os._exit(1)


@contextmanager
def deaf_children() -> Iterator[None]:
    """Processes that are started meanwhile never hear Ctrl-C or a hangup: their parent answers for all of them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    deaf = {signal.SIGINT, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, deaf)
    try:
        resource_tracker.ensure_running()  # with the first of them, and would let us hear again
        signal.pthread_sigmask(signal.SIG_BLOCK, deaf)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
