"""What a user's code is made of, that what runs is what was hashed, and what it draws from global generators."""

import hashlib
import json
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedpoison.common import parallel
from fedpoison.common.seeding import Stream, drawing_from, drawn
from fedpoison.config.config import parse
from fedpoison.contract import usercode
from fedpoison.contract.lookup import find
from fedpoison.defences.situation import Situation
from fedpoison.linalg.blocks import GROUP
from fedpoison.runs.running import _elsewhere
from fedpoison.runs.simulation import EDITED, simulate
from fedpoison.runs.world import build, trainer

RULE = """
from fedpoison import aggregator
from fedpoison.types import Update, Updates
{imports}

@aggregator()
def mine(updates: Updates, f: int) -> Update:
    \"\"\"The update of one client.\"\"\"
    return updates[{row}].clone()
"""
TABLE: dict[str, Any] = {
    "name": "t",
    "rounds": 1,
    "data": "digits",
    "model": {"name": "mlp", "hidden": [2]},
    "clients": {"count": 4, "local": {"steps": 1}},
}
ROWS = torch.arange(4.0).repeat(2, 1).T.contiguous()


def rule(folder: Path, imports: str = "from helper import ROW", row: str = "ROW") -> str:
    """Write a rule that returns one row; its file."""
    folder.mkdir(exist_ok=True)
    (folder / "mine.py").write_text(RULE.format(imports=imports, row=row))
    return f"{folder / 'mine.py'}:mine"


def chosen(name: str) -> float:
    """The row that the rule of that name returns."""
    return float(find("aggregator", name).function(ROWS, 0)[0])


def digest(name: str) -> str | None:
    return find("aggregator", name).file_hash


# ---- the bytes that were hashed


def test_an_edited_file_of_the_same_length_and_time_is_what_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    for row in (0, 1, 0, 2):
        name = rule(tmp_path, "import helper", "helper.ROW")
        (tmp_path / "helper.py").write_text(f"ROW = {row}")
        for file in ("mine.py", "helper.py"):
            os.utime(tmp_path / file, (1_700_000_000, 1_700_000_000))
        assert chosen(name) == row
    assert not (tmp_path / "__pycache__").exists()


# ---- what it imports of its own


def test_a_file_without_modules_of_its_own_has_the_digest_of_its_content(tmp_path: Path) -> None:
    name = rule(tmp_path, "import copy, numpy", "0")
    assert digest(name) == hashlib.sha256((tmp_path / "mine.py").read_bytes()).hexdigest()[:16]
    (tmp_path / "copy.py").write_text("1 / 0")  # the standard library's is meant
    assert chosen(name) == 0


IMPORTS = {
    "from": ("from helper import ROW", "ROW"),
    "as": ("import helper as h", "h.ROW"),
    "relative": ("from .helper import ROW", "ROW"),
    "of a package": ("from lab.helper import ROW", "ROW"),
    "a package's part": ("from lab import helper", "helper.ROW"),
    "dotted": ("import lab.helper", "lab.helper.ROW"),
    "dotted as": ("import lab.helper as h", "h.ROW"),
    "by way of another": ("from lab.deeper.way import ROW", "ROW"),
    "in the function": ("import lab", "lab.row()"),
}


@pytest.mark.parametrize("way", IMPORTS)
def test_its_own_modules_count_and_are_seen_when_they_are_edited(tmp_path: Path, way: str) -> None:
    (tmp_path / "lab" / "deeper").mkdir(parents=True)
    (tmp_path / "lab" / "__init__.py").write_text("def row():\n    from .helper import ROW\n    return ROW\n")
    (tmp_path / "lab" / "deeper" / "way.py").write_text("from ..helper import ROW")  # its folder has no __init__
    name, digests = rule(tmp_path, *IMPORTS[way]), set()
    for row in (1, 2):
        for file in ("helper.py", "lab/helper.py"):
            (tmp_path / file).write_text(f"ROW = {row}")
        assert chosen(name) == row
        digests.add(digest(name))
    assert len(digests) == 2
    assert find("aggregator", name).function is find("aggregator", name).function
    assert "helper" not in sys.modules
    assert "lab" not in sys.modules


def test_neighbours_of_one_name_in_two_folders_are_not_mixed_up(tmp_path: Path) -> None:
    names = [rule(tmp_path / place) for place in ("a", "b")]
    for row, place in enumerate(("a", "b"), 1):
        (tmp_path / place / "helper.py").write_text(f"ROW = {row}")
    assert [chosen(name) for name in names] == [1, 2]
    assert digest(names[0]) != digest(names[1])
    (tmp_path / "a" / "helper.py").write_text("ROW = 2")
    assert digest(names[0]) == digest(names[1])  # it does not matter where they lie


