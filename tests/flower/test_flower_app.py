"""The app that `flwr run` starts: in process, and on a deployment with TLS and node authentication on loopback."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from loopback import HOST, deployed

from fedpoison import run
from fedpoison.engines import compat
from fedpoison.engines.in_process import InProcessGrid
from fedpoison.flower.app import client, serve

ROOT = Path(__file__).parents[2]
APP = ROOT / "experiments" / "flower_app"


def model(out: Path) -> bytes:
    (file,) = out.glob("*/*/model.safetensors")
    return file.read_bytes()


def test_the_app_has_the_bits_of_batched_and_the_same_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"experiment": "three.toml", "out": str(tmp_path / "a"), "lost": "error", "patience": 60}
    serve(InProcessGrid(client, 3), compat.context(0, {}, config), APP)
    assert f"kept in {tmp_path / 'a'}" in capsys.readouterr().out.replace("\n", "")
    run(APP / "three.toml", out=tmp_path / "b")
    assert model(tmp_path / "a") == model(tmp_path / "b")
    first, second = (sorted(p.relative_to(tmp_path / f) for p in (tmp_path / f).rglob("*.json*")) for f in "ab")
    assert [p.parts[:2] for p in first] == [p.parts[:2] for p in second]


def test_the_app_names_what_there_is() -> None:
    table = tomllib.loads((APP / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    sys.path.insert(0, str(APP))
    try:
        for reference in table["components"].values():
            module, name = reference.split(":")
            __import__(module)
            assert hasattr(sys.modules[module], name)
    finally:
        sys.path.remove(str(APP))
    assert (APP / table["config"]["experiment"]).is_file()


@pytest.mark.parametrize("name", ["experiment.toml", "three.toml", "killed.toml"])
def test_its_experiments_can_be_run(name: str, tmp_path: Path) -> None:
    run(APP / name, {"rounds": 1, "engine.name": "flower"}, out=tmp_path)


@pytest.mark.exhaustive
def test_engines_agree_says_so(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "engines-agree"), "--without"]
    command += ["ray", "flower simulated", "flower deployed"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    hashes = {line[:20].strip(): line[20:36].strip() for line in done.stdout.splitlines()[2:-1]}
    assert set(hashes) == {"sequential", "batched", "flower in process"}
    assert hashes["batched"] == hashes["flower in process"]


@pytest.mark.exhaustive
def test_a_deployment_has_the_bits_of_batched_and_refuses_strangers(tmp_path: Path) -> None:
    with deployed(tmp_path / "deployment", 3) as deployment:
        deployment.start_supernode(3, 3, register=False)
        number = deployment.submit(APP, {"experiment": "three.toml", "out": str(tmp_path / "a")})
        deployment.wait(number)
        processes = dict(deployment.processes)
        stranger = processes["supernode3"].wait(60)
        said = deployment.log("supernode3")
        addresses = {name: deployment.log(name) for name in processes}
    run(APP / "three.toml", out=tmp_path / "b")
    assert model(tmp_path / "a") == model(tmp_path / "b")
    assert stranger != 0
    assert "Receiving" not in said
    assert all(process.poll() is not None for process in processes.values())
    assert not any("0.0.0.0" in text for text in addresses.values())
    events = [json.loads(line)["events"] for file in tmp_path.glob("a/*/*/rounds.jsonl") for line in file.open()]
    assert events == [[], []]
    assert HOST == "127.0.0.1"
