"""What is private or deprecated, in Flower and once in Python, and needed here: nothing else in the package names it.

`tests/flower/test_flower_compat.py` has a test for each piece, which says what is lost when a new flwr changes it.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

SERVER = 1
"""The server's node id; clients' are random in Flower, and follow it in process."""
RUN = 1
"""The run's id in process."""
_RAISED = 2
"""Flower's code for a ClientApp that raised."""


def be_somebody() -> None:
    """Give this process an identity unless Flower gave it one: without it no Message can be made."""
    from flwr.supercore.task_identity import TaskIdentity

    try:
        _ = TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id
    except RuntimeError:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN, SERVER, 1


def empty_run() -> Any:
    """A run without an app bundle behind it."""
    from flwr.supercore.run import Run

    return Run.create_empty(run_id=RUN)


def number(message: Message, name: str) -> None:
    """Give a message its id, as a SuperLink does; replies name it."""
    message.metadata.__dict__["_message_id"] = name


def failure(message: Message, error: Exception) -> Message:
    """The reply of a client whose app raised this."""
    return Message(Error(_RAISED, f"{type(error).__name__}: {error}"), reply_to=message)


def context(node: int, config: Mapping[str, Any], run_config: Mapping[str, Any]) -> Context:
    """What a client is called with beside the message."""
    return Context(run_id=RUN, node_id=node, node_config=dict(config), state=RecordDict(), run_config=dict(run_config))


def run_simulation(server: ServerApp, client: ClientApp, clients: int) -> None:
    """Flower's simulation from within Python on the Ray in use, a core a client; returns when the ServerApp does."""
    from flwr.simulation import run_simulation as run

    logging.getLogger("flwr").setLevel(logging.ERROR)
    resources: ConfigRecord | dict[str, Any] = {"num_cpus": 1, "num_gpus": 0.0}
    run(server, client, clients, backend_config={"client_resources": resources})  # type: ignore[dict-item]


def before_threads_are_joined(function: Callable[[], None]) -> None:
    """Call this when the interpreter ends, before it waits for the threads of pools, as Flower's simulation has them.

    What `atexit` calls comes after that wait.
    """
    threading._register_atexit(function)  # type: ignore[attr-defined]
