"""The monitors of a server: what they are shown, and what is done when they raise an alarm."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from fedpoison.common.errors import AlgorithmError
from fedpoison.contract.entry import Entry, Step, in_words
from fedpoison.contract.results import unpack
from fedpoison.contract.words import supplied
from fedpoison.defences.memory import ByStep
from fedpoison.defences.situation import Situation
from fedpoison.types import Alarm, Event, State, Verdict

Action = Literal["warn", "rollback"]


@dataclass(frozen=True)
class Watch:
    """A monitor, and what the server does on its alarms: "warn", or "rollback", take the round's step back."""

    step: Step
    action: Action = "warn"


@dataclass(frozen=True)
class Watched:
    """What the monitors made of a round: events, whether its step is taken back, and their memories."""

    events: tuple[Event, ...]
    rollback: bool
    memory: Mapping[str, Tensor]


def watch(watches: Sequence[Watch], verdict: Verdict, situation: Situation, memory: Mapping[str, Tensor]) -> Watched:
    """Show a round's verdict to all monitors. One that fails is an event and remembers what it did before."""
    memories, events, rollback = ByStep(memory), list[Event](), False
    for place, each in enumerate(watches):
        entry, name = each.step[0], f"monitor{place}"
        try:
            alarm, kept = _look(each.step, verdict, situation, memories.of(name), place)
        except Exception as error:
            said = str(error) if isinstance(error, AlgorithmError) else f"{entry.name} fails with {in_words(error)}"
            events.append(Event("monitor_failed", detail=said))
            continue
        memories.keep(name, None, kept)
        if alarm:
            events.append(Event("alarm", alarm.suspects, f"{entry.name}: {alarm.detail}"))
            rollback |= each.action == "rollback"
    if rollback:
        events.append(Event("rollback", detail="the model is what it was before this round"))
    return Watched(tuple(events), rollback, memories.whole)


def _look(step: Step, verdict: Verdict, situation: Situation, memory: State, place: int) -> tuple[Alarm | None, State]:
    entry, options = step
    stream = situation.stream.of("monitor")._replace(client=place)
    makers: dict[str, Callable[[], Any]] = {
        "update": lambda: verdict.update,
        "norms": lambda: verdict.norms,
        "weights": lambda: verdict.weights,
        "flagged": lambda: verdict.flagged,
        "client_ids": lambda: situation.client_ids,
        "params": lambda: situation.params,
        "previous": lambda: situation.previous,
        "state": lambda: memory,
        "rng": stream.torch,
    }
    made = entry.call(supplied(entry.kind, entry.asks, makers), options, stream)
    alarm, kept = unpack(entry, made) if "state" in entry.asks else (made, memory)
    return _as_alarm(entry, alarm, situation.client_ids.tolist()), kept


def _as_alarm(entry: Entry, made: Any, clients: Sequence[int]) -> Alarm | None:
    if made is not None and not isinstance(made, Alarm):
        raise entry.fault(f"must return an Alarm or None, not {type(made).__name__}")
    if made and (strangers := sorted({*made.suspects} - {*clients})):
        raise entry.fault(f"suspects {strangers}, who are not among this round's clients")
    return made
