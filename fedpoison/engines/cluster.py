"""Ray: a cluster to work on, started here or joined, and whole functions as its tasks."""

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedpoison.common.parallel import workers

kept: dict[str | None, Any] = {}
"""Workers that stay from run to run, by the cluster's address; they end when nobody names them any more."""
PATIENCE = 120.0
"""Seconds to wait for a first worker."""


def imported() -> Any:
    """The ray module, told to report nothing to anybody."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    return ray


def connected(address: str | None) -> Any:
    """The ray module with a cluster behind it: that at `address`, else the one in use, else a new one here.

    ConnectionError if there is none at the address, RuntimeError if its workers do not start.
    """
    ray = imported()
    if ray.is_initialized():
        return ray
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address:
            context = ray.init(address=address, **quiet)
        else:
            with _sharing_path():
                context = ray.init(address="local", num_cpus=workers(), include_dashboard=False, **quiet)
    except ConnectionError as error:
        raise ConnectionError(f"there is no Ray cluster at {address}: {error}") from error
    nothing = ray.remote(num_cpus=0)(lambda: None)  # which needs a worker, but none of its cores
    done, _ = ray.wait([nothing.remote()], timeout=PATIENCE)
    if not done:
        ray.shutdown()
        logs = Path(context.address_info["session_dir"]) / "logs"
        raise RuntimeError(f"no worker of Ray started within {PATIENCE:.0f} s; why is said in {logs}/raylet.*")
    return ray


@contextmanager
def _sharing_path() -> Iterator[None]:
    """Have the processes that are started meanwhile import from where this one does."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    try:
        yield
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


class ClusterPool(Executor):
    """Runs functions as tasks of a Ray cluster, one a core; a task whose worker dies is done again."""

    def __init__(self, address: str | None) -> None:
        self._ray = connected(address)
        kept.clear()  # their cores are needed

    @property
    def size(self) -> int:
        """How many tasks run at once: the cluster's cores."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start a task as soon as a core is free."""
        remote = self._ray.remote(num_cpus=1, max_retries=2)(function)
        future: Future[Any] = remote.remote(*args, **kwargs).future()
        return future
