"""What honest clients take out of their samples before they train, and how right they are."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fedpoison.clients.federation import Federation, Shard
from fedpoison.clients.training import Task
from fedpoison.common.parallel import in_parallel
from fedpoison.common.seeding import Stream
from fedpoison.contract.entry import Step
from fedpoison.contract.results import as_cleaned
from fedpoison.contract.words import supplied
from fedpoison.models.features import features
from fedpoison.models.vector import load
from fedpoison.types import Event, Params

_AT_ONCE = 500
"""Samples that are shown to the net at once."""


@dataclass(frozen=True)
class Cleaning:
    """What cleaning brought to a round: its tasks, with what each keeps; the memory; and what was done."""

    tasks: tuple[Task, ...]
    memory: Mapping[str, Tensor]
    events: tuple[Event, ...]
    measured: Mapping[str, float | int | None] | None


@dataclass(frozen=True)
class Cleaner:
    """Has clients clean their samples by sanitizers, one after the other, with the round's global model.

    A client does it in the first round from `start` in which it takes part, and again when it takes part `every` rounds
    later, if that is given. Samples that an attack changes since are others, and are cleaned by themselves.
    """

    steps: tuple[Step, ...]
    every: int | None
    start: int
    net: nn.Module
    federation: Federation
    seed: int

    def __call__(self, tasks: Sequence[Task], params: Params, round: int, memory: Mapping[str, Tensor]) -> Cleaning:
        """The same tasks, each on what its client keeps of its samples."""
        self.federation.poison(task.client for task in tasks if task.poisoned)
        due = [task for task in tasks if self._is_due(task, round, memory)]
        made = list(in_parallel(lambda task: self._cleaned(task, params, round), due))
        memory, events = dict(memory), list[Event]()
        for task, (keep, said) in zip(due, made, strict=True):
            memory |= {f"{_name(task)}/keep": keep, f"{_name(task)}/round": torch.tensor(round)}
            events += said
        kept = [memory.get(f"{_name(task)}/keep") for task in tasks]
        changed = [
            replace(task, kept=None if keep is None else keep.nonzero().flatten())
            for task, keep in zip(tasks, kept, strict=True)
        ]
        cleaned = [(task, keep) for task, keep in zip(tasks, kept, strict=True) if keep is not None]
        return Cleaning(tuple(changed), memory, tuple(events), self._measured(cleaned))

    def _is_due(self, task: Task, round: int, memory: Mapping[str, Tensor]) -> bool:
        last = memory.get(f"{_name(task)}/round")
        return round >= self.start and (last is None or (self.every is not None and round - int(last) >= self.every))

    def _cleaned(self, task: Task, params: Params, round: int) -> tuple[Tensor, list[Event]]:
        """Which of its samples [n] a client keeps, and what is said of it."""
        shard = self.federation.shard(task.client, task.poisoned)
        net, said = copy.deepcopy(self.net).eval(), list[Event]()
        load(net, params)
        kept = torch.arange(len(shard))
        suspicion = torch.zeros(len(shard), dtype=torch.float64)
        seen = torch.zeros(len(shard), dtype=torch.int64)  # by how many steps: their suspicions are on other scales
        for place, step in enumerate(self.steps):
            stream = Stream(self.seed, "cleaning", round, len(self.steps) * task.client + place)
            keep, score = self._step(step, net, shard.of(kept), task.client, stream, said)
            suspicion[kept] = score
            seen[kept] += 1
            kept = kept[keep]
        mask = torch.zeros(len(shard), dtype=torch.bool)
        mask[kept] = True
        labels = shard.labels[shard.index]
        for label in sorted({*labels.tolist()} - {*labels[mask].tolist()}):  # in all, for later steps see fewer
            own = (labels == label).nonzero().flatten()
            own = own[seen[own] == seen[own].max()]
            mask[own[suspicion[own].argmin()]] = True
            said.append(Event("spared", (task.client,), f"of class {label} nothing would be left: one is kept"))
        return mask, said

    def _step(
        self, step: Step, net: nn.Module, shard: Shard, client: int, stream: Stream, said: list[Event]
    ) -> tuple[Tensor, Tensor]:
        entry, options = step
        images, labels = shard.images[shard.index], shard.labels[shard.index]
        makers: dict[str, Callable[[], Any]] = {
            "images": lambda: images,
            "labels": lambda: labels,
            "n_classes": lambda: self.federation.dataset.n_classes,
            "features": lambda: _shown(lambda part: features(net, part).flatten(1), images),
            "logits": lambda: _shown(net, images),
            "losses": lambda: self.federation.dataset.task.losses(_shown(net, images), labels),
            "say": lambda: lambda text: said.append(Event("sanitizer", (client,), f"{entry.name}: {text}")),
            "rng": stream.torch,
        }
        made = entry.call(supplied(entry.kind, entry.asks, makers), options, stream)
        return as_cleaned(entry, made, len(labels))

    def _measured(self, cleaned: Sequence[tuple[Task, Tensor]]) -> dict[str, float | int | None] | None:
        """How many samples this round's clients took out, and how many of them, and of those to be, were poisoned."""
        if not cleaned:
            return None
        bad = torch.cat([self.federation.shard(task.client, task.poisoned).poison for task, _ in cleaned])
        out = ~torch.cat([keep for _, keep in cleaned])
        removed, poisoned, right = int(out.sum()), int(bad.sum()), int((out & bad).sum())
        clean = len(bad) - poisoned
        return {
            "removed": removed,
            "precision": right / removed if removed else None,
            "recall": right / poisoned if poisoned else None,
            "clean_lost": (removed - right) / clean if clean else None,
        }


def _name(task: Task) -> str:
    return f"{task.client}{'p' if task.poisoned else 'c'}"


@torch.no_grad()
def _shown(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """What a net makes of samples, in float64."""
    return torch.cat([function(part) for part in images.split(_AT_ONCE)]).double()
