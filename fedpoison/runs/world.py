"""The world of a run from its configuration: data, net, federation, attackers, engine, defence."""

import json
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedpoison.attacks.drilling import Drills
from fedpoison.attacks.poisoning import Aim, Poison, Poisons, Surrogate, aim_of
from fedpoison.attacks.threat import Threat
from fedpoison.clients.cleaning import Cleaner
from fedpoison.clients.criterion import Criterion
from fedpoison.clients.drills import Gradients
from fedpoison.clients.federation import Federation
from fedpoison.clients.training import Engine, Recipe
from fedpoison.common.seeding import Stream, drawing_from
from fedpoison.config.config import Config, parse
from fedpoison.contract.component import Component
from fedpoison.contract.entry import Step
from fedpoison.contract.lookup import find
from fedpoison.data import Dataset
from fedpoison.defences.monitoring import lacking
from fedpoison.measures.evaluation import Evaluator, Examiner, RootProbe
from fedpoison.models import frozen
from fedpoison.models.dropout import with_streams
from fedpoison.models.inputs import Normalise
from fedpoison.models.vector import check_net, flatten, layers_of, load
from fedpoison.round import State, World
from fedpoison.runs.checkpoints import load_params
from fedpoison.runs.reckoning import check_memory
from fedpoison.types import Params


def build(config: Config) -> tuple[World, State]:
    """The world of a run and the state before its first round. ValueError if the parts do not fit."""
    dataset = _dataset(config.data.dataset)
    net, params, front = _net(config, dataset)
    if misfits := config.defence.chain.misfits(layers_of(net)):
        raise ValueError("; ".join(misfits))
    threats = _threats(config, dataset)
    data, count = config.data, config.clients.count
    if data.augment and len(dataset.input_shape) != 3:
        raise ValueError(f"data.augment is for pictures, these samples have shape {dataset.input_shape}")
    if data.augment and data.augment.crop >= min(dataset.input_shape[1:]):
        side = min(dataset.input_shape[1:])
        raise ValueError(f"data.augment.crop = {data.augment.crop} leaves nothing of pictures with a side of {side}")
    if data.augment and front:
        raise ValueError("data.augment changes samples at every step, and warm_start.train_last sees each but once")
    seen = frozen.seen_through(front, dataset) if front else dataset
    poisons: list[Poison | None] = []
    aims: list[Aim | None] = []
    for threat, group in zip(threats, config.threat.each, strict=True):
        surrogate = Surrogate(front, net, params, seen, config.clients.local, group.surrogate, config.seed)
        fixed, last = tuple(sorted(threat.fixed_ids)), config.stamps_last(group)
        data_attack = threat.data
        poisons.append(data_attack and Poison(data_attack, dataset, config.seed, fixed, surrogate, front, last))
        found = aim_of(threat.data, dataset) if threat.data else None
        aims.append(found and found.through(front))
    attacked = tuple(threat.fixed_ids for threat in threats)
    federation = Federation(
        seen,
        data.partition.step,
        count,
        config.seed,
        Poisons(tuple(poisons), attacked) if any(poisons) else None,
        root=data.root.samples if data.root else 0,
        validation=data.validation_samples(len(dataset.train_labels)),
        held_out=config.clients.held_out,
        augment=data.augment,
    )
    malicious = {client for threat in threats if threat.actor == "client" for client in threat.fixed_ids}
    honest = [federation.held_out(i) for i in range(count) if i not in malicious]
    engine, engine_options = config.engine.step
    gradients = Gradients(net, federation, Criterion(config.clients.local.loss.step))
    drills = {
        threat.number: Drills(threat.training, config.clients.local, layers_of(net), gradients, config.seed)
        for threat in threats
        if threat.training
    }
    watches = tuple(watch.watch for watch in config.defence.monitors)
    own = {"root": federation.root, "validation": federation.validation}
    own = {name: shard for name, shard in own.items() if len(shard)}
    if missing := lacking(watches, own):
        raise ValueError("; ".join(missing))
    world = World(
        cleaner=_cleaner(config, net, front, federation),
        seed=config.seed,
        rounds=config.rounds,
        evaluate_every=config.evaluate_every,
        per_round=config.clients.cohort,
        f=config.f,
        local=config.clients.local,
        momentum=config.clients.momentum,
        dropout=config.clients.dropout,
        late=config.clients.late,
        server=config.server,
        federation=federation,
        threats=threats,
        engine=engine.call(
            {"model": net, "federation": federation, "local": config.clients.local, "recipe": _recipe(config)},
            engine_options,
        ),
        defence=config.defence.chain,
        evaluator=Evaluator(net, seen, aims, federation.validation, honest),
        layers=layers_of(net),
        probe=RootProbe(net, dataset.task, federation.root) if data.root else None,
        drills=drills,
        monitors=watches,
        exams={name: Examiner(net, dataset.task, shard) for name, shard in own.items()} if watches else {},
    )
    return world, State(round=0, params=params, previous=torch.zeros_like(params))


def _cleaner(config: Config, net: nn.Module, front: nn.Module | None, federation: Federation) -> Cleaner | None:
    """What honest clients clean their samples with, if they do; ValueError if they, or the net, lack what it takes."""
    chosen = config.defence.client
    if not chosen.sanitize:
        return None
    looking = [step.name for step in chosen.sanitize if "features" in step.entry.asks]
    if looking and front is None and sum(bool([*m.parameters(recurse=False)]) for m in net.modules()) < 2:
        raise ValueError(f"{looking[0]} looks at what a net's last layer sees, and this one has no layer before it")
    steps = tuple(step.step for step in chosen.sanitize)
    lacking = [problem for entry, options in steps if entry.check for problem in entry.tell("check", **options)]
    if lacking:
        raise ValueError("; ".join(lacking))
    return Cleaner(steps, chosen.every, chosen.start, net, federation, config.seed)


