"""A run from its configuration: build the world, play the rounds, write them down, take up where it was cut."""

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from fedpoison.common import parallel
from fedpoison.common.errors import DamagedError
from fedpoison.common.seeding import settings_kept
from fedpoison.config.config import Config
from fedpoison.contract import usercode
from fedpoison.contract.vocabulary import Record, stopped
from fedpoison.round import State, play
from fedpoison.runs.checkpoints import load_params
from fedpoison.runs.records import RunFolder
from fedpoison.runs.world import build
from fedpoison.types import Event

EDITED = "a file of yours was edited since the experiment began: run it again"


def simulate(config: Config, out: Path, report: Callable[[Record], None] = lambda record: None) -> RunFolder:
    """Run one configuration in `out/<name>/<hash>`; a finished run is left alone, a cut one is taken up.

    What is damaged is made again: a description from the configuration, results from the first round, with an event.
    `report` gets every record, also those that were written before.
    """
    folder = RunFolder(out / config.name / config.hash)
    if not folder.finished:
        with folder.locked(), parallel.using(config.workers):
            if not folder.finished and not folder.mend(config.table(), config.labels()):
                return _play_rounds(folder, config, report, out)
    folder.touch()
    for record in folder.records():
        report(record)
    return folder


def _play_rounds(folder: RunFolder, config: Config, report: Callable[[Record], None], out: Path) -> RunFolder:
    there = set(sys.modules)
    world, state = build(config)
    if config.hash != folder.path.name:
        raise ValueError(EDITED)
    (folder.path / "error.txt").unlink(missing_ok=True)
    taken, events = _take_up(folder)
    state = taken or _begin(folder, config, state, out)
    if changes := folder.describe(config.table(), config.labels()):
        events.append(Event("resumed", detail=changes))
    over = state.round == config.rounds
    for record in folder.records():
        report(record)
        over |= stopped(record)
    try:
        while not over:
            with settings_kept():  # a user's net may change them
                state, record = play(state, world)
            record["events"][:0] = [event.as_dict() for event in events]
            events, over = [], state.round == config.rounds or stopped(record)
            if over:
                record["events"] += [event.as_dict() for event in _uncounted(config, there)]
            folder.append(record, state)
            report(record)
    except BaseException:
        with suppress(OSError):  # a full disk is what was raised already, or is nothing to an interrupt
            folder.save_last()
        raise
    folder.finish(state.params)
    return folder


def _take_up(folder: RunFolder) -> tuple[State | None, list[Event]]:
    """The state to go on from, if there is one, and what is to be said of files that were damaged."""
    try:
        state = folder.resume()
        return state, [Event("damaged", detail=f"{folder.cut_off}: cut off")] if folder.cut_off else []
    except DamagedError as error:
        folder.clear()
        return None, [Event("damaged", detail=f"{error}; the run was made again from its start")]


def _uncounted(config: Config, before: set[str]) -> list[Event]:
    """What is said of modules of the user's that the run has imported and its hash does not count."""
    codes = usercode.of(component.entry.function for component in config.components.values())
    files = sorted({file for code in codes for file in code.uncounted(before)})
    return [
        Event("uncounted", detail=f"{file} was imported by no import statement: the hash knows nothing of it")
        for file in files
    ]


def _begin(folder: RunFolder, config: Config, cold: State, out: Path) -> State:
    """The state before the first round that is the run's own, with the rounds it shares with others written down."""
    if not config.warm_rounds:
        return cold
    prefix = config.prefix()
    shared = RunFolder(out / prefix.name / prefix.hash)
    with shared.locked(wait=True):
        if not shared.finished:
            _play_rounds(shared, prefix, lambda record: None, out)
    folder.begin_with(shared.records())
    return replace(cold, round=prefix.rounds, params=load_params(shared.model, cold.params))
