"""What every registered attack is held to; a new one is found here by its registration."""

import ast
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fedpoison
from fedpoison import dataset, model
from fedpoison.common import parallel
from fedpoison.common.seeding import Stream
from fedpoison.config.config import parse
from fedpoison.contract.entry import Entry, goal_of
from fedpoison.contract.lookup import entries
from fedpoison.contract.vocabulary import GOALS, SAMPLES, Record
from fedpoison.data import Dataset
from fedpoison.round import play
from fedpoison.runs.world import build
from fedpoison.types import Verdict

ROOT = Path(__file__).parents[2]
UPDATE_ATTACKS, DATA_ATTACKS = entries("update_attack").values(), entries("data_attack").values()
TRAINING_ATTACKS = entries("training_attack").values()
N, D = 50, 40


@pytest.fixture(autouse=True)
def _two_workers() -> Iterator[None]:
    """As in a run: two threads inside one small torch operation would only wait for each other."""
    with parallel.using(2):
        yield


ON_8_BY_8: dict[str, dict[str, Any]] = {
    "adversarial_poisoning": {"epsilon": 0.5},  # the paper's 8/255 is for large nets, all of whose data it poisons
    "dba": {"size": 3, "gap": 1},  # the paper's trigger is ten pixels wide
    "hidden_trigger": {"source": 1, "target": 4, "epsilon": 0.3, "lr": 0.1},  # a linear net's features are the pixels
    "noisy_samples": {"amplitude": 20.0},  # pixels are black or white then: nothing is left of a sample
    "sig": {"share": 1.0, "delta": 0.4},  # the paper's faint sinusoid is nothing to a linear net in five rounds
    "wanet": {"share": 0.3},  # the paper draws a tenth anew at each step
}
"""Options for what an attack's defaults, its paper's, cannot do to 8 x 8 pixels and a linear net."""
ATTACKERS = {"noisy_samples": 8}
"""Of ten, how many it takes, if not five: noise teaches nothing, and what the honest clients teach is hardly undone."""


def options(attack: Entry) -> dict[str, Any]:
    return attack.validate(ON_8_BY_8.get(attack.name, {}))


each_update_attack = pytest.mark.parametrize("attack", UPDATE_ATTACKS, ids=lambda entry: entry.name)
ON_DATA = [
    pytest.param(entry, kind, id=f"{entry.name}-{kind}")
    for entry in DATA_ATTACKS
    for kind in SAMPLES
    if kind in entry.samples
]
each_data_attack = pytest.mark.parametrize(("attack", "kind"), ON_DATA)
each_broad_data_attack = pytest.mark.parametrize(
    ("attack", "kind"),
    [p for p in ON_DATA if p.values[0].goal != "targeted"],  # one sample is taken or not: tests of their own, on many
)
each_attack = pytest.mark.parametrize(
    "attack", [*UPDATE_ATTACKS, *DATA_ATTACKS, *TRAINING_ATTACKS], ids=lambda entry: f"{entry.kind}-{entry.name}"
)


