"""The Flower engine: the bits of `batched` whatever carries them; clients that fail; the Grid in this process."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedpoison.cli import main
from fedpoison.clients.training import Engine, Plan, Task
from fedpoison.common import parallel
from fedpoison.config.config import parse
from fedpoison.contract.vocabulary import Record
from fedpoison.engines import grids
from fedpoison.engines.in_process import InProcessGrid
from fedpoison.engines.messages import asking, client_app
from fedpoison.round import State, play
from fedpoison.runs.world import build, trainer

TABLE: dict[str, Any] = {
    "name": "tiny",
    "rounds": 2,
    "data": {"name": "digits"},
    "model": {"name": "mlp", "hidden": [16]},
    "clients": {"count": 6, "local": {"batch_size": 16, "epochs": 1}},
    "threat": {"malicious": 2, "data": {"name": "badnets"}},
}
ROOT = Path(__file__).parents[2]


def played(table: dict[str, Any], folder: Path | None = None, **engine: Any) -> tuple[State, list[Record]]:
    config = parse({**table, "engine": {"name": "flower", **engine}}, folder)
    records = []
    with parallel.using(2):
        world, state = build(config)
        while state.round < config.rounds:
            state, record = play(state, world)
            records.append(record)
    return state, records


OTHERS = {
    "backdoor": {},
    "alie-of-colluders": {"threat": {"malicious": 2, "update": "alie", "knows": "colluders"}},
    "own-data-and-update": {"threat": {"malicious": 2, "data": {"name": "label_flip"}, "update": "model_replacement"}},
    "cohorts-and-momentum": {"clients": {**TABLE["clients"], "per_round": 4, "momentum": 0.9, "dropout": 0.2}},
    "drilled": {"threat": {**TABLE["threat"], "training": {"name": "neurotoxin", "epochs": 2, "radius": 0.3}}},
    "pictures": {"model": {"name": "cnn", "channels": [4], "hidden": 8}, "rounds": 1},
    "stacks-of-three": {"model": {"name": "cnn", "channels": [4], "hidden": 8}, "rounds": 1},
}


@pytest.mark.parametrize("name", OTHERS)
def test_in_process_a_run_has_the_bits_of_batched(name: str) -> None:
    table = {**TABLE, **OTHERS[name]}
    options = {"stack": 3} if name == "stacks-of-three" else {}
    state, records = played(table, **options)
    expected, plain = played(table, name="batched", **options)
    assert torch.equal(state.params, expected.params)
    assert torch.equal(state.previous, expected.previous)
    assert [(r["accuracy"], r["events"]) for r in records] == [(r["accuracy"], r["events"]) for r in plain]


OWN = """
from torch import nn
from fedpoison import aggregator
from fedpoison.types import Update

class Odd(nn.Linear):
    def forward(self, images):
        return super().forward(images.flatten(1)) * 2

def net(input_shape, n_classes):
    return Odd(64, n_classes)

@aggregator()
def trust(root_update: Update) -> Update:
    "The server's own update."
    return root_update
