"""Threads over independent pieces, each with one intra-op thread.

Results come back in the order of the pieces and no piece knows how many workers there are, so the number
of workers cannot change a bit. Two threads inside one torch op would: they also collapse on a busy machine.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch
from threadpoolctl import ThreadpoolController

T = TypeVar("T")
R = TypeVar("R")

_here = threading.local()
_workers = 0


def available_cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers() -> int:
    """How many threads `in_parallel` uses now."""
    return _workers or available_cores()


@contextmanager
def using(count: int | None) -> Iterator[None]:
    """Use `count` worker threads (all cores if None) and one intra-op thread in this one, until the end."""
    global _workers
    before, intra_op = _workers, torch.get_num_threads()
    _workers = count or available_cores()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        _workers = before
        torch.set_num_threads(intra_op)


def in_parallel(function: Callable[[T], R], pieces: Iterable[T]) -> Iterator[R]:
    """Apply `function` to every piece on the worker threads; the results come in the pieces' order.

    A piece that is alone, and all of them inside a worker, run in the caller's thread. A result is let go as soon as
    it is consumed. Nothing starts before the first result is asked for.
    """
    if getattr(_here, "is_worker", False):
        yield from map(function, pieces)
        return
    pieces, intra_op = list(pieces), torch.get_num_threads()
    torch.set_num_threads(1)  # MKL's count is one for the whole process: what the workers set can be lost again
    try:
        with _libraries().limit(limits=1, user_api="blas"):
            here = len(pieces) == 1 and _is_as_in_a_worker()  # handing it over takes longer than many a piece
            yield from map(function, pieces) if here else _pool(workers()).map(function, pieces)
    finally:
        torch.set_num_threads(intra_op)


def _is_as_in_a_worker() -> bool:
    """Whether torch computes in this thread as it does in a fresh one."""
    return torch.is_grad_enabled() and not (torch.is_inference_mode_enabled() or torch.is_autocast_enabled("cpu"))


@cache
def _libraries() -> ThreadpoolController:
    """Numpy's library for products among them, which has threads of its own."""
    return ThreadpoolController()


@cache
def _pool(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="fedpoison", initializer=_become_worker)


def _become_worker() -> None:
    _here.is_worker = True
    torch.set_num_threads(1)
