"""Threads over independent pieces, each with one intra-op thread.

Results come back in the order of the pieces and no piece knows how many workers there are, so the number
of workers cannot change a bit. Two threads inside one torch op would: they also collapse on a busy machine.
"""

import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
from threadpoolctl import ThreadpoolController

T = TypeVar("T")
R = TypeVar("R")

_here = threading.local()
_workers = 0


def available_cores() -> int:
    """The cores this process may use, by its affinity and by its container's quota of their time, rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, math.ceil(min(_quotas(Path("/")), default=cores))))


@cache
def _quotas(root: Path) -> tuple[float, ...]:
    """Of how many cores' time the control groups (version 2 or 1) that this process is in grant it; Linux has them."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ()
    found = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounted = root / "sys/fs/cgroup" / controllers
        own = mounted / group.lstrip("/")
        for folder in (own, *own.parents):  # a group's quota holds for those below it
            if not folder.is_relative_to(mounted):
                break
            found.append(_quota(folder))
    return tuple(quota for quota in found if quota is not None)


def _quota(folder: Path) -> float | None:
    """Of how many cores' time a control group grants; None if it says nothing of it."""
    try:
        if (folder / "cpu.max").is_file():
            time, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            time, period = ((folder / f"cpu.cfs_{name}_us").read_text(encoding="utf-8") for name in ("quota", "period"))
        return int(time) / int(period) if int(time) > 0 else None  # version 1 says -1, version 2 max
    except (OSError, ValueError):
        return None


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