def _net(config: Config, dataset: Dataset) -> tuple[nn.Module, Params, nn.Module | None]:
    """The net that is trained, its parameters before the first round, and the frozen net in front of it, if any."""
    entry, options = config.model.step
    stream = Stream(config.seed, "model")
    shown = {"input_shape": dataset.input_shape, "n_classes": dataset.n_classes, "vocabulary": dataset.vocabulary}
    check_memory(config, shown)
    with drawing_from(stream):  # alone, for clients in other threads may be drawing
        torch.manual_seed(stream.integer())
        net = _prepared(entry.call(shown, options), config, dataset)
        check_net(net, dataset.input_shape, dataset.task.outputs, dataset.vocabulary)
    warm, cold = config.warm_start, flatten(net)
    if not (warm and warm.file):
        return net, cold, None
    trained = load_params(Path(warm.file), cold)
    if not warm.train_last:
        return net, trained, None
    load(net, trained)
    front, end = frozen.split(net, warm.train_last)
    params = flatten(end)
    return end, cold[-len(params) :] if warm.fresh else params, front


def _recipe(config: Config) -> Recipe | None:
    """What a client's training depends on, as text; files of the user's are named by their whole path."""
    table, (entry, options) = config.table(), config.engine.step
    carried = find("engine", entry.bits_of or config.engine.name)
    kept = ["name", "seed", "rounds", "data", "model", "clients", "threat"]
    kept += ["warm_start"] if config.warm_start and config.warm_start.file else []
    table = {name: table[name] for name in kept}
    told = {name: value for name, value in options.items() if name in carried.options and value is not None}
    table["engine"] = {"name": entry.bits_of or config.engine.name, **told}
    if any(component.given for key, component in config.components.items() if key.partition(".")[0] in kept):
        return None  # other processes have not got it
    digests = {key: digest for key, digest in config.digests.items() if key.partition(".")[0] in kept}
    return Recipe(json.dumps({"experiment": table, "digests": digests}), trainer)


_building = threading.Lock()
"""A net is built and tried out with torch's global generator: two threads at it would disturb each other."""


def trainer(text: str) -> Engine:
    """The engine that a recipe's text stands for, built once."""
    with _building:
        return _trainer(text)


@lru_cache(maxsize=2)
def _trainer(text: str) -> Engine:
    given = json.loads(text)
    config = parse(given["experiment"])
    if config.digests != given["digests"]:
        raise ValueError(f"here the user's files are {config.digests}, where it was started {given['digests']}")
    return build(config)[0].engine


def _prepared(net: Any, config: Config, dataset: Dataset) -> Any:
    """The net with its dropout drawn from streams, behind a layer that normalises if the data say so.

    Triggers are so set in the plain picture.
    """
    chosen = config.data.normalise
    if not isinstance(net, nn.Module):
        return net
    net = with_streams(net)
    if chosen is None:
        return net
    if dataset.vocabulary is not None:
        raise ValueError("data.normalise is for numbers, and these samples are tokens")
    if len(chosen.mean) != dataset.input_shape[0]:
        raise ValueError(f"data.normalise has {len(chosen.mean)} means for samples of shape {dataset.input_shape}")
    layers = net if type(net) is nn.Sequential else [net]
    return nn.Sequential(Normalise(chosen.mean, chosen.std, dataset.input_shape), *layers)


def _threats(config: Config, dataset: Dataset) -> tuple[Threat, ...]:
    """The groups of attackers, all at different clients; ValueError if an attack is not for these samples."""
    taken = {client for group in config.threat.each for client in group.clients or ()}
    made = []
    for number, (group, count) in enumerate(zip(config.threat.each, config.counts, strict=True)):
        data, training, update = (
            attack.step if attack else None for attack in (group.data, group.training, group.update)
        )
        if data:
            _check_fits(data, dataset)
        fixed = frozenset(group.clients or ())
        if config.threat.draw == "fixed" and not fixed:
            fixed = Threat.draw_ids(Stream(config.seed, "malicious"), config.clients.count, count, taken)
        taken |= fixed
        made.append(
            Threat(
                malicious=count,
                draw=config.threat.draw,
                knows=tuple(group.knows),
                data=data,
                training=training,
                update=update,
                schedule=group.schedule.after(config.warm_rounds),
                clients=config.clients.count,
                sybils=group.sybils,
                actor=group.actor,
                fixed_ids=fixed,
                number=number,
            )
        )
    return tuple(made)


def _check_fits(attack: Step, dataset: Dataset) -> None:
    entry, options = attack
    problems = list(entry.tell("check", dataset.n_classes, **options)) if entry.check else []
    if dataset.kind not in entry.samples:
        problems.append(f"{entry.name} is for {' or '.join(entry.samples)}, and these samples are {dataset.kind}")
    if problems:
        raise ValueError("; ".join(problems))


def _dataset(chosen: Component) -> Dataset:
    """The data set that was chosen."""
    entry, options = chosen.step
    made = _loaded(entry.function, json.dumps(options, sort_keys=True), json.dumps(chosen.digests))
    if not isinstance(made, Dataset):
        what = "nothing" if made is None else f"a {type(made).__name__}"
        raise entry.fault(f"must return a Dataset, and returns {what}")
    return made


@lru_cache(maxsize=2)
def _loaded(load: Any, options: str, digests: str) -> Any:
    """What a loader returns; `digests`: of the files that it reads, so that an edited one is read anew."""
    return load.entry.call({}, json.loads(options), Stream(0, "data"))
