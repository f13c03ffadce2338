"""Sanitizers: the first by hand, what every one owes, and what honest clients make of them in a run."""

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fedpoison.clients.cleaning import Cleaner
from fedpoison.clients.federation import Federation
from fedpoison.clients.sanitizers.knn_labels import knn_labels
from fedpoison.clients.training import Task
from fedpoison.common import parallel
from fedpoison.common.errors import AlgorithmError, ConfigError
from fedpoison.common.seeding import Stream
from fedpoison.config.config import parse
from fedpoison.contract.entry import Entry
from fedpoison.contract.lookup import entries
from fedpoison.contract.results import as_cleaned
from fedpoison.contract.vocabulary import Record
from fedpoison.contract.words import WORDS
from fedpoison.round import State, World, play
from fedpoison.runs.frame import load
from fedpoison.runs.simulation import simulate
from fedpoison.runs.world import build

ROOT = Path(__file__).parents[2]
SANITIZERS = entries("sanitizer").values()
each = pytest.mark.parametrize("entry", SANITIZERS, ids=lambda entry: entry.name)
TABLE: dict[str, Any] = {
    "name": "cleaned",
    "rounds": 4,
    "data": {"name": "digits"},
    "model": {"name": "mlp", "hidden": [24]},
    "clients": {"count": 6, "local": {"lr": 0.2, "epochs": 3}},
    "threat": {"malicious": 3, "actor": "data", "data": {"name": "label_flip", "share": 0.3}},
    "defence": {"client": {"sanitize": ["knn_labels"], "start": 2}},
}

# knn_labels

PHI = torch.tensor([0, 1, 2, 10, 11, 12, 1.4]).double().unsqueeze(1)
Y = torch.tensor([0, 0, 0, 1, 1, 1, 1])


def removed(**options: Any) -> list[int]:
    return (~knn_labels(PHI, Y, 2, **options).keep).nonzero().flatten().tolist()


def test_knn_labels_by_hand() -> None:
    assert removed(k=3) == [6]
    assert removed(k=6, spare_rare=False) == [0, 1, 2]
    assert removed(k=6) == []  # three of a class are outvoted by any three others
    assert removed(k=100) == removed(k=6)
    suspicion = knn_labels(PHI, Y, 2, k=3).suspicion
    torch.testing.assert_close(suspicion, torch.tensor([1 / 3] * 6 + [1.0]))


def test_knn_labels_by_the_definition_written_out() -> None:
    drawn = torch.Generator().manual_seed(1)
    features, labels = torch.randn(40, 3, generator=drawn).double(), torch.randint(3, (40,), generator=drawn)
    features[7] = features[3]  # a copy is a neighbour like any other
    for k in (1, 4, 9):
        got = knn_labels(features, labels, 3, k=k, spare_rare=False)
        for i in range(40):
            others = sorted(
                (j for j in range(40) if j != i), key=lambda j: (float((features[i] - features[j]).norm()), j)
            )
            votes = [0, 0, 0]
            for j in others[:k]:
                votes[int(labels[j])] += 1
            assert bool(got.keep[i]) == (votes[int(labels[i])] == max(votes)), (k, i)
            assert float(got.suspicion[i]) == pytest.approx(1 - votes[int(labels[i])] / k)


def test_knn_labels_leaves_alone_what_it_cannot_judge() -> None:
    for features in (torch.zeros(1, 2).double(), torch.full((3, 2), torch.nan).double()):
        assert knn_labels(features, torch.arange(len(features)), 3).keep.all()
    assert knn_labels(PHI, torch.zeros(7, dtype=torch.int64), 2).keep.all()


# What every sanitizer owes


def given(samples: int, classes: int, seed: int = 0) -> dict[str, Any]:
    drawn = torch.Generator().manual_seed(seed)
    images = torch.rand(samples, 1, 4, 4, generator=drawn)
    return {
        "images": images,
        "labels": torch.arange(samples) % classes,
        "n_classes": 5,
        "features": torch.randn(samples, 6, generator=drawn).double(),
        "logits": torch.randn(samples, 5, generator=drawn).double(),
        "losses": torch.rand(samples, generator=drawn).double(),
        "say": lambda text: None,
    }


@each
def test_its_evidence_and_source_are_told(entry: Entry) -> None:
    path, _, name = entry.evidence.partition("::")
    assert name in {n.name for n in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(n, ast.FunctionDef)}
    assert entry.source.split(":")[0] in ("read", "secondary")


