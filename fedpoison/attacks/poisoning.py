"""What an attack on the data is shown, what it makes of a client's samples, and what it wants of test samples."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fedpoison.clients.federation import Shard
from fedpoison.clients.training import Local, train_client
from fedpoison.common.seeding import Stream
from fedpoison.contract.entry import Entry, Step, goal_of
from fedpoison.contract.results import as_samples
from fedpoison.contract.words import supplied
from fedpoison.data import Dataset
from fedpoison.models.frozen import apply
from fedpoison.models.vector import load
from fedpoison.types import Images, Labels, Params, Planted


@dataclass(frozen=True)
class Aim:
    """The test samples that the attacker wants something of.

    `presented`: as they are shown to the model, triggered if there is a trigger; `plain`: as they are; `labels`: their
    classes; `wanted`: the classes it wants. `goal`: see vocabulary.GOALS.
    """

    goal: str
    presented: Images
    plain: Images
    labels: Labels
    wanted: Labels

    def through(self, front: nn.Module | None) -> "Aim":
        """The same as what comes after a frozen front sees it."""
        if front is None:
            return self
        return replace(self, presented=apply(front, self.presented), plain=apply(front, self.plain))


def aim_of(step: Step, dataset: Dataset) -> Aim | None:
    """What is measured of the attack on the test samples; None where it wants nothing of any."""
    entry, options = step
    images, labels = dataset.test_images, dataset.test_labels
    shown = (images, labels) if entry.ours else (images.clone(), labels.clone())
    with entry.drawing(Stream(0, "poison")):
        told = entry.tell("aim", *shown, dataset.n_classes, **options)
    presented, wanted = as_samples(entry, told, images, labels, "by its aim ")
    _check_tokens(entry, presented, dataset.vocabulary)
    mask = wanted >= 0
    if not mask.any():
        return None
    return Aim(goal_of(step), presented[mask], images[mask], labels[mask], wanted[mask])


def _check_tokens(attack: Entry, images: Images, vocabulary: int | None) -> None:
    if vocabulary is not None and images.numel() and not 0 <= int(images.min()) <= int(images.max()) < vocabulary:
        seen = f"{int(images.min())} to {int(images.max())}"
        raise attack.fault(f"made tokens from {seen}, a vocabulary of {vocabulary} is 0 to {vocabulary - 1}")


@dataclass(frozen=True)
class Surrogate:
    """The nets that whoever attacks trains on the samples of the clients attacked at, to craft poison with.

    Each begins as the run does, with the parameters `start` of `net` behind a frozen `front` if there is one, and is
    trained on `seen`, the samples behind that front, for so many epochs. What `warm_start.rounds` made of them it does
    not know.
    """

    front: nn.Module | None
    net: nn.Module
    start: Params
    seen: Dataset
    local: Local
    epochs: int
    seed: int

    def __call__(self, client: int, index: Tensor) -> nn.Module:
        """The net of the attacker at this client, in evaluation mode, as a function of samples."""
        own, params = copy.deepcopy(self.net), self.start
        if self.epochs:
            local = self.local.model_copy(update={"epochs": self.epochs, "steps": None})
            shard = Shard(self.seen.train_images, self.seen.train_labels, index)
            params = params + train_client(own, params, shard, Stream(self.seed, "surrogate", client=client), local)
        load(own, params)
        return (nn.Sequential(copy.deepcopy(self.front), own) if self.front else own).eval()


@dataclass(frozen=True)
class Poison:
    """An attack on the data as it comes to a client's samples.

    `attackers`: the clients it is done at all along, if they are always the same. `surrogate(client, index)`: the
    attacker's own net. `front`: what is frozen, and applied to the poisoned samples. `stamps_last`: the triggers of an
    attack that returns `Planted` are set when samples are trained on, after their augmentation.
    """

    step: Step
    dataset: Dataset
    seed: int
    attackers: tuple[int, ...] = ()
    surrogate: Callable[[int, Tensor], nn.Module] | None = None
    front: nn.Module | None = None
    stamps_last: bool = False

    def __call__(self, client: int, index: Tensor) -> Shard:
        """The samples `index` of the data set as this client trains on them."""
        crafted = self.craft(client, index)
        images, labels = self.dataset.train_images[index], self.dataset.train_labels[index]
        changed = (crafted[0] != images).flatten(1).any(dim=1) | (crafted[1] != labels)
        return replace(self.shard(crafted), changed=changed)

    def shard(self, crafted: tuple[Images, Labels]) -> Shard:
        """What was crafted, as it is trained on."""
        images, labels = crafted
        rows = torch.arange(len(labels))
        if self.stamps_last and isinstance(crafted, Planted):
            return Shard(crafted.bare, labels, rows, crafted.stamps)
        return Shard(images if self.front is None else apply(self.front, images), labels, rows)

    def craft(self, client: int, index: Tensor) -> tuple[Images, Labels]:
        """The samples with all triggers set, before a frozen front; ValueError if they are not samples of these."""
        entry, options = self.step
        images, labels = self.dataset.train_images[index], self.dataset.train_labels[index]
        stream = Stream(self.seed, "poison", client=client)
        makers: dict[str, Callable[[], Any]] = {
            "images": lambda: images,
            "labels": lambda: labels,
            "n_classes": lambda: self.dataset.n_classes,
            "attacker": lambda: self.attackers.index(client) if client in self.attackers else client,
            "victims": self._victims,
            "surrogate": lambda: self._surrogate(client, index),
            "rng": stream.torch,
        }
        result = entry.call(supplied(entry.kind, entry.asks, makers), options, stream)
        if entry.plants and not isinstance(result, Planted):
            raise entry.fault(f"says that it returns Planted, and returned {type(result).__name__}")
        poisoned, relabelled = as_samples(entry, result, images, labels)
        _check_tokens(entry, poisoned, self.dataset.vocabulary)
        if misfit := self.dataset.task.misfit(relabelled):
            raise entry.fault(f"returned what cannot be: {misfit}")
        return result if entry.plants else (poisoned, relabelled)

    def _victims(self) -> Images:
        aim = aim_of(self.step, self.dataset)
        if aim is None:
            raise ValueError(f"{self.step[0].name}: there is no test sample that it could aim at")
        return aim.presented

    def _surrogate(self, client: int, index: Tensor) -> nn.Module:
        if self.surrogate is None:
            raise ValueError(f"{self.step[0].name} asks for a net of the attacker's own, and there is none")
        return self.surrogate(client, index)


@dataclass(frozen=True)
class Poisons:
    """The attacks on the data, one for each group of attackers that does one; `clients`: whose they are, if several."""

    groups: tuple[Poison | None, ...]
    clients: tuple[frozenset[int], ...]

    def __call__(self, client: int, index: Tensor) -> Shard:
        """The samples `index` of the data set as this client trains on them when it attacks."""
        if len(self.groups) == 1:
            (mine,) = self.groups
        else:
            mine = next(poison for poison, ids in zip(self.groups, self.clients, strict=True) if client in ids)
        assert mine is not None
        return mine(client, index)
