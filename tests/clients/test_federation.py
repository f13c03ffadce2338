"""Who holds which samples: sets apart for the server, held-out samples, normalisation and augmentation."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedpoison.attacks.poisoning import Poison
from fedpoison.clients.federation import Federation, Shard
from fedpoison.common.errors import ConfigError
from fedpoison.common.seeding import Stream
from fedpoison.config.config import parse
from fedpoison.contract.lookup import find
from fedpoison.data import Dataset
from fedpoison.data.augment import Augment
from fedpoison.measures.evaluation import Evaluator
from fedpoison.models.inputs import Normalise
from fedpoison.models.vector import flatten
from fedpoison.round import play
from fedpoison.runs.world import build


def dataset(samples: int = 100) -> Dataset:
    labels = torch.arange(samples) % 5
    images = torch.rand(samples, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return Dataset(images, labels, images[:10], labels[:10], 5)


def federation(seed: int = 3, clients: int = 4, **changes: Any) -> Federation:
    return Federation(dataset(), (find("partition", "iid"), {}), clients, seed, **changes)


def table(**data: Any) -> dict[str, Any]:
    return {
        "name": "t",
        "rounds": 1,
        "data": {"name": "digits", **data},
        "model": "logistic",
        "clients": {"count": 4, "local": {"steps": 1}},
    }


def indices(shards: list[Shard]) -> list[int]:
    return [int(i) for shard in shards for i in shard.index]


def test_each_sample_is_in_one_place() -> None:
    split = federation(root=7, validation=11, held_out=0.25)
    parts = [split.root, split.validation, *(split.shard(i) for i in range(4)), *(split.held_out(i) for i in range(4))]
    assert [len(part) for part in parts] == [7, 11, 16, 16, 15, 15, 5, 5, 5, 5]
    assert sorted(indices(parts)) == list(range(100))


def test_sets_apart_are_drawn_anew_for_each_seed() -> None:
    first, again, other = (federation(seed, root=7, validation=11).root.index.tolist() for seed in (3, 3, 4))
    assert first == again != other


def test_what_is_set_apart_leaves_the_clients_something() -> None:
    with pytest.raises(ValueError, match="root = 60 and validation = 40 leave nothing of 100 train samples"):
        federation(root=60, validation=40)


def test_a_client_trains_on_one_sample_at_the_least() -> None:
    split = federation(clients=100, held_out=0.9)
    assert [len(split.shard(i)) for i in range(100)] == [1] * 100


def test_a_poisoned_shard_is_of_what_the_client_trains_on() -> None:
    flip = find("data_attack", "label_flip")
    split = federation(held_out=0.25, poison=Poison((flip, flip.validate({"target": 0})), dataset(), 0))
    clean, poisoned = split.shard(1), split.shard(1, poisoned=True)
    assert torch.equal(poisoned.images[poisoned.index], clean.images[clean.index])


@pytest.mark.parametrize(("given", "samples"), [(0, 0), (100, 100), (0.1, 144)])
def test_validation_is_a_count_or_a_share(given: float, samples: int) -> None:
    world, state = build(parse(table(validation=given)))
    assert len(world.federation.validation) == samples
    _, record = play(state, world)
    assert (record["validation_accuracy"] is None) == (samples == 0)


@pytest.mark.parametrize("given", [1.0, -1, -0.1, "many", True])
def test_validation_is_checked(given: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"data\.validation: a number of samples up to \d+, or a share of them below 1"
    ):
        parse(table(validation=given))


def test_the_data_table_gives_itself_again() -> None:
    given = table(root={"samples": 9}, validation=0.1, normalise={"mean": [0.1], "std": [0.3]}, augment={"crop": 1})
    config = parse(given)
    assert parse(config.table()).table() == config.table()
    assert parse(table()).hash not in {config.hash, parse(table(validation=0.1)).hash, parse(table(augment={})).hash}


def test_validation_measures_the_validation_samples() -> None:
    data = dataset()
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 5))
    evaluator = Evaluator(net, data, [], Shard(data.train_images, data.train_labels, torch.arange(20, 50)))
    scores = evaluator(flatten(net))
    logits, labels = net(data.train_images[20:50]), data.train_labels[20:50]
    assert scores.validation_accuracy == pytest.approx(float((logits.argmax(1) == labels).double().mean()))
    assert scores.validation_loss == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, labels).detach()), rel=1e-5
    )


def test_the_worst_decile_is_the_mean_of_the_worst_tenth_rounded_up() -> None:
    """Eleven clients whose accuracies are 0/10 … 10/10: the worst two have 0 and 0.1."""
    images = torch.eye(2)[torch.zeros(110, dtype=torch.int64)]
    labels = torch.cat([torch.arange(10).lt(10 - right).long() for right in range(11)])
    data = Dataset(images, labels, images[:1], labels[:1], 2)
    net = torch.nn.Linear(2, 2, bias=False)
    torch.nn.init.eye_(net.weight)
    shards = [Shard(images, labels, torch.arange(10 * i, 10 * i + 10)) for i in range(11)]
    scores = Evaluator(net, data, [], None, shards)(flatten(net))
    assert scores.client_accuracy == pytest.approx(0.5)
    assert scores.worst_decile_accuracy == pytest.approx(0.05)


def test_attackers_are_not_asked_how_well_the_model_does() -> None:
    flip = {"name": "label_flip", "source": 1, "target": 2}
    given = {**table(), "threat": {"malicious": 1, "data": flip}}
    given["clients"] = {**given["clients"], "held_out": 0.2}
    world, _ = build(parse(given))
    (bad,) = world.threats[0].fixed_ids
    asked = {int(i) for shard in world.evaluator._held_out for i in shard.index}
    assert asked.isdisjoint(world.federation.held_out(bad).index.tolist())
    assert asked == set(indices([world.federation.held_out(i) for i in range(4) if i != bad]))


def test_normalising_is_by_channel() -> None:
    images = torch.rand(3, 2, 4, 4)
    normalised = Normalise([0.5, 0.25], [0.5, 2.0], (2, 4, 4))(images)
    assert torch.allclose(normalised[:, 0], (images[:, 0] - 0.5) / 0.5)
    assert torch.allclose(normalised[:, 1], (images[:, 1] - 0.25) / 2.0)


def test_a_net_that_normalises_learns_otherwise_and_starts_the_same() -> None:
    plain, moved = (build(parse(table(**more))) for more in ({}, {"normalise": {"mean": [0.3], "std": [0.4]}}))
    assert torch.equal(plain[1].params, moved[1].params)
    assert not torch.equal(play(plain[1], plain[0])[0].params, play(moved[1], moved[0])[0].params)


@pytest.mark.parametrize("bad", [{"mean": [float("nan")]}, {"mean": [float("inf")]}, {"std": [float("inf")]}])
def test_normalise_by_finite_numbers_only(bad: dict[str, list[float]]) -> None:
    with pytest.raises(ConfigError, match=r"data.normalise\.(mean|std)\.0: Input should be a finite number"):
        parse(table(normalise={"mean": [0.0], "std": [1.0], **bad}))


def test_normalise_is_checked() -> None:
    with pytest.raises(ConfigError, match="there are 2 means and 1 standard deviations"):
        parse(table(normalise={"mean": [0.1, 0.2], "std": [0.3]}))
    with pytest.raises(ValueError, match="2 means for samples of shape"):
        build(parse(table(normalise={"mean": [0.1, 0.2], "std": [0.3, 0.3]})))


@given(crop=st.integers(0, 3), flip=st.booleans(), seed=st.integers(0, 99))
@settings(derandomize=True, deadline=None)
def test_augmenting_shifts_and_mirrors_each_picture_by_what_was_drawn(crop: int, flip: bool, seed: int) -> None:
    images = torch.rand(6, 2, 5, 4, generator=torch.Generator().manual_seed(seed)) + 0.1
    augment = Augment(crop=crop, flip=flip)
    draws = torch.cat(augment.draws(Stream(seed, "augment"), [4, 2]))
    got = augment(images, draws)
    for picture, (row, column, mirrored), result in zip(images, draws.tolist(), got, strict=True):
        assert 0 <= min(row, column) <= max(row, column) <= 2 * crop
        padded = np.pad(picture.numpy(), ((0, 0), (crop, crop), (crop, crop)))
        cut = padded[:, row : row + 5, column : column + 4]
        assert np.array_equal(result.numpy(), cut[:, :, ::-1] if mirrored else cut)
    assert flip or not draws[:, 2].any()


def test_half_of_the_pictures_are_mirrored_and_all_shifts_are_drawn() -> None:
    (draws,) = Augment(crop=2, flip=True).draws(Stream(0, "augment"), [2000])
    assert abs(float(draws[:, 2].double().mean()) - 0.5) < 0.05
    assert set(map(tuple, draws[:, :2].tolist())) == {(i, j) for i in range(5) for j in range(5)}


def test_the_natural_split_is_the_datas_own() -> None:
    data = replace(dataset(), clients=torch.arange(100) % 3)
    split = Federation(data, (find("partition", "natural"), {"keep": "largest"}), 3, 0, validation=10)
    for client in range(3):
        assert set(data.clients[split.shard(client).index].tolist()) == {client}
    assert len(split.validation) + sum(len(split.shard(i)) for i in range(3)) == 100
    with pytest.raises(ValueError, match="partition natural: these data do not say whom a sample belongs to"):
        Federation(dataset(), (find("partition", "natural"), {"keep": "largest"}), 3, 0)


def test_who_is_untouched_can_be_asked_while_others_are_poisoned() -> None:
    """As the clients of a Flower in this process do, each in a thread of its own."""
    data = dataset()

    class Asking(Tensor):
        """A mask that has another client poisoned when it is looked at."""

        def any(self) -> Tensor:  # type: ignore[override]
            federation.poison([(len(federation._poisoned)) % 8])
            return torch.tensor(False)

    def poison(client: int, index: Tensor) -> Shard:
        rows = torch.arange(len(index))
        changed = torch.zeros(len(index), dtype=torch.bool).as_subclass(Asking)
        return Shard(data.train_images[index], data.train_labels[index], rows, changed=changed)

    federation = Federation(data, (find("partition", "iid"), {}), 8, 0, poison)
    federation.poison([0])
    assert federation.untouched == {0}
