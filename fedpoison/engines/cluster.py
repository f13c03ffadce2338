"""Ray: a cluster to work on, started here or joined, and whole functions as its tasks."""

import os
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from fedpoison.parallel import workers

kept: dict[str | None, Any] = {}
"""Workers that stay from run to run, by the cluster's address; they end when nobody names them any more."""


def imported() -> Any:
    """The ray module, told to report nothing to anybody."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    return ray


def connected(address: str | None) -> Any:
    """The ray module with a cluster behind it: that at `address`, else the one in use, else a new one here.

    ConnectionError if there is none at the address.
    """
    ray = imported()
    if ray.is_initialized():
        return ray
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            ray.init(address="local", num_cpus=workers(), include_dashboard=False, **quiet)
    except ConnectionError as error:
        raise ConnectionError(f"there is no Ray cluster at {address}: {error}") from error
    return ray


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