"""


@pytest.mark.parametrize("transport", ["process", "simulation"])
def test_users_files_and_the_server_s_root_set(tmp_path: Path, transport: str) -> None:
    (tmp_path / "own.py").write_text(OWN)
    data, defence = {"name": "digits", "root": {"samples": 50}}, {"aggregator": "own.py:trust"}
    for changed in ({"model": "own.py:net"}, {"data": data, "defence": defence}):
        table = {**TABLE, **changed}
        with grids.lending(Scattered(client_app(trainer), 6)):
            state, records = played(table, tmp_path, transport=transport)
        expected, plain = played(table, tmp_path, name="batched")
        assert torch.equal(state.params, expected.params)
        assert [r["events"] for r in records] == [r["events"] for r in plain]


def test_the_transport_is_no_part_of_the_hash() -> None:
    hashes = {parse({**TABLE, "engine": e}).hash for e in ({"name": "flower", "lost": "error"}, {"name": "batched"})}
    assert len(hashes) == 1
    assert (
        parse({**TABLE, "engine": {"name": "flower", "lost": "event"}}).hash not in hashes
    )  # fewer clients, other bits


# ---- the Grid of a ServerApp, as a simulation or a deployment lends it


class Scattered(InProcessGrid):
    """Node ids that say nothing, replies in another order, one node gone in `gone` rounds."""

    def __init__(self, app: ClientApp, clients: int, lose: Callable[[Message], bool] = lambda message: False) -> None:
        super().__init__(app, clients)
        self._contexts = {(2**63 + 7 * n * n) % 1009: c for n, c in enumerate(self._contexts.values())}
        self._lose = lose

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        kept = [message for message in messages if not self._lose(message)]
        return list(super().send_and_receive(kept))[::-1]


def test_a_lent_grid_gives_the_same_bits_whatever_its_node_ids_and_order() -> None:
    with grids.lending(Scattered(client_app(trainer), 6)):
        state, _ = played(TABLE, transport="deployment")
    assert torch.equal(state.params, played(TABLE, name="batched")[0].params)


def silent(partition: int, number: str) -> Callable[[Message], bool]:
    """Does not deliver what client `partition` is told in that round."""
    return lambda message: (
        message.metadata.group_id == number
        and json.loads(str(message.content.config_records["config"]["plan"]))["tasks"][0]["client"] == partition
    )


def test_a_client_that_is_not_heard_of_costs_that_client() -> None:
    with grids.lending(Scattered(client_app(trainer), 6, silent(3, "1"))):
        state, records = played({**TABLE, "threat": {}}, transport="simulation", lost="event")
    first, second = records
    assert first["cohort"] == [0, 1, 2, 4, 5]
    assert [(e["what"], e["clients"]) for e in first["events"]] == [("lost", [3])]
    assert second["cohort"] == [0, 1, 2, 3, 4, 5]
    assert state.params.isfinite().all()


THREATS: list[dict[str, Any]] = [
    {"malicious": 3, "update": "alie", "knows": "all"},
    {"malicious": 3, "update": "alie", "knows": "colluders"},
    {"malicious": 3, "data": {"name": "badnets"}},
]


@pytest.mark.parametrize("threat", THREATS)
def test_attackers_and_their_victims_can_be_lost(threat: dict[str, Any]) -> None:
    table = {**TABLE, "threat": threat}
    malicious = played(table, name="batched")[1][0]["malicious"]
    honest = next(i for i in range(6) if i not in malicious)
    for gone in (malicious[0], honest):
        with grids.lending(Scattered(client_app(trainer), 6, silent(gone, "1"))):
            state, records = played(table, transport="simulation", lost="event")
        idle = threat.get("knows") == "all" and gone in malicious  # nobody asks for its own training
        assert records[0]["cohort"] == [i for i in range(6) if i != gone or idle]
        assert {event["what"] for record in records for event in record["events"]} <= {"lost", "attack"}
        assert state.params.isfinite().all()


class Restarted(Scattered):
    """A node that is another one after the first round, with the same partition."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        sent = list(messages)
        replies = super().send_and_receive(sent)
        if sent[0].metadata.group_id == "1":
            node = next(n for n, c in self._contexts.items() if c.node_config["partition-id"] == 3)
            self._contexts[node + 5000] = self._contexts.pop(node)
        return replies


def test_a_node_that_comes_again_as_another_is_found() -> None:
    with grids.lending(Restarted(client_app(trainer), 6)):
        state, records = played(TABLE, transport="deployment")
    assert [record["events"] for record in records] == [[], []]
    assert torch.equal(state.params, played(TABLE, name="batched")[0].params)


def test_a_given_stack_is_told_to_the_clients() -> None:
    table, told = {**TABLE, **OTHERS["stacks-of-three"]}, []

    def engine_of(text: str) -> Engine:
        told.append(json.loads(text)["experiment"]["engine"])
        return trainer(text)

    with grids.lending(Scattered(client_app(engine_of), 6)):
        state, _ = played(table, transport="deployment", stack=3)
    assert told == [{"name": "batched", "stack": 3}] * 6
    assert torch.equal(state.params, played(table, name="batched", stack=3)[0].params)