def randn(rows: int, seed: int, dtype: torch.dtype) -> Tensor:
    drawn = torch.randn(rows, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (drawn + 1).to(dtype)


def mean(updates: Tensor) -> Verdict:
    return fedpoison.aggregate("mean", updates)


def scene(k: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Everything an attack can ask for, in a cohort of N: all clients drew their updates from N(1, 1)."""
    return {
        "benign": randn(N - k, 1, dtype),
        "own": randn(k, 2, dtype),
        "n": N,
        "params": randn(1, 3, dtype)[0],
        "previous": randn(1, 4, dtype)[0],
        "server_lr": 1.0,
        "defend": mean,
    }


def craft(attack: Entry, k: int, given: dict[str, Any], **of: int) -> Tensor:
    made = fedpoison.craft(attack.function, n_malicious=k, **given, **of)
    return made[0] if isinstance(made, tuple) else made


def storages(tensors: Any) -> set[int]:
    return {t.untyped_storage().data_ptr() for t in tensors if isinstance(t, Tensor)}


def same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


# On paper


@each_attack
def test_an_attack_says_where_it_is_from_and_what_shows_it_right(attack: Entry) -> None:
    assert attack.source, f"{attack.name} has no source"
    assert attack.source.split(":")[0] in ("read", "secondary")
    path, _, test = attack.evidence.partition("::")
    assert (ROOT / path).is_file(), f"{attack.name} cites {path}, which is not there"
    functions = [node.name for node in ast.walk(ast.parse((ROOT / path).read_text())) if hasattr(node, "name")]
    assert test in functions, f"{attack.name} cites {test}, which is not in {path}"


@each_attack
def test_an_attacks_defaults_are_of_the_options_types(attack: Entry) -> None:
    defaults = attack.validate({})
    assert attack.validate(defaults) == defaults


# On the updates


@each_update_attack
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_crafted_updates_have_a_row_for_each_attacker(attack: Entry, k: int, dtype: torch.dtype) -> None:
    crafted = craft(attack, k, scene(k, dtype))
    assert crafted.shape == (k, D + (attack.name == "wrong_shape"))
    assert crafted.dtype == dtype


@each_update_attack
def test_crafting_leaves_what_the_attackers_see_as_it_was(attack: Entry) -> None:
    given, before = scene(20), scene(20)
    crafted = craft(attack, 20, given)
    for word, value in given.items():
        if isinstance(value, Tensor):
            assert torch.equal(value, before[word]), f"{attack.name} changed {word}"
    assert not storages([crafted]) & storages(given.values())
    first = crafted[0].clone()
    crafted[1:] = 77
    assert same(crafted[0], first), f"{attack.name}'s rows share memory"


@each_update_attack
def test_crafting_is_determined_by_the_seed_and_the_round(attack: Entry) -> None:
    made, again, next_round, next_seed = (
        craft(attack, 20, scene(20), seed=seed, round=round) for seed, round in ((5, 1), (5, 1), (5, 2), (6, 1))
    )
    assert same(made, again)
    assert same(made, next_round) == same(made, next_seed) == ("rng" not in attack.asks)


@each_update_attack
def test_an_update_attack_moves_the_mean_further_than_honest_clients_would(attack: Entry) -> None:
    if attack.name == "wrong_shape":
        pytest.skip("nobody takes a mean of it")
    given = scene(20)

    def moved(malicious: Tensor) -> float:
        centre = torch.cat([given["benign"], malicious]).mean(dim=0)
        return float((centre - given["benign"].mean(dim=0)).norm().nan_to_num(torch.inf))

    assert moved(craft(attack, 20, given)) > 1.2 * moved(given["own"])


# On the data

SHAPES: dict[str, tuple[int, ...]] = {"pictures": (2, 8, 8), "rows": (30,), "tokens": (12,)}
WORDS = 50


def samples(kind: str, count: int, seed: int) -> Tensor:
    """Random samples of a kind; pictures below 0.9, so that a trigger of 1 shows."""
    drawn = torch.Generator().manual_seed(seed)
    if kind == "tokens":
        return torch.randint(WORDS, (count, *SHAPES[kind]), generator=drawn)
    if kind == "rows":
        return torch.randn(count, *SHAPES[kind], generator=drawn)
    return torch.rand(count, *SHAPES[kind], generator=drawn) * 0.9


def net(kind: str) -> nn.Sequential:
    """A small net for samples of a kind, five classes."""
    torch.manual_seed(0)
    front = [nn.Embedding(WORDS, 4), nn.Flatten(), nn.Linear(48, 16)] if kind == "tokens" else [nn.Flatten()]
    first = [] if kind == "tokens" else [nn.Linear(math.prod(SHAPES[kind]), 16)]
    return nn.Sequential(*front, *first, nn.ReLU(), nn.Linear(16, 5)).eval()


def shard(attack: Entry, kind: str, seed: int = 0) -> tuple[dict[str, Any], tuple[Tensor, Tensor]]:
    """Everything a data attack can ask for, and what it made of it."""
    supply = {
        "images": samples(kind, 60, 9),
        "labels": torch.randint(5, (60,), generator=torch.Generator().manual_seed(8)),
        "n_classes": 5,
        "attacker": 0,
        "victims": samples(kind, 1, 7),
        "surrogate": net(kind),
        "rng": Stream(seed, "poison", client=3).torch(),
    }
    return supply, attack.call(supply, options(attack))


@each_data_attack
def test_a_poisoned_shard_has_the_form_of_a_shard(attack: Entry, kind: str) -> None:
    given, (images, labels) = shard(attack, kind)
    assert (images.shape, images.dtype) == (given["images"].shape, given["images"].dtype)
    assert (labels.shape, labels.dtype) == (given["labels"].shape, torch.int64)
    if kind == "pictures":
        assert 0 <= images.min() <= images.max() <= 1
    if kind == "tokens":
        assert 0 <= images.min() <= images.max() < WORDS
    assert 0 <= labels.min() <= labels.max() < 5
    assert not (torch.equal(images, given["images"]) and torch.equal(labels, given["labels"]))


@each_data_attack
def test_poisoning_leaves_the_clean_shard_as_it_was(attack: Entry, kind: str) -> None:
    given, (images, labels) = shard(attack, kind)
    assert torch.equal(given["images"], samples(kind, 60, 9))
    assert torch.equal(given["labels"], torch.randint(5, (60,), generator=torch.Generator().manual_seed(8)))
    assert torch.equal(given["victims"], samples(kind, 1, 7))
    for before, after in zip(net(kind).parameters(), given["surrogate"].parameters(), strict=True):
        assert torch.equal(before, after)
        assert after.grad is None
    assert not storages([labels]) & storages([given["labels"]])
    assert images is given["images"] or not storages([images]) & storages([given["images"], given["victims"]])
    assert not images.requires_grad


@each_data_attack
def test_poisoning_is_determined_by_the_stream(attack: Entry, kind: str) -> None:
    made, again = shard(attack, kind)[1], shard(attack, kind)[1]
    assert torch.equal(made[0], again[0])
    assert torch.equal(made[1], again[1])


@each_data_attack
def test_what_a_data_attack_aims_at_is_said_for_each_test_sample(attack: Entry, kind: str) -> None:
    given, _ = shard(attack, kind)
    images, labels = given["images"].clone(), given["labels"].clone()
    presented, wanted = attack.aim(images, labels, 5, **options(attack))
    assert presented.shape == images.shape
    assert wanted.shape == labels.shape
    assert torch.equal(images, given["images"])
    assert torch.equal(labels, given["labels"])
    assert ((wanted >= -1) & (wanted < 5)).all()
    goal = goal_of((attack, options(attack)))
    assert goal in GOALS
    assert goal == "availability" or (wanted >= 0).any()
    assert (wanted != labels).all()
    if goal != "backdoor":
        assert torch.equal(presented, images)
    assert attack.check is None or attack.check(5, **options(attack)) == []


# An attack must beat doing nothing


@dataset(licence="made up here")
def sentences():  # type: ignore[no-untyped-def]
    """Texts of twelve words of fifty, of which a class prefers ten."""
    drawn = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (1200,), generator=drawn)
    own = 10 * labels[:, None] + torch.randint(10, (1200, 12), generator=drawn)
    anything = torch.randint(WORDS, (1200, 12), generator=drawn)
    texts = torch.where(torch.rand(1200, 12, generator=drawn) < 0.5, own, anything)
    return Dataset(texts[:1000], labels[:1000], texts[1000:], labels[1000:], 5, vocabulary=WORDS)


@model()
def by_place(n_classes, vocabulary):  # type: ignore[no-untyped-def]
    """An embedding and a linear layer."""
    return nn.Sequential(nn.Embedding(vocabulary, 8), nn.Flatten(), nn.Linear(96, n_classes))


TASKS: dict[str, tuple[str, str]] = {
    "pictures": ("digits", "logistic"),
    "rows": ("breast_cancer", "logistic"),
    "tokens": (f"{__file__}:sentences", f"{__file__}:by_place"),
}


def last_record(attack: dict[str, Any], malicious: int = 4, kind: str = "pictures") -> Record:
    """Ten clients train a small net, and the mean takes what they send."""
    data, net = TASKS[kind]
    table = {
        "name": "t",
        "rounds": 5,
        "evaluate_every": 5,
        "data": {"name": data},
        "model": net,
        "clients": {"count": 10, "local": {"lr": 0.2, "epochs": 2}},
        "threat": {"malicious": malicious, **attack},
    }
    world, state = build(parse(table))
    while state.round < 5:
        state, record = play(state, world)
    return record


@pytest.mark.filterwarnings("ignore::UserWarning")
@each_broad_data_attack
def test_a_data_attack_gets_more_of_what_it_wants_than_no_attack(attack: Entry, kind: str) -> None:
    goal = goal_of((attack, options(attack)))
    clean, attacked = (
        last_record({"data": {"name": attack.name, **ON_8_BY_8.get(attack.name, {})}}, k, kind)
        for k in (0, ATTACKERS.get(attack.name, 5))
    )
    if goal == "availability":
        assert attacked["accuracy"] < clean["accuracy"] - 0.1
    else:
        measure = "asr" if goal == "backdoor" else "target_success"
        assert attacked[measure] > clean[measure] + 0.1


def test_flipping_one_class_gets_the_target_label_for_it() -> None:
    attack = {"data": {"name": "label_flip", "source": 5, "target": 7}}
    assert last_record(attack, 0)["target_success"] < 0.1
    assert last_record(attack, 6)["target_success"] > 0.5


def test_one_client_plants_a_backdoor_by_replacing_the_model() -> None:
    data = {"name": "badnets", "target": 2}
    clean, diluted = last_record({"data": data}, 0), last_record({"data": data}, 1)
    replaced = last_record({"data": data, "update": "model_replacement"}, 1)
    assert clean["asr"] < 0.1
    assert replaced["asr"] > max(0.9, diluted["asr"])
    assert replaced["asr_untriggered"] < 0.5 * replaced["asr"]  # it is the trigger that does it


@pytest.mark.parametrize(
    "attack", ["sign_flip", {"name": "ipm", "epsilon": 3.0}, {"name": "gaussian", "std": 5.0}, {"name": "alie", "z": 3}]
)
def test_an_untargeted_attack_costs_accuracy(attack: Any) -> None:
    assert last_record({"update": attack})["accuracy"] < last_record({"data": "badnets"}, 0)["accuracy"] - 0.02