@each
@pytest.mark.parametrize(("samples", "classes"), [(0, 1), (1, 1), (2, 2), (5, 1), (40, 4)])
def test_a_sanitizer_changes_nothing_and_says_the_same_twice(entry: Entry, samples: int, classes: int) -> None:
    told = []
    for _ in range(2):
        supply = {**given(samples, classes), "rng": Stream(1, "cleaning").torch()}
        before = {name: value.clone() for name, value in supply.items() if isinstance(value, Tensor)}
        keep, suspicion = as_cleaned(entry, entry.call(supply, entry.validate({})), samples)
        assert all(torch.equal(supply[name], value) for name, value in before.items())
        told.append((keep.tolist(), suspicion.tolist()))
    assert told[0] == told[1]


@pytest.mark.parametrize("entry", [e for e in SANITIZERS if "features" in e.asks], ids=lambda entry: entry.name)
@pytest.mark.parametrize("value", [0.0, 3.5, torch.nan, torch.inf])
def test_a_sanitizer_keeps_all_whose_features_say_nothing(entry: Entry, value: float) -> None:
    supply = {**given(40, 2), "features": torch.full((40, 6), value).double(), "rng": Stream(1, "cleaning").torch()}
    keep, _ = as_cleaned(entry, entry.call(supply, entry.validate({})), 40)
    assert keep.all()


@pytest.mark.parametrize("entry", [e for e in SANITIZERS if "rng" not in e.asks], ids=lambda entry: entry.name)
def test_a_sanitizer_judges_samples_whatever_their_order(entry: Entry) -> None:
    supply = given(40, 2)
    supply["features"][3] = 20
    turned = {name: value.flip(0) if isinstance(value, Tensor) else value for name, value in supply.items()}
    keep, suspicion = as_cleaned(entry, entry.call(supply, entry.validate({})), 40)
    other = as_cleaned(entry, entry.call(turned, entry.validate({})), 40)
    assert torch.equal(other[0].flip(0), keep)
    torch.testing.assert_close(other[1].flip(0), suspicion)


def test_the_truth_is_no_word_of_a_sanitizer() -> None:
    assert not {"poisoned", "changed", "clean", "malicious"} & WORDS["sanitizer"].keys()


# In a run


def played(table: dict[str, Any], folder: Path | None = None) -> tuple[World, State, list[Record]]:
    config, records = parse(table, folder), []
    with parallel.using(2):
        world, state = build(config)
        while state.round < config.rounds:
            state, record = play(state, world)
            records.append(record)
    return world, state, records


def cleaner(world: World) -> Cleaner:
    assert world.cleaner is not None
    return world.cleaner


def test_honest_clients_find_an_outsiders_flips_and_the_record_says_how_well() -> None:
    _, _, records = played(TABLE)
    assert records[0]["sanitised"] is None  # it starts in round 2
    for record in records[1:]:
        measured = record["sanitised"]
        assert measured["precision"] > 0.4
        assert measured["recall"] > 0.5
        assert measured["clean_lost"] < 0.25
        assert measured == records[1]["sanitised"]  # once is for good


def test_the_figures_are_those_of_what_was_kept_and_what_was_changed() -> None:
    world, state, _ = played(TABLE)
    federation: Federation = world.federation
    out = poisoned = both = clean = 0
    for client in range(6):
        bad = client in world.threats[0].fixed_ids
        keep = state.memory_of("cleaning")[f"{client}{'p' if bad else 'c'}/keep"]
        shard = federation.shard(client, bad)
        labels = federation.dataset.train_labels[federation._indices[client]]
        changed = shard.labels[shard.index] != labels
        out, poisoned = out + int((~keep).sum()), poisoned + int(changed.sum())
        both, clean = both + int((~keep & changed).sum()), clean + int((~changed).sum())
    record = played(TABLE)[2][-1]["sanitised"]
    assert record == {
        "removed": out,
        "precision": both / out,
        "recall": both / poisoned,
        "clean_lost": (out - both) / clean,
    }
    assert poisoned > 50


