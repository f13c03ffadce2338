"""What is private in Flower and used in `fedpoison/engines/compat.py`: when one of these fails, flwr has changed it."""

import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message, RecordDict

from fedpoison.engines import compat

ROOT = Path(__file__).parents[2]
CHANGED = "flwr has changed what fedpoison/engines/compat.py uses of it: "


@pytest.fixture
def nobody() -> Iterator[Any]:
    """This process before Flower has told it who it is."""
    from flwr.supercore.task_identity import TaskIdentity

    before = TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id
    TaskIdentity._run_id = TaskIdentity._node_id = TaskIdentity._task_id = None
    yield TaskIdentity
    TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id = before


def message() -> Message:
    compat.be_somebody()
    return Message(RecordDict(), 7, "train")


def test_a_message_needs_an_identity_and_gets_one(nobody: Any) -> None:
    try:
        made = message()
    except Exception as error:
        pytest.fail(f"{CHANGED}TaskIdentity no longer lets a Message be made: {error!r}")
    assert made.metadata.src_node_id == compat.SERVER, f"{CHANGED}Message() takes its sender from elsewhere"
    assert made.metadata.run_id == compat.RUN, f"{CHANGED}Message() takes its run from elsewhere"


def test_an_identity_that_flower_gave_is_kept(nobody: Any) -> None:
    nobody.run_id, nobody.node_id, nobody.task_id = 11, 12, 13
    assert message().metadata.src_node_id == 12


def test_a_run_can_be_made() -> None:
    try:
        assert compat.empty_run().run_id == compat.RUN
    except (AttributeError, ImportError, TypeError) as error:
        pytest.fail(f"{CHANGED}Run.create_empty: {error!r}")


def test_a_message_takes_an_id_and_its_reply_names_it() -> None:
    made = message()
    compat.number(made, "12")
    assert made.metadata.message_id == "12", f"{CHANGED}message ids are kept elsewhere"
    assert Message(RecordDict(), reply_to=made).metadata.reply_to_message_id == "12", f"{CHANGED}replies"


def test_an_error_is_flower_s_for_an_app_that_raised() -> None:
    from flwr.common.constant import ErrorCode

    reply = compat.failure(message(), ValueError("no"))
    assert reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION, f"{CHANGED}the codes of errors"
    assert reply.error.reason == "ValueError: no"
    assert reply.metadata.src_node_id == 7


def test_the_server_s_node_id() -> None:
    from flwr.common.constant import SUPERLINK_NODE_ID

    assert compat.SERVER == SUPERLINK_NODE_ID, f"{CHANGED}the server's node id"


def test_a_context_can_be_made() -> None:
    try:
        made = compat.context(3, {"partition-id": 1}, {"lr": 0.1})
    except TypeError as error:
        pytest.fail(f"{CHANGED}Context(...): {error}")
    assert (made.node_config["partition-id"], made.run_config["lr"]) == (1, 0.1)


def test_a_simulation_can_be_run_from_python() -> None:
    try:
        from flwr.simulation import run_simulation
    except ImportError as error:
        pytest.fail(f"{CHANGED}run_simulation, deprecated since 1.2x, is gone: {error}")
    wanted = ["server_app", "client_app", "num_supernodes", "backend_config"]
    taken = list(inspect.signature(run_simulation).parameters)
    assert taken[:3] == wanted[:3], f"{CHANGED}run_simulation takes {taken}"
    assert wanted[3] in taken, f"{CHANGED}run_simulation takes {taken}"


def test_something_can_be_called_before_threads_are_joined() -> None:
    code = "import threading as t; e = t.Event(); w = t.Thread(target=e.wait); from fedpoison.engines import compat; "
    code += "compat.before_threads_are_joined(e.set); w.start()"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60)
    assert done.returncode == 0, "Python has changed threading._register_atexit: simulations would never end"
