"""The monitors of a server: what they are shown, and what is done when they raise an alarm."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, get_args

from torch import Tensor

from fedpoison.common.errors import AlgorithmError
from fedpoison.contract.entry import Entry, Step, in_words
from fedpoison.contract.results import unpack
from fedpoison.contract.words import supplied
from fedpoison.defences.memory import ByStep
from fedpoison.defences.situation import Situation
from fedpoison.types import Alarm, Event, Exam, Params, Series, State, Verdict

Action = Literal["warn", "rollback", "stop", "quarantine"]


@dataclass(frozen=True)
class Watch:
    """A monitor, and what the server does on its alarms.

    "warn": nothing more; "rollback": take the round's step back; "stop": end the run with the round; "quarantine": draw
    none of the suspects in the next so many rounds (`for_rounds`).
    """

    step: Step
    action: Action = "warn"
    for_rounds: int | None = None

    def __post_init__(self) -> None:
        span = self.for_rounds
        if (span is None) == (self.action == "quarantine") or (span is not None and span < 1):
            given = f"action = {self.action!r}, for_rounds = {span}"
            raise ValueError(f"for_rounds, at least 1, says how long a quarantine lasts and nothing else: {given}")


@dataclass(frozen=True)
class Watched:
    """What the monitors made of a round: events, what is to be done, and their memories.

    `rollback`: its step is taken back; `stop`: it is the last; `quarantine`: for how many rounds whom is not drawn.
    """

    events: tuple[Event, ...]
    memory: Mapping[str, Tensor]
    rollback: bool = False
    stop: bool = False
    quarantine: Mapping[int, int] = field(default_factory=dict)


def lacking(watches: Sequence[Watch], samples: Collection[str]) -> list[str]:
    """What monitors lack where the server has these sets of samples of its own, of "root" and "validation"."""
    steps = [watch.step for watch in watches if watch.step[0].check]
    return [f"{entry.name}: {what}" for entry, options in steps for what in entry.tell("check", samples, **options)]


def watch(
    watches: Sequence[Watch], verdict: Verdict, situation: Situation, memory: Mapping[str, Tensor], after: Params
) -> Watched:
    """Show a round's verdict to all monitors, and what the model does that it would give, `after`.

    One that fails is an event and remembers what it did before.
    """
    memories, events, actions, quarantine = ByStep(memory), list[Event](), set[Action](), dict[int, int]()
    view = View(verdict, situation, after)
    for place, each in enumerate(watches):
        entry, name = each.step[0], f"monitor{place}"
        try:
            alarm, kept = _look(each.step, view, memories.of(name), place)
        except Exception as error:
            said = str(error) if isinstance(error, AlgorithmError) else f"{entry.name} fails with {in_words(error)}"
            events.append(Event("monitor_failed", detail=said))
            continue
        memories.keep(name, None, kept)
        if alarm:
            events.append(Event("alarm", alarm.suspects, f"{entry.name}: {alarm.detail}"))
            actions.add(each.action)
            if each.for_rounds:
                quarantine |= {client: max(each.for_rounds, quarantine.get(client, 0)) for client in alarm.suspects}
    if "rollback" in actions:
        events.append(Event("rollback", detail="the model is what it was before this round"))
    if quarantine:
        span = " or ".join(map(str, sorted({*quarantine.values()})))
        events.append(Event("quarantine", tuple(sorted(quarantine)), f"not drawn for {span} rounds"))
    if "stop" in actions:
        events.append(Event("stop", detail="the run ends with this round"))
    return Watched(tuple(events), memories.whole, "rollback" in actions, "stop" in actions, quarantine)


class View:
    """What a server sees of a round, as series and by classes; each set of samples is looked at once."""

    def __init__(self, verdict: Verdict, situation: Situation, after: Params) -> None:
        self.verdict, self.situation, self._after = verdict, situation, after
        self._exam = cache(self._examined)

    def _examined(self, samples: str) -> Exam:
        if samples not in self.situation.exams:
            raise AlgorithmError(f"the server has no {samples} samples of its own")
        return self.situation.exams[samples](self._after)

    def reading(self, series: str) -> float:
        """The round's value of a series."""
        if series == "norm":
            return float(self.verdict.update.double().norm())
        if series == "median_norm":
            return float(self.verdict.norms[self.verdict.norms.isfinite()].double().quantile(0.5))
        samples, _, what = series.partition("_")
        if series not in get_args(Series):
            raise AlgorithmError(f"there is no series {series!r}; there are {', '.join(get_args(Series))}")
        return self._exam(samples).accuracy if what == "accuracy" else self._exam(samples).loss

    def recalls(self, samples: str) -> tuple[Tensor, Tensor]:
        """Of each class the share that is right, and how many samples there are."""
        exam = self._exam(samples)
        return exam.right.clone(), exam.sizes.clone()


def _look(step: Step, view: View, memory: State, place: int) -> tuple[Alarm | None, State]:
    (entry, options), verdict, situation = step, view.verdict, view.situation
    stream = situation.stream.of("monitor")._replace(client=place)
    makers: dict[str, Callable[[], Any]] = {
        "update": lambda: verdict.update,
        "norms": lambda: verdict.norms,
        "weights": lambda: verdict.weights,
        "flagged": lambda: verdict.flagged,
        "client_ids": lambda: situation.client_ids,
        "params": lambda: situation.params,
        "previous": lambda: situation.previous,
        "reading": lambda: view.reading,
        "recalls": lambda: view.recalls,
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
