"""What an experiment's attacks on the data make of clients' samples: the facts, before anything is trained on them."""

import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fedpoison.attacks.poisoning import Aim, Poison, Poisons, aim_of
from fedpoison.attacks.threat import Threat
from fedpoison.common import parallel
from fedpoison.common.seeding import Stream
from fedpoison.config.config import Config
from fedpoison.config.sweep import Experiment
from fedpoison.config.threat import Group
from fedpoison.contract.entry import goal_of
from fedpoison.data import Dataset
from fedpoison.preview.detection import Detection, detections
from fedpoison.preview.split import always, split_key, split_title, with_options
from fedpoison.round import World
from fedpoison.runs.world import build
from fedpoison.types import Images, Labels

_CRAFTED, _CRAFTED_WITH_NETS = 20, 2
"""Attacked clients whose poison is crafted; fewer where each attacker trains a net for that."""
_LISTED = 12
"""Clients that are named in a line."""


@dataclass(frozen=True)
class Poisoned:
    """A client's samples before and after the attack.

    `seen`: the same two as training sees them once, if it augments them.
    """

    client: int
    clean: Images
    images: Images
    labels: Labels
    relabelled: Labels
    seen: tuple[Images, Images] | None = None

    @cached_property
    def changed(self) -> Tensor:
        """Which samples were changed: a mask."""
        return (self.clean != self.images).flatten(1).any(dim=1)

    @cached_property
    def flipped(self) -> Tensor:
        """Which samples have another label: a mask."""
        return self.labels != self.relabelled

    def shown(self, places: Tensor) -> tuple[Images, Images]:
        """Some samples before and after, as training sees them."""
        clean, images = self.seen or (self.clean, self.images)
        return clean[places], images[places]

    def counts(self, n_classes: int) -> tuple[Tensor, Tensor]:
        """Samples of each class, before and after."""
        before, after = (torch.bincount(y, minlength=n_classes) for y in (self.labels, self.relabelled))
        return before, after

    def examples(self, count: int) -> Tensor:
        """Some of the changed samples (or else relabelled ones), of as many different labels as there are."""
        mask = self.changed if self.changed.any() else self.flipped
        seen: Counter[tuple[int, int]] = Counter()
        turns = []
        for place in mask.nonzero().flatten().tolist():
            labels = (int(self.labels[place]), int(self.relabelled[place]))
            turns.append((seen[labels], labels, place))
            seen[labels] += 1
        return torch.tensor([place for *_, place in sorted(turns)[:count]], dtype=torch.int64)


@dataclass(frozen=True)
class Poisoning:
    """One attack on the data of one split.

    `attacked`: the clients it is done at; if they are drawn anew, those of `round`. `clients`: those of them whose
    poison was crafted to be looked at. `split`, `on`: the split's key and title; `data`: the data set. `sight`: what
    training does to pictures each time it sees them, in words; empty if it takes them as they are.
    """

    split: str
    on: str
    data: str
    label: str
    options: dict[str, Any]
    goal: str
    actor: str
    draw: str
    attacked: tuple[int, ...]
    round: int | None
    dataset: Dataset
    clients: tuple[Poisoned, ...]
    aim: Aim | None
    detections: tuple[Detection, ...]
    remarks: tuple[str, ...]
    sight: str = ""

    @property
    def triggered(self) -> bool:
        """Whether test samples are presented otherwise than they are."""
        return self.aim is not None and not torch.equal(self.aim.presented, self.aim.plain)

    @property
    def whom(self) -> str:
        """Who does it at which clients, in words."""
        more = len(self.attacked) - _LISTED
        listed = ", ".join(map(str, self.attacked[:_LISTED])) + (f" and {more} others" if more > 0 else "")
        who = "malicious clients" if self.actor == "client" else "an outsider, at clients"
        if not self.attacked:
            return f"{who} (none in any round)"
        if self.round is None:
            return f"{who} {listed}, the same all along"
        return f"{who} drawn anew each round; in round {self.round}: {listed}"

    @cached_property
    def sizes(self) -> dict[str, float | None]:
        """How much changed samples were changed: norms and PSNR (a peak of 1), or tokens that are others."""
        names = ("l_inf_mean", "l_inf_max", "l2_mean", "l2_max", "psnr_mean", "tokens_mean", "tokens_max")
        measured: dict[str, float | None] = dict.fromkeys(names)
        pairs = [(p.clean[p.changed], p.images[p.changed]) for p in self.clients]
        if not sum(len(clean) for clean, _ in pairs):
            return measured
        clean, images = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        if self.dataset.kind == "tokens":
            return measured | _mean_and_max("tokens", (clean != images).sum(dim=1))
        change = (images - clean).flatten(1).double()
        measured |= _mean_and_max("l_inf", change.abs().amax(dim=1))
        measured |= _mean_and_max("l2", torch.linalg.vector_norm(change, dim=1))
        if self.dataset.kind == "pictures":
            measured["psnr_mean"] = float((-10 * change.square().mean(dim=1).log10()).mean())
        return measured

    def describe(self) -> dict[str, Any]:
        """All of it as plain values, for machines."""
        n_classes = self.dataset.n_classes
        return {
            "attack": self.label,
            "options": self.options,
            "goal": self.goal,
            "actor": self.actor,
            "draw": self.draw,
            "round": self.round,
            "attacked": list(self.attacked),
            "clients": [
                {
                    "client": p.client,
                    "samples": len(p.labels),
                    "changed": int(p.changed.sum()),
                    "relabelled": int(p.flipped.sum()),
                    "labels_before": p.counts(n_classes)[0].tolist(),
                    "labels_after": p.counts(n_classes)[1].tolist(),
                }
                for p in self.clients
            ],
            "perturbation": self.sizes,
            "aimed_at": len(self.aim.labels) if self.aim else 0,
            "triggered": self.triggered,
            "sight": self.sight,
            "detection": [vars(detection) for detection in self.detections],
            "remarks": list(self.remarks),
        }