def test_of_an_imported_package_all_that_is_ones_own_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    rule(tmp_path / "some_lab", "from some_lab.helper import ROW")
    (tmp_path / "some_lab" / "__init__.py").write_text("")
    digests = set()
    for row in (1, 2):
        (tmp_path / "some_lab" / "helper.py").write_text(f"ROW = {row}")
        assert chosen("some_lab.mine:mine") == row
        digests.add(digest("some_lab.mine:mine"))
    assert len(digests) == 2


def test_what_is_installed_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "site-packages"
    installed.mkdir()
    (installed / "some_package.py").write_text("ROW = 1")
    monkeypatch.syspath_prepend(str(installed))
    name = rule(tmp_path, "from some_package import ROW")
    before = digest(name)
    (installed / "some_package.py").write_text("ROW = 22")
    assert digest(name) == before
    assert chosen(name) == 1
    (tmp_path / "some_package.py").write_text("ROW = 3")  # a neighbour is meant before it
    assert chosen(name) == 3
    assert digest(name) != before


def test_its_modules_are_imported_in_another_process_from_the_bytes_that_were_loaded(tmp_path: Path) -> None:
    name = rule(tmp_path)
    (tmp_path / "helper.py").write_text("ROW = 1")
    function = find("aggregator", name).function
    (code,) = usercode.of([function])
    (tmp_path / "helper.py").write_text("ROW = 2")
    sent = pickle.loads(pickle.dumps(code))
    assert sent.modules == code.modules
    for module in [m for m in sys.modules if m.partition(".")[0] == code.name]:
        del sys.modules[module]  # as there
    assert float(pickle.loads(pickle.dumps(code.module.mine))(ROWS, 0)[0]) == 1
    assert chosen(name) == 2


def test_what_no_import_statement_named_is_told_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text("ROW = 1")
    name = rule(tmp_path, "import importlib", "importlib.import_module('.late', __package__).ROW")
    config = parse({**TABLE, "rounds": 2, "defence": {"aggregator": name}})
    for out in ("first", "again"):  # by then it is loaded
        first, last = (record["events"] for record in simulate(config, tmp_path / out).records())
        assert first == []
        assert [event["what"] for event in last] == ["uncounted"]
        assert str(tmp_path / "late.py") in last[0]["detail"]


# ---- edited meanwhile


def test_a_run_whose_files_were_edited_since_it_was_hashed_is_not_made(tmp_path: Path) -> None:
    name = rule(tmp_path, "", "0")
    config = parse({**TABLE, "defence": {"aggregator": name}})
    before = config.hash
    rule(tmp_path, "", "1")
    assert _elsewhere(config.table(), before, tmp_path, tmp_path / "out") == EDITED
    assert not (tmp_path / "out").exists()


def test_an_edited_table_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "own.csv"
    table = {**TABLE, "data": {"name": "csv", "file": str(file)}, "clients": {"count": 2}}
    seen = []
    for first in (1, 2):
        file.write_text("a,label\n" + "".join(f"{first * i},{'xy'[i % 2]}\n" for i in range(20 * first)))
        seen.append(len(build(parse(table))[0].federation.dataset.train_labels))
    assert seen[0] < seen[1]


def test_a_node_with_other_files_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    table = {**TABLE, "model": f"{tmp_path / 'net.py'}:net", "engine": {"name": "flower"}}
    world, _ = build(parse(table))
    text = world.engine._recipe.text  # type: ignore[attr-defined]
    (tmp_path / "net.py").write_text(NET.replace("64", "8 * 8"))
    with pytest.raises(ValueError, match="here the user's files are"):
        trainer(text)


NET = """
import torch

def net(input_shape, n_classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, n_classes))
"""

# ---- what is drawn from global generators

DRAWS = """
import random
import numpy as np
import torch
from fedpoison import *
from fedpoison.data import Dataset
from fedpoison.types import *

AT_IMPORT = float(torch.rand(())) + random.random() + np.random.rand()

def number():
    return AT_IMPORT + float(torch.rand(())) + random.random() + np.random.rand()

@dataset(licence="mine")
def data() -> Dataset:
    "Random samples."
    images = torch.rand(40, 3) + number()
    labels = torch.arange(40) % 2
    return Dataset(images, labels, images[:10], labels[:10], n_classes=2)

@partition()
def split(labels, n_clients, rng):
    "Random shards."
    return np.array_split(np.random.permutation(len(labels)), n_clients)

@data_attack(aim=lambda images, labels, n_classes: (images + number(), 0 * labels), goal="backdoor")
def poison(images, labels):
    "Add something."
    return images + number(), labels

@update_attack()
def push(own):
    "Add something."
    return own + number()

@preaggregator()
def mix(n) -> Mixing:
    "A random mixture."
    rows = torch.tensor([[random.random() for _ in range(n)] for _ in range(n)])
    return rows / rows.sum(dim=1, keepdim=True)

@aggregator()
def whole(updates: Updates) -> Update:
    "Add something."
    return updates.mean(dim=0) + number()

@aggregator(coordinatewise=True)
def blocks(updates: Updates) -> Update:
    "Add something to each column."
    return updates.mean(dim=0) + torch.rand(updates.shape[1]) + number()

class Net(torch.nn.Sequential):
    def __init__(self, input_shape, n_classes):
        super().__init__(torch.nn.Linear(3, n_classes))
        self[0].bias.data += number()

@model()
def noisy(input_shape, n_classes):
    "A net that draws."
    class Noise(torch.nn.Module):
        def forward(self, x):
            return x * np.random.rand()
    return torch.nn.Sequential(torch.nn.Linear(3, n_classes), Noise())

@model()
def evaluated(input_shape, n_classes):
    "A net that draws when it is evaluated."
    class Noise(torch.nn.Module):
        def forward(self, x):
            return x if self.training else x * torch.rand(())
    return torch.nn.Sequential(torch.nn.Linear(3, n_classes), Noise())
"""