def test_a_malicious_client_cleans_nothing_but_where_it_behaves() -> None:
    threat = {"malicious": 3, "data": {"name": "label_flip", "share": 0.3}}
    world, state, _ = played({**TABLE, "threat": threat})
    bad = world.threats[0].fixed_ids
    honest = {f"{client}c" for client in range(6) if client not in bad}
    assert {name.split("/")[0] for name in state.memory_of("cleaning")} == honest
    colluding = {**threat, "update": {"name": "ipm"}, "knows": "colluders"}  # they train twins that behave
    _, state, _ = played({**TABLE, "threat": colluding})
    assert {name.split("/")[0] for name in state.memory_of("cleaning")} == {f"{client}c" for client in range(6)}


def test_they_train_on_what_they_keep_alone() -> None:
    world, state, _ = played({**TABLE, "rounds": 2})
    tasks = tuple(Task(i, i in world.threats[0].fixed_ids) for i in range(6))
    cleaned = cleaner(world)(tasks, state.params, 3, state.memory_of("cleaning")).tasks
    for task in cleaned:
        assert task.kept is not None
        whole, kept = world.federation.shard(task.client, task.poisoned), task.shard(world.federation)
        assert torch.equal(kept.index, whole.index[task.kept])
        assert len(kept) < len(whole)


def test_cleaning_is_done_anew_when_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[int, int]] = []
    plain = Cleaner._cleaned

    def noted(self: Cleaner, task: Task, params: Tensor, round: int) -> Any:
        done.append((round, task.client))
        return plain(self, task, params, round)

    monkeypatch.setattr(Cleaner, "_cleaned", noted)
    table = {**TABLE, "rounds": 6, "threat": {"malicious": 0}, "clients": {"count": 3}}
    for client, rounds in (({"start": 2}, [2]), ({"start": 2, "every": 3}, [2, 5]), ({"every": 1}, [*range(1, 7)])):
        done.clear()
        played({**table, "defence": {"client": {"sanitize": "knn_labels", **client}}})
        assert sorted(done) == [(number, i) for number in rounds for i in range(3)]


def test_samples_that_an_outsider_changes_later_are_cleaned_by_themselves() -> None:
    threat = {**TABLE["threat"], "schedule": {"start": 3}}
    world, state, records = played({**TABLE, "threat": threat})
    names = {name.split("/")[0] for name in state.memory_of("cleaning")}
    assert names == {f"{i}c" for i in range(6)} | {f"{i}p" for i in world.threats[0].fixed_ids}
    assert records[1]["sanitised"]["recall"] is None
    assert records[2]["sanitised"]["recall"] > 0.5


OWN = """
import torch
from fedpoison import Cleaned, sanitizer

@sanitizer()
def nothing(images, labels, say, logits, rng, *, last: bool = False):
    "Keep nothing."
    say(f"{len(labels)} samples")
    suspicion = torch.rand(len(labels), generator=rng)
    return Cleaned(torch.zeros(len(labels), dtype=torch.bool), suspicion)

@sanitizer()
def half(labels):
    "Keep every other."
    return Cleaned(torch.arange(len(labels)) % 2 == 0, torch.zeros(len(labels)))

@sanitizer()
def wrong(labels):
    "Not a Cleaned."
    return labels == 0

@sanitizer()
def short(labels):
    "Too few."
    return Cleaned(labels[1:] == 0, torch.zeros(len(labels) - 1))
"""