def poisonings(experiment: Experiment) -> list[Poisoning]:
    """Each different attack on data among the experiment's cells, with its first seed."""
    found: dict[str, Poisoning] = {}
    seed = experiment.runs[0].seed
    with parallel.using(None):
        for config in experiment.runs:
            for number, (group, count) in enumerate(zip(config.threat.each, config.counts, strict=True)):
                if config.seed == seed and count and group.data and (key := _key(config, number, group)) not in found:
                    found[key] = _poisoning(config, number, group)
    return list(found.values())


def _key(config: Config, number: int, group: Group) -> str:
    """What the poison of a group in a run depends on, but for its seed."""
    table, data = config.table(), group.data
    parts = [split_key(config), number, data and data.model_dump(), _used(group), config.stamps_last(group)]
    if config.threat.draw != "fixed":
        parts += [config.clients.cohort, group.schedule.model_dump(), config.warm_rounds]
    if data and "surrogate" in data.entry.asks:
        parts += [table["model"], table["clients"]["local"], table.get("warm_start"), group.surrogate]
    return json.dumps(parts)


def _used(group: Group) -> bool:
    """Whether anybody trains on the poison."""
    return group.update is None or "own" in group.update.entry.asks


def _poisoning(config: Config, number: int, group: Group) -> Poisoning:
    world, _ = build(config)
    poisons, data = world.federation.poisoner, group.data
    poison = poisons.groups[number] if isinstance(poisons, Poisons) else None
    if poison is None or data is None:
        raise ValueError("there is no attack on data to preview")
    attacked, round = _attacked(world, world.threats[number])
    most = _CRAFTED_WITH_NETS if "surrogate" in data.entry.asks else _CRAFTED
    crafted = tuple(parallel.in_parallel(lambda client: _crafted(world, poison, client), attacked[:most]))
    remarks = []
    if len(attacked) > most:
        remarks.append(f"of the {len(attacked)} attacked clients the first {most} were crafted")
    if group.update and not _used(group):
        remarks.append(f"{group.update.label} does not use what attackers train: nobody trains on this")
    if not any((p.changed | p.flipped).any() for p in crafted):
        remarks.append("no sample is changed and no label")
    left_out = attacked[most:]
    poisoned = {p.client: (p.images, p.relabelled, p.changed | p.flipped) for p in crafted}
    found, said = detections(world.federation, poison, poisoned, left_out, config.model.label)
    return Poisoning(
        split=split_key(config),
        on=split_title(config, always(world)),
        data=with_options(config.data.dataset),
        label=with_options(data),
        options=dict(data.options),
        goal=goal_of(data.step),
        actor=group.actor,
        draw=config.threat.draw,
        attacked=attacked,
        round=round,
        dataset=poison.dataset,
        clients=crafted,
        aim=aim_of(data.step, poison.dataset),
        detections=found,
        remarks=(*remarks, *said),
        sight=_sight(config, group),
    )


def _sight(config: Config, group: Group) -> str:
    """What training does to pictures each time it sees them, and whether the trigger is set before or after that."""
    augment, data = config.data.augment, group.data
    steps = [f"{name} = {value}" for name, value in augment.model_dump().items() if value] if augment else []
    if steps and data and data.entry.plants:
        steps = (
            [*steps, "then the trigger"]
            if config.stamps_last(group)
            else ["the trigger", "then " + steps[0], *steps[1:]]
        )
    return ", ".join(steps)


def _attacked(world: World, threat: Threat) -> tuple[tuple[int, ...], int | None]:
    """Who is attacked all along; or else who is in the first round in which anybody is, and that round."""
    if threat.draw == "fixed":
        return tuple(sorted(threat.fixed_ids)), None
    for round in range(1, world.rounds + 1):
        cohort = world.federation.cohort(round, world.per_round)
        ids = cohort[threat.among(cohort, world.seed, round)]
        if len(ids):
            return tuple(ids.tolist()), round
    return (), None


def _crafted(world: World, poison: Poison, client: int) -> Poisoned:
    index = world.federation.shard(client).index
    images, relabelled = crafted = poison.craft(client, index)
    clean, labels = poison.dataset.train_images[index], poison.dataset.train_labels[index]
    seen, augment = None, world.federation.augment
    if augment:
        shard, (draws,) = (
            poison.shard(crafted),
            augment.draws(Stream(world.seed, "augment", client=client), [len(index)]),
        )
        after = augment(shard.images, draws)
        shard.stamp(after, shard.index)
        seen = augment(clean, draws), after
    return Poisoned(client, clean, images, labels, relabelled, seen)


def _mean_and_max(name: str, values: Tensor) -> dict[str, float | None]:
    return {f"{name}_mean": float(values.double().mean()), f"{name}_max": float(values.max())}