def test_a_lost_client_ends_the_run_if_that_is_wanted() -> None:
    with (
        grids.lending(Scattered(client_app(trainer), 6, silent(3, "2"))),
        pytest.raises(RuntimeError, match=r"clients were lost on Flower: client 3: not heard of for 5 s"),
    ):
        played(TABLE, transport="simulation", patience=5.0)


def lying(partition: int, change: Callable[[RecordDict], RecordDict]) -> ClientApp:
    """The engine's own app, with one client that sends something else."""
    honest, app = client_app(trainer), ClientApp()
    app.query()(honest._registered_funcs["query.default"])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        reply = honest._registered_funcs["train.default"](message, context)
        if context.node_config["partition-id"] != partition:
            return reply
        return Message(change(reply.content), reply_to=message)

    return app


def with_updates(array: Array) -> Callable[[RecordDict], RecordDict]:
    return lambda content: RecordDict({**content, "arrays": ArrayRecord({"updates": array})})


def refuse(content: RecordDict) -> RecordDict:
    raise ValueError("not me")


LIES: dict[str, tuple[Callable[[RecordDict], RecordDict], str]] = {
    "a wrong shape": (with_updates(Array(torch.zeros(3).numpy())), "what it sent as updates is (3,) float32, not (1, "),
    "another type": (with_updates(Array(torch.zeros(1, 1210).double().numpy())), "float64"),
    "no numbers": (with_updates(Array("float32", (1, 1210), "numpy.ndarray", b"x")), "updates cannot be read"),
    "nothing": (lambda content: RecordDict({"arrays": MetricRecord({"a": 1})}), "it sent what cannot be read"),
    "no events": (lambda content: RecordDict({**content, "config": ConfigRecord({"events": "{"})}), "cannot be read"),
    "NaN for a client": (
        lambda content: RecordDict(
            {**content, "config": ConfigRecord({"events": '[{"what": "engine", "clients": [NaN], "detail": ""}]'})}
        ),
        "it speaks for [nan]",
    ),
    "an error": (refuse, "ValueError: not me"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_reply_that_cannot_be_used_costs_that_client(name: str) -> None:
    change, why = LIES[name]
    with grids.lending(Scattered(lying(4, change), 6)):
        state, records = played({**TABLE, "threat": {}, "rounds": 1}, transport="simulation", lost="event")
    (event,) = records[0]["events"]
    assert (event["what"], event["clients"]) == ("lost", [4])
    assert why in event["detail"]
    assert state.params.isfinite().all()


@pytest.mark.parametrize("bad", [{"partition-id": 0, "num-partitions": 6}, {"partition-id": 9, "num-partitions": 6}])
def test_nodes_with_wrong_partitions_are_named(bad: dict[str, int]) -> None:
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        return Message(RecordDict({"partition": MetricRecord(dict(bad))}), reply_to=message)

    with grids.lending(InProcessGrid(app, 6)), pytest.raises(RuntimeError, match=r"partition"):
        played(TABLE, transport="simulation")


def test_of_two_nodes_with_one_partition_neither_is_believed() -> None:
    app, honest = ClientApp(), client_app(trainer)
    app.train()(honest._registered_funcs["train.default"])

    @app.query()
    def query(message: Message, context: Context) -> Message:
        mine = {0: 1}.get(int(context.node_config["partition-id"]), int(context.node_config["partition-id"]))
        record = MetricRecord({"partition-id": mine, "num-partitions": 6})
        return Message(RecordDict({"partition": record}), reply_to=message)

    with grids.lending(InProcessGrid(app, 6)):
        state, records = played({**TABLE, "threat": {}, "rounds": 1}, transport="simulation", lost="event")
    assert [(e["what"], e["clients"]) for e in records[0]["events"]] == [("lost", [0]), ("lost", [1])]
    assert state.params.isfinite().all()


def test_too_few_nodes_are_waited_for_and_named() -> None:
    with (
        grids.lending(InProcessGrid(client_app(trainer), 5)),
        pytest.raises(RuntimeError, match=r"5 of 6 nodes were there within 1 s"),
    ):
        played(TABLE, transport="simulation", patience=1.0)


def test_a_deployment_without_a_serverapp_is_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.toml").write_text('name = "tiny"\nrounds = 2\n[data]\nname = "digits"\n')
    command = ["run", str(tmp_path / "tiny.toml"), "--engine", "flower", "--out", str(tmp_path / "out")]
    assert main([*command, "--set", 'engine.transport="deployment"']) == 2
    assert "flwr run" in capsys.readouterr().err
    assert main(command) == 0


# ---- the Grid itself


def echo() -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        config = message.content.config_records["config"]
        calls = context.state.metric_records.setdefault("calls", MetricRecord({"n": 0}))
        calls["n"] = int(calls["n"]) + 1  # type: ignore[call-overload]
        if config["words"] != ["a"] or context.node_config["partition-id"] == 1:
            raise ValueError("changed by somebody else")
        config["words"].append("b")  # type: ignore[union-attr]
        content = {"config": config, "calls": calls, "run": ConfigRecord(dict(context.run_config))}
        return Message(RecordDict(content), reply_to=message)  # type: ignore[arg-type]

    return app


def test_the_grid_calls_each_client_with_its_own_records_and_context() -> None:
    grid, content = (
        InProcessGrid(echo(), 3, run_config={"lr": 0.5}),
        RecordDict({"config": ConfigRecord({"words": ["a"]})}),
    )
    for turn in (1, 2):
        replies = list(grid.send_and_receive([Message(content, node, "train") for node in grid.get_node_ids()]))
        assert [reply.metadata.src_node_id for reply in replies] == [2, 3, 4]
        assert [reply.has_error() for reply in replies] == [False, True, False]
        assert replies[2].content["config"]["words"] == ["a", "b"]
        assert replies[2].content["calls"]["n"] == turn
        assert replies[2].content["run"]["lr"] == 0.5
    assert content["config"]["words"] == ["a"]
    names = list(grid.push_messages([Message(content, 2, "train")]))
    assert len(list(grid.pull_messages(names))) == 1
    assert list(grid.pull_messages(names)) == []


def test_a_client_does_not_train_for_another() -> None:
    world, state = build(parse(TABLE))
    grid = InProcessGrid(client_app(lambda text: world.engine), 6)
    mine, other = (asking(5, state.params, Plan(0, 1, (Task(client),)), "") for client in (3, 4))
    good, refused = grid.send_and_receive([mine, other])
    assert good.has_content()
    assert "client 3 has no other client's samples" in str(refused.error.reason)


def test_lending_ends() -> None:
    grid = InProcessGrid(echo(), 1)
    with grids.lending(grid):
        assert grids.lent() is grid
    assert grids.lent() is None


SIMULATED = """
import sys
from fedpoison import run
if __name__ == "__main__":
    for transport, out in zip(("process", "simulation"), sys.argv[2:]):
        run(sys.argv[1], {"engine.name": "flower", "engine.transport": transport, "workers": 2}, out)
"""


HELD = """
import torch
from fedpoison import Drill, training_attack

@training_attack()
def held(params, state, rng):
    "Half of the parameters stay, and each round trains longer."
    turns = state.get("turns", torch.zeros(())) + 1
    return Drill(local={"epochs": int(turns)}, mask=torch.rand(len(params), generator=rng) < 0.5), {"turns": turns}
"""


def test_in_flower_s_simulation_on_ray_a_run_has_the_same_bits(tmp_path: Path) -> None:
    text = 'name = "tiny"\nrounds = 2\nseeds = [0, 1]\n[data]\nname = "digits"\n[clients]\ncount = 4\n'
    text += '[threat]\nmalicious = 1\ndata = "badnets"\ntraining = "own.py:held"\n'
    (tmp_path / "tiny.toml").write_text(text)
    (tmp_path / "own.py").write_text(HELD)
    (tmp_path / "runs.py").write_text(SIMULATED)
    (tmp_path / "with a space").symlink_to(sys.prefix)  # Ray that Flower begins finds no Python there
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [str(tmp_path / "with a space" / "bin" / "python"), "runs.py", "tiny.toml", "a", "b"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=240)
    models = [sorted((tmp_path / where).glob("tiny/*/model.safetensors")) for where in "ab"]
    assert len(models[0]) == 2
    assert [m.read_bytes() for m in models[0]] == [m.read_bytes() for m in models[1]]
    assert threading.active_count() < 50
