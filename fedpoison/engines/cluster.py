"""Ray: a cluster to work on, started here or joined, and whole functions as its tasks."""

import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedpoison.common.parallel import workers

kept: dict[str | None, Any] = {}
"""Workers that stay from run to run, by the cluster's address; they end when nobody names them any more."""
PATIENCE = 120.0
"""Seconds to wait for a first worker."""
_own: set[str] = set()
"""Variables of the environment that close a cluster which was started here."""


def imported() -> Any:
    """The ray module, told to report nothing to anybody."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    return ray


def connected(address: str | None) -> Any:
    """The ray module with a cluster behind it: that at `address`, else the one in use, else a new one here.

    A new one listens on this machine's loopback and works for whoever has its token: this process and what it starts,
    unless RAY_AUTH_MODE and its companions say otherwise, which hold for a cluster at an address too.
    ConnectionError if there is none at the address, RuntimeError if its workers do not start.
    """
    ray = imported()
    if ray.is_initialized():
        return ray
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address:
            while _own:
                os.environ.pop(_own.pop(), None)
            _reread()
            context = ray.init(address=address, **quiet)
        else:
            closing = _closing()
            _own.update(closing)
            os.environ.update(closing)  # for good: now and then Ray looks for its token again, and ends the process
            with _set({"PYTHONPATH": os.pathsep.join(sys.path)}), _on_loopback():
                _reread()
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


def _closing() -> dict[str, str]:
    """What has a cluster that is started with it turn away whoever has not got its token."""
    if "RAY_AUTH_MODE" in os.environ:
        return {}
    given = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    return {"RAY_AUTH_MODE": "token", **({} if given else {"RAY_AUTH_TOKEN": secrets.token_hex(32)})}


@contextmanager
def _set(variables: Mapping[str, str]) -> Iterator[None]:
    """Have these in the environment, for the processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _reread() -> None:
    """Have Ray look again at how it authenticates; it does so only when it is imported."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # of no public stub

    AuthenticationTokenLoader.instance().reset_cache()
    Config.initialize("")


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Have Ray take 127.0.0.1 for this machine's address, as it does on macOS: what it starts listens there alone."""
    from ray._private import ray_constants

    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


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