@pytest.fixture
def drawing(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Tables whose parts all draw from the global generators."""
    file = tmp_path / "draws.py"
    file.write_text(DRAWS)

    def made(rule: str = "whole", **changes: Any) -> dict[str, Any]:
        return {
            **TABLE,
            "rounds": 2,
            "data": {"name": f"{file}:data", "partition": f"{file}:split"},
            "model": f"{file}:Net",
            "threat": {"malicious": 2, "data": f"{file}:poison", "update": f"{file}:push"},
            "defence": {"pre": [f"{file}:mix"] if rule == "whole" else [], "aggregator": f"{file}:{rule}", "f": 1},
            **changes,
        }

    return made


PLAYED = """
import json, sys
import numpy as np, torch
from pathlib import Path
from fedpoison.common import parallel
from fedpoison.config.config import parse
from fedpoison.round import play
from fedpoison.runs.world import build

def outcome(table, seed, workers):
    torch.manual_seed(seed)
    np.random.seed(seed)
    before = torch.get_rng_state()
    with parallel.using(workers):
        world, state = build(parse(table))
        records = []
        while state.round < world.rounds:
            state, record = play(state, world)
            records.append((record["accuracy"], record["asr"]))
    assert torch.equal(before, torch.get_rng_state())
    return state.params.tolist(), records

table, file = json.loads(sys.argv[1]), Path(sys.argv[2])
first = outcome(table, 1, 1)
file.write_text(file.read_text() + "\\n")  # loaded anew
assert outcome(table, 2, 3) == first
assert outcome({**table, "engine": "flower"}, 3, 2) == first
assert outcome({**table, "seed": 1}, 1, 1) != first
"""


@pytest.mark.parametrize("rule", ["blocks", pytest.param("whole", marks=pytest.mark.exhaustive)])
def test_what_draws_from_global_generators_has_the_same_bits_each_time(
    drawing: Callable[..., dict[str, Any]], tmp_path: Path, rule: str
) -> None:
    """In a process of its own: the checks of types here draw from Python's generator, in all threads."""
    code = [sys.executable, "-c", PLAYED, json.dumps(drawing(rule)), str(tmp_path / "draws.py")]
    done = subprocess.run(code, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_coordinate_wise_rule_draws_alike_for_any_number_of_workers(drawing: Callable[..., dict[str, Any]]) -> None:
    step = parse(drawing("blocks")).defence.chain
    updates = torch.zeros(3, 2 * GROUP + 1000)
    made = []
    for workers in (1, 3):
        nothing = torch.zeros(2 * GROUP + 1000)
        stream, sizes = Stream(0, "defence", 1), torch.ones(3, dtype=torch.float64)
        situation = Situation(
            f=0, client_ids=torch.arange(3), sizes=sizes, params=nothing, previous=nothing, stream=stream, state={}
        )
        with parallel.using(workers), step.drawing(stream):
            made.append(step(updates, situation).update)
    assert torch.equal(*made)


@pytest.mark.parametrize(
    ("net", "message"), [("noisy", "draws random numbers in training"), ("evaluated", "evaluated")]
)
def test_a_net_that_draws_in_use_is_refused(drawing: Callable[..., dict[str, Any]], net: str, message: str) -> None:
    table = drawing()
    table["model"] = table["model"].replace("Net", net)
    with pytest.raises(ValueError, match=message):
        build(parse(table))


def test_the_global_generators_begin_at_a_stream_and_are_left_as_they_were() -> None:
    def draws() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002

    before = drawn()["torch's"], drawn()["NumPy's"]
    with drawing_from(Stream(1, "data")):
        first = draws()
    assert (drawn()["torch's"], drawn()["NumPy's"]) == before
    draws()
    with drawing_from(Stream(1, "data")):
        assert draws() == first
    with drawing_from(Stream(2, "data")):
        assert not set(draws()) & set(first)
    with pytest.raises(ZeroDivisionError), drawing_from(Stream(1, "data")):
        raise ZeroDivisionError
    assert len(set(first)) == 3