def test_of_a_class_of_which_nothing_is_left_the_least_suspect_is_kept(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    table = {**TABLE, "rounds": 1, "threat": {"malicious": 0}, "clients": {"count": 3}}
    table["defence"] = {"client": {"sanitize": ["own.py:half", "own.py:nothing"]}}
    world, state, records = played(table, tmp_path)
    spared = [e for e in records[0]["events"] if e["what"] == "spared"]
    for client in range(3):
        shard = world.federation.shard(client)
        keep = state.memory_of("cleaning")[f"{client}c/keep"]
        labels = shard.labels[shard.index]
        assert sorted(labels[keep].tolist()) == sorted({*labels.tolist()})
        drawn = Stream(world.seed, "cleaning", 1, 2 * client + 1).torch()
        suspicion = torch.full((len(shard),), torch.inf)  # what the first took out is no candidate
        suspicion[::2] = torch.rand(len(suspicion[::2]), generator=drawn)
        for label in {*labels.tolist()}:
            own = (labels == label).nonzero().flatten()
            assert bool(keep[own[suspicion[own].argmin()]])
        assert sum(e["clients"] == [client] for e in spared) == len({*labels.tolist()})
    said = [e["detail"] for e in records[0]["events"] if e["what"] == "sanitizer"]
    assert said == [f"nothing: {len(world.federation.shard(i).index[::2])} samples" for i in range(3)]


def test_a_later_sanitizer_sees_what_an_earlier_one_kept(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    table = {**TABLE, "rounds": 1, "threat": {"malicious": 0}, "clients": {"count": 2}}
    table["defence"] = {"client": {"sanitize": ["own.py:half", "own.py:half"]}}
    world, state, records = played(table, tmp_path)
    assert not [e for e in records[0]["events"] if e["what"] == "spared"]
    for client in range(2):
        keep = state.memory_of("cleaning")[f"{client}c/keep"].nonzero().flatten()
        assert keep.tolist() == list(range(0, len(world.federation.shard(client)), 4))


def test_all_sanitizers_one_after_the_other_and_after_one_that_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    table = {**TABLE, "rounds": 1, "threat": {"malicious": 0}, "clients": {"count": 6, "per_round": 1}}
    names = [entry.name for entry in SANITIZERS]
    for before, least in ([], 60), (["own.py:nothing"], 10):
        world, state, records = played({**table, "defence": {"client": {"sanitize": [*before, *names]}}}, tmp_path)
        (client,) = records[0]["cohort"]
        kept = int(state.memory_of("cleaning")[f"{client}c/keep"].sum())
        assert records[0]["sanitised"]["removed"] == len(world.federation.shard(client)) - kept
        assert kept > least if least > 10 else kept == 10  # one of each class


def test_what_a_sanitizer_lacks_is_said_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("fedpoison.clients.sanitizers.confident_learning.find_spec", asked.append)
    config = parse({**TABLE, "defence": {"client": {"sanitize": "confident_learning"}}})
    with pytest.raises(ValueError, match=r"cleanlab's, which is not installed: pip install 'fedpoison\[layers\]'"):
        build(config)
    assert asked == ["cleanlab"]


@pytest.mark.parametrize(
    ("name", "says"), [("wrong", "must return Cleaned, not Tensor"), ("short", r"must say of \d+ samples")]
)
def test_what_is_no_cleaning_ends_the_run_with_a_sentence(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "own.py").write_text(OWN)
    with pytest.raises(AlgorithmError, match=says):
        played({**TABLE, "defence": {"client": {"sanitize": f"own.py:{name}"}}}, tmp_path)


def test_every_engine_gives_the_same_bits_and_so_does_a_cut_run(tmp_path: Path) -> None:
    table = {**TABLE, "defence": {"client": {"sanitize": ["knn_labels"], "start": 1, "every": 2}}}
    _, whole, records = played(table)
    _, other, others = played({**table, "engine": "flower"})
    assert torch.equal(whole.params, other.params)
    assert [r["sanitised"] for r in records] == [r["sanitised"] for r in others]
    _, other, _ = played({**table, "engine": "sequential"})
    torch.testing.assert_close(whole.params, other.params, rtol=1e-3, atol=1e-4)

    def cut(record: Record) -> None:
        if record["round"] in (1, 2):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            simulate(parse(table), tmp_path, cut)
    folder = simulate(parse(table), tmp_path)
    assert torch.equal(load_file(folder.model)["params"], whole.params)
    frame = load(tmp_path / "cleaned").frame()
    assert frame["sanitised_recall"].to_list() == [r["sanitised"]["recall"] for r in records]
    assert frame["sanitised_removed"].to_list() == [r["sanitised"]["removed"] for r in records]


def test_cleaning_stands_in_the_configuration_and_is_no_part_of_the_hash_where_there_is_none() -> None:
    config = parse(TABLE)
    assert "defence.client.sanitize.0" in config.components
    assert parse(config.table()).hash == config.hash
    without = parse({**TABLE, "defence": {}})
    assert without.hash == parse({**TABLE, "defence": {"client": {"start": 4}}}).hash == "30c64eb14c81"
    assert (
        len({without.hash, config.hash, parse({**TABLE, "defence": {"client": {"sanitize": "knn_labels"}}}).hash}) == 3
    )
    with pytest.raises(ConfigError, match="there is no sanitizer 'knn_label'"):
        parse({**TABLE, "defence": {"client": {"sanitize": "knn_label"}}})
    linear = parse({**TABLE, "model": {"name": "logistic"}})
    with pytest.raises(ValueError, match="knn_labels looks at what a net's last layer sees, and this one has no layer"):
        build(linear)
