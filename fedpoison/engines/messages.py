"""What the Flower engine and its clients say to each other.

To a client: the global parameters and its part of the plan; back: its updates. Randomness is named, not carried.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from fedpoison.clients.training import Engine, Plan, Task, Trained
from fedpoison.contract.blame import staying
from fedpoison.contract.entry import in_words
from fedpoison.engines.received import events, numbers, read, said
from fedpoison.types import Drill, Event, LocalUpdates, Params


def asking(node: int, params: Params, plan: Plan, experiment: str) -> Message:
    """Ask a node to train what the plan holds; `experiment` is what its world is made from."""
    arrays = ArrayRecord({"params": Array(params.numpy()), **_arrays(plan)})
    config = ConfigRecord({"experiment": experiment, "plan": json.dumps(_told(plan))})
    content = RecordDict({"arrays": arrays, "config": config})
    return Message(content, node, MessageType.TRAIN, group_id=str(plan.round))


def _told(plan: Plan) -> dict[str, Any]:
    """A plan as JSON has it, without tensors."""
    tasks = [replace(t, kept=None, drill=replace(t.drill, mask=None) if t.drill else None) for t in plan.tasks]
    return asdict(replace(plan, tasks=tuple(tasks)))


def _arrays(plan: Plan) -> dict[str, Array]:
    """The tensors of a plan, by what they are and the place of their task."""
    found = {f"kept.{place}": task.kept for place, task in enumerate(plan.tasks)}
    found |= {f"mask.{place}": task.drill.mask for place, task in enumerate(plan.tasks) if task.drill}
    return {name: Array(tensor.numpy()) for name, tensor in found.items() if tensor is not None}


def who_are_you(node: int) -> Message:
    """Ask a node whose partition it has."""
    return Message(RecordDict(), node, MessageType.QUERY)


def partition_of(reply: Message, clients: int) -> int | str:
    """The partition that a node says it has, or what is wrong with the answer."""
    if reply.has_error():
        return said(reply.error.reason)
    try:
        told = reply.content.metric_records["partition"]
        mine, of = told["partition-id"], told["num-partitions"]
    except Exception:  # it may have sent anything
        return "it does not say which partition it has"
    if of != clients or not isinstance(mine, int) or not 0 <= mine < clients:
        return f"it has partition-id={said(mine)} of num-partitions={said(of)}, and there are {clients} clients"
    return mine


def updates_of(reply: Message, client: int, tasks: int, params: Params) -> tuple[LocalUpdates, tuple[Event, ...]] | str:
    """The updates [tasks, d] that a client sent with its events, or what is wrong with the answer."""
    if reply.has_error():
        return said(reply.error.reason)
    try:
        array = reply.content.array_records["arrays"]["updates"]
        told = events(reply.content.config_records["config"]["events"], client)
    except Exception as error:  # it may have sent anything
        return f"it sent what cannot be read: {said(in_words(error))}"
    made = numbers(array, (tasks, len(params)), str(params.numpy().dtype), "what it sent as updates")
    return made if isinstance(made, str) else (torch.from_numpy(made), told)


def client_app(engine_of: Callable[[str], Engine]) -> ClientApp:
    """The app of a client that trains its own partition; `engine_of` makes an engine from what `experiment` says."""
    app = ClientApp()

    @app.query()
    def partition(message: Message, context: Context) -> Message:
        config: dict[str, int | float | list[int] | list[float]] = {}
        config |= {name: int(context.node_config[name]) for name in ("partition-id", "num-partitions")}
        return Message(RecordDict({"partition": MetricRecord(config)}), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        content = message.content
        plan, experiment = (str(content.config_records["config"][name]) for name in ("plan", "experiment"))
        arrays = content.array_records["arrays"]
        mine, todo = int(context.node_config["partition-id"]), _plan(plan, arrays)
        if any(task.client != mine for task in todo.tasks):
            raise ValueError(f"client {mine} has no other client's samples: {todo.tasks}")
        params = torch.from_numpy(read(arrays["params"]))
        with staying():
            return _answer(message, engine_of(experiment).train(params, todo))

    return app


def _plan(text: str, arrays: ArrayRecord) -> Plan:
    table, tasks = json.loads(text), []
    for place, task in enumerate(table["tasks"]):
        names, drill = (f"kept.{place}", f"mask.{place}"), task["drill"]
        kept, mask = (torch.from_numpy(read(arrays[name])) if name in arrays else None for name in names)
        drill = Drill(**{**drill, "mask": mask}) if drill else None
        tasks.append(Task(**{**task, "drill": drill, "kept": kept}))
    return Plan(**{**table, "tasks": tuple(tasks)})


def _answer(message: Message, trained: Trained) -> Message:
    arrays = ArrayRecord({"updates": Array(_rows(trained.updates))})
    events = ConfigRecord({"events": json.dumps([event.as_dict() for event in trained.events])})
    return Message(RecordDict({"arrays": arrays, "config": events}), reply_to=message)


def _rows(updates: Tensor) -> np.ndarray:
    return np.ascontiguousarray(updates.numpy())


def by_client(tasks: Sequence[Task]) -> dict[int, list[int]]:
    """The places of each client's tasks in a plan."""
    places: dict[int, list[int]] = {}
    for place, task in enumerate(tasks):
        places.setdefault(task.client, []).append(place)
    return places
