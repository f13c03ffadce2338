"""The Ray engine: the bits of `batched`, whatever dies on the way; runs as tasks of a cluster."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fedpoison.cli import main
from fedpoison.common import parallel
from fedpoison.config.config import parse
from fedpoison.contract.vocabulary import Record
from fedpoison.engines import cluster
from fedpoison.engines import ray as ray_engine
from fedpoison.engines.cluster import connected
from fedpoison.round import State, play
from fedpoison.runs.world import build

TABLE = {
    "name": "tiny",
    "rounds": 3,
    "data": {"name": "digits"},
    "clients": {"count": 9, "local": {"batch_size": 16, "epochs": 1}},
    "threat": {"malicious": 2, "data": {"name": "badnets"}, "training": {"name": "neurotoxin", "epochs": 2}},
}

OWN = """
import torch
from torch import nn
from fedpoison import Drill, data_attack, training_attack

class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.only = nn.Linear(64, 10)

    def forward(self, images):
        return self.only(images.flatten(1)) * 2

def net(input_shape, n_classes):
    return Odd()

def nothing(images, labels, n_classes):
    return images, torch.full_like(labels, -1)

@data_attack(aim=nothing, goal="availability")
def shifted(images, labels):
    "Every label is the next one."
    return images, (labels + 1) % 10

@training_attack()
def held(params, rng):
    "Half of the parameters stay."
    return Drill(mask=torch.rand(len(params), generator=rng) < 0.5, radius=0.5)
"""


def played(engine: str, table: dict[str, object] = TABLE, folder: Path | None = None) -> tuple[State, list[Record]]:
    config = parse({**table, "engine": {"name": engine}}, folder)
    records = []
    with parallel.using(2):
        world, state = build(config)
        while state.round < config.rounds:
            state, record = play(state, world)
            records.append(record)
    return state, records


def test_a_run_has_the_bits_of_batched() -> None:
    one, other = played("batched"), played("ray")
    assert torch.equal(one[0].params, other[0].params)
    assert [r["accuracy"] for r in one[1]] == [r["accuracy"] for r in other[1]]


def test_what_a_users_file_defines_travels(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    table = {
        **TABLE,
        "rounds": 1,
        "model": {"name": "own.py:net"},
        "threat": {"malicious": 2, "data": {"name": "own.py:shifted"}, "training": {"name": "own.py:held"}},
    }
    one, other = played("batched", table, tmp_path), played("ray", table, tmp_path)
    assert torch.equal(one[0].params, other[0].params)
    assert other[1][0]["events"][0]["what"] == "engine"  # it cannot be stacked, and says so once
    assert len(other[1][0]["events"]) == 1


def test_a_killed_worker_changes_nothing() -> None:
    played("ray")  # the workers are up
    ray = connected(None)
    config = parse(
        {**TABLE, "clients": {"count": 9, "local": {"batch_size": 2, "epochs": 10}}, "engine": {"name": "ray"}}
    )
    plain = parse({**TABLE, "clients": config.table()["clients"]})
    with parallel.using(2):
        world, state = build(plain)
        expected = play(state, world)[0].params
        world, state = build(config)
        pool = ray_engine._pool(None)
        pid = ray.get(pool.idle[0].pid.remote())

        def kill_at_work() -> None:
            while pool.idle:  # until all have their share
                time.sleep(0.005)
            os.kill(pid, signal.SIGKILL)

        killer = threading.Thread(target=kill_at_work)
        killer.start()
        after, record = play(state, world)
        killer.join()
        again, _ = play(state, world)
    assert torch.equal(after.params, expected)
    assert torch.equal(again.params, expected)
    assert [e["detail"] for e in record["events"]] == ["a Ray worker died; its clients were trained again"]


def test_what_is_started_here_listens_on_loopback_and_asks_for_a_token() -> None:
    from ray._private.services import get_node_ip_address
    from ray._raylet import AuthenticationMode, get_authentication_mode

    ray = connected(None)
    assert get_node_ip_address() == "127.0.0.1"
    assert ray.get_runtime_context().gcs_address.startswith("127.0.0.1:")
    assert get_authentication_mode() == AuthenticationMode.TOKEN
    assert {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} <= os.environ.keys()  # Ray may look there again at any time


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({}, {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"}),
        ({"RAY_AUTH_TOKEN_PATH": "/there"}, {"RAY_AUTH_MODE"}),
        ({"RAY_AUTH_MODE": "disabled"}, set()),
    ],
)
def test_a_token_is_made_unless_the_environment_says_otherwise(
    given: dict[str, str], made: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    tokens = [cluster._closing() for _ in range(2)]
    assert set(tokens[0]) == made
    if "RAY_AUTH_TOKEN" in made:
        assert tokens[0] != tokens[1]
        assert len(tokens[0]["RAY_AUTH_TOKEN"]) == 64


STRANGER = """
import os, sys
for name in [name for name in os.environ if name.startswith("RAY_")]:
    del os.environ[name]
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # it looks on loopback too
if len(sys.argv) > 2:
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": sys.argv[2]}
import ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print("worked as", ray.get(ray.remote(os.getpid).remote()))
"""


@pytest.mark.exhaustive
def test_a_process_without_the_token_is_refused() -> None:
    address = connected(None).get_runtime_context().gcs_address
    with cluster._set(cluster._closing()):
        stolen = os.environ["RAY_AUTH_TOKEN"]
    for token in ([], [stolen]):  # none, and one of another cluster
        command = [sys.executable, "-c", STRANGER, address, *token]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode
        assert "worked as" not in done.stdout
        assert "Failed to connect to Ray cluster" in done.stderr
    psutil = pytest.importorskip("psutil")
    ours = {child.pid for child in psutil.Process().children(recursive=True)} | {os.getpid()}
    listens = [c.laddr.ip for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.pid in ours]
    assert len(listens) > 3
    assert {ip.removeprefix("::ffff:") for ip in listens} == {"127.0.0.1"}


def test_samples_travel_without_being_copied() -> None:
    from ray import cloudpickle

    world, _ = build(parse(TABLE))
    buffers: list[object] = []
    text = cloudpickle.dumps(world.federation.dataset, protocol=5, buffer_callback=buffers.append)
    assert len(text) < 5_000 < world.federation.dataset.train_images.nbytes


def test_no_cluster_at_an_address(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(tmp_path / "x.toml"), "--ray-address", "127.0.0.1:1"]) == 2
    assert "--ray-address goes with" in capsys.readouterr().err


class Barren:
    """A ray whose workers never start."""

    def __init__(self, logs: Path) -> None:
        self.up, self._logs = False, logs

    def is_initialized(self) -> bool:
        return self.up

    def init(self, **options: Any) -> SimpleNamespace:
        self.up, self.path = True, os.environ["PYTHONPATH"]
        return SimpleNamespace(address_info={"session_dir": str(self._logs)})

    def remote(self, **options: Any) -> Callable[[Any], SimpleNamespace]:
        return lambda function: SimpleNamespace(remote=lambda: None)

    def wait(self, futures: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return [], futures

    def shutdown(self) -> None:
        self.up = False


def test_workers_that_do_not_start_are_not_waited_for_without_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    barren = Barren(tmp_path)
    monkeypatch.setattr(cluster, "imported", lambda: barren)
    before = os.environ.get("PYTHONPATH")
    for start in (lambda: cluster.connected(None), lambda: cluster.ClusterPool(None)):
        with pytest.raises(
            RuntimeError, match=rf"no worker of Ray started within 120 s; why is said in {tmp_path}/logs"
        ):
            start()
        assert not barren.up  # nothing is left that would keep the process
    assert barren.path == os.pathsep.join(sys.path)
    assert os.environ.get("PYTHONPATH") == before


def test_runs_as_tasks_of_a_cluster(tmp_path: Path) -> None:
    text = 'name = "tiny"\nrounds = 2\nseeds = [0, 1]\n[data]\nname = "digits"\n[clients]\ncount = 4\n'
    (tmp_path / "tiny.toml").write_text(text)
    for where, more in (("a", ["--jobs", "ray"]), ("b", [])):
        assert main(["run", str(tmp_path / "tiny.toml"), "--out", str(tmp_path / where), *more]) == 0
    models = [sorted((tmp_path / where).glob("tiny/*/model.safetensors")) for where in "ab"]
    assert len(models[0]) == 2
    assert [m.read_bytes() for m in models[0]] == [m.read_bytes() for m in models[1]]
