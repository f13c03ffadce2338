"""The defence: screen the updates, mix them, aggregate them.

However long the chain, the updates are read once to screen them, once for the Gram matrix if anything asks
for it, and once to form the aggregate (see rows.py).
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fedpoison.common import parallel
from fedpoison.common.seeding import Stream, drawing_from, drawn
from fedpoison.contract.entry import Entry, Step, own_f, told
from fedpoison.contract.results import as_chosen, as_mixing, as_scores, as_tensor, as_vector, as_weights, unpack
from fedpoison.contract.vocabulary import NOTHING_LEFT, REFERENCES
from fedpoison.contract.words import WORDS, supplied
from fedpoison.defences.memory import BASE, RULE, ByStep
from fedpoison.defences.rows import Rows, screen, spread
from fedpoison.defences.situation import Situation
from fedpoison.linalg.blocks import row_norms
from fedpoison.types import Base, Chosen, Event, Layer, Norms, Update, Updates, Verdict

_OF_CLIENTS = {word for word, told in WORDS["aggregator"].items() if told.of_clients} | {"zero_model"}
"""What a rule cannot ask for when it is another's base: its rows may be parts of updates, or made up."""


@dataclass(frozen=True)
class Defence:
    """A chain of registered steps, to be called with updates [n, d], or n tensors of any shape, and a Situation.

    `base`: the rule that `rule` is built around, if it asks for one.
    """

    pre: tuple[Step, ...]
    rule: Step
    base: Step | None = None

    @property
    def steps(self) -> tuple[Step, ...]:
        """The pre-aggregators, then the rule."""
        return (*self.pre, self.rule)

    @cached_property
    def references(self) -> tuple[str, ...]:
        """The reference rows that some step asks for; a norm is a distance from the origin once rows are mixed."""
        asked = {name for entry, _ in self.steps for name in entry.references}
        if self.pre and any("norms" in entry.asks for entry, _ in self.steps[1:]):
            asked.add("origin")
        return tuple(name for name in REFERENCES if name in asked)

    @cached_property
    def wants_root(self) -> str | None:
        """The step that needs the server's root set, or None."""
        words = {"root_update", "probe"}
        return next((e.name for e, _ in self.steps if words & {*e.asks, *e.references}), None)

    @cached_property
    def trains_root(self) -> bool:
        """Whether some step asks for what training on the root set gives."""
        return any("root_update" in (*e.asks, *e.references) for e, _ in self.steps)

    @cached_property
    def probes(self) -> bool:
        """Whether the rule tries models on the root set."""
        return "probe" in self.rule[0].asks

    def budget(self, f: int) -> int:
        """The fewest attackers that a step is told of, if a step without an f of its own is told f."""
        return min((told(step, f)[2] for step in self.steps if "f" in step[0].asks), default=f)

    def after(self, screened: int) -> "Defence":
        """The same where so many were set aside: an f of a step's own is of all clients, as is what others are told."""

        def fewer(step: Step) -> Step:
            (entry, options), own = step, own_f(step)
            return step if own is None else (entry, {**options, "f": max(0, own - screened)})

        base = self.base and fewer(self.base)
        return replace(self, pre=tuple(map(fewer, self.pre)), rule=fewer(self.rule), base=base)

    def drawing(self, stream: Stream) -> AbstractContextManager[None]:
        """What it is called in: the global generators, which a user's step may draw from, begin at the stream."""
        steps = (*self.steps, *([self.base] if self.base else []))
        return nullcontext() if all(entry.ours for entry, _ in steps) else drawing_from(stream)

    def problems(self, n: int, f: int) -> list[str]:
        """What the chain cannot take about n clients of which f are malicious, each with the bound it breaks."""
        found, merged = [], ""
        if f < 0:
            found.append(f"f must be at least 0, it is {f}")
        all_f = {f, *(told(step, f)[2] for step in self.steps)}
        found += [f"f = {each} is more than the n = {n} clients" for each in sorted(all_f) if each > n]
        for entry, options, f in [told(step, f) for step in self.steps]:
            broken = entry.requirement(n, f, options)
            if broken:
                found.append(broken)
            if merged and "client_ids" in entry.asks:
                found.append(f"{entry.name} asks who sent each row, and {merged} merges clients")
            if "base" in entry.asks:
                found += self._base_problems(entry, options, n, f)
            elif self.base and entry is self.rule[0]:
                found.append(f"base = {self.base[0].name!r} is for rules built around another; {entry.name} is not")
            if entry.rows:
                n, merged = entry.count("rows", n, **options), entry.name
        return found

    def misfits(self, layers: tuple[Layer, ...]) -> list[str]:
        """What the rule cannot take about a net of these layers."""
        entry, options = self.rule
        return list(entry.tell("check", layers, **options)) if entry.check else []

    def _base_problems(self, entry: Entry, options: Mapping[str, Any], n: int, f: int) -> list[str]:
        if self.base is None:
            return [f"{entry.name} is built around another rule: give defence.base"]
        inner, _ = self.base
        words = _OF_CLIENTS & {*inner.asks, *inner.references}
        if words:
            return [f"{entry.name} shows its base rows that no client sent, and {inner.name} asks for {min(words)}"]
        rows = entry.count("base_rows", n, f, **options) if entry.base_rows else n
        return [f"in {entry.name}: {problem}" for problem in Defence((), self.base).problems(rows, f)]

    def robustness(self, n: int, f: int) -> float | None:
        """The κ at which the chain is known to be (f, κ)-robust for n clients; None where a part of it has no bound."""
        if any(told(step, f)[2] != f for step in self.steps):
            return None
        (rule, options, _), *before = [told(step, f) for step in reversed(self.steps)]
        kappa = rule.robustness(n, f, options)
        for step, options, _ in before:
            kappa = None if kappa is None else step.robustness(n, f, options, kappa)
        return kappa

    def __call__(self, updates: Tensor | Sequence[Tensor], situation: Situation) -> Verdict:
        """Screen the updates and aggregate the rest; a round that cannot be aggregated is skipped and says why."""
        if len(updates) != len(situation.client_ids):
            raise ValueError(f"there are {len(updates)} updates from {len(situation.client_ids)} clients")
        kept, norms, events = screen(updates, situation.params, situation.client_ids)
        n, screened = len(kept), len(updates) - len(kept)
        f, chain = max(0, situation.f - screened), self.after(screened) if screened else self
        problems = chain.problems(n, f) if n else [NOTHING_LEFT]
        if self.trains_root and (situation.root_update is None or not situation.root_update.isfinite().all()):
            problems.append(f"{self.wants_root} needs a root update, and there is none that is finite")
        if self.probes and situation.probe is None:
            problems.append(f"{self.wants_root} needs a probe of the root set, and there is none")
        if problems:
            return _skip(situation, norms, events, "; ".join(problems))
        if isinstance(updates, Tensor) and not screened:
            rows = updates.to(situation.params.dtype)
        else:
            rows = torch.stack([updates[i].to(situation.params.dtype) for i in kept.tolist()])
        ids, sizes = situation.client_ids[kept], situation.sizes[kept]
        verdict = chain._aggregate(rows, norms[kept], replace(situation, f=f, client_ids=ids, sizes=sizes))
        made = verdict.update.to(situation.params.dtype)
        if not torch.stack(made.aminmax()).isfinite().all():
            return _skip(situation, norms, (*events, *verdict.events), "the aggregate is not finite")
        weights = spread(verdict.weights, kept, len(updates), 0.0)
        flagged = spread(verdict.flagged, kept, len(updates), True)
        scores = spread(verdict.scores, kept, len(updates), torch.inf)
        events = (*events, *verdict.events)
        return replace(
            verdict, update=made, norms=norms, weights=weights, flagged=flagged, scores=scores, events=events
        )

    def _aggregate(
        self, updates: Updates, norms: Norms, situation: Situation, rng: torch.Generator | None = None
    ) -> Verdict:
        course = _Course(rng or situation.stream.torch(), [], ByStep(situation.state))
        vectors = {"previous": situation.previous, "root_update": situation.root_update}
        if "zero_model" in self.references:
            vectors["zero_model"] = -situation.params
        origin = updates.new_zeros(updates.shape[1] if self.references else 0)
        references = {name: origin if (vector := vectors.get(name)) is None else vector for name in self.references}
        rows = Rows(updates, norms, situation.sizes.double(), references)
        for place, (entry, options, f) in enumerate(told(step, situation.f) for step in self.pre):
            own = f"pre{place}"
            mixing = entry.call(self._supply(entry, rows, replace(situation, f=f), course, own), options)
            if "state" in entry.asks:
                mixing = course.memory.keep(own, *unpack(entry, mixing))
            into = entry.count("rows", rows.count, **options) if entry.rows else rows.count
            rows = rows.mixed(as_mixing(entry, mixing, into, rows.count))
        verdict, scores = self._apply_rule(rows, situation, course), self._scores(rows, situation, course)
        events = tuple(dict.fromkeys(course.said))
        return replace(verdict, scores=scores, state=course.memory.whole, events=events)

    def _apply_rule(self, rows: Rows, situation: Situation, course: "_Course") -> Verdict:
        entry, options, f = told(self.rule, situation.f)
        situation = replace(situation, f=f)
        supply = self._supply(entry, rows, situation, course, RULE)
        if entry.coordinatewise:

            def rule(block: Updates) -> Update:
                made = as_tensor(entry, entry.call({**supply, "updates": block}, options), "[d]")
                return as_vector(entry, made.to(block.dtype), block.shape[1])

            before = None if entry.ours else drawn()
            update = rows.by_columns(rule)
            if before and drawn() != before:  # it draws: on several threads in any order, on one in the blocks'
                with drawing_from(situation.stream), parallel.using(1):
                    update = rows.by_columns(rule)
            return Verdict(update)
        result = entry.call(supply, options)
        if "state" in entry.asks:
            result = course.memory.keep(RULE, *unpack(entry, result))
        decided = entry.decides and all(step.keeps_clients for step, _ in self.pre)
        d = len(situation.params)
        if isinstance(result, Chosen):
            update, kept = as_chosen(entry, result, rows.count, d)
            return Verdict(update.clone(), flagged=~kept if decided else None)
        if entry.returns == "update":
            return Verdict(as_vector(entry, result, d).clone())
        given, noise = as_weights(entry, result, rows.count + len(entry.references))
        update, weights = rows.combine(given, entry.references)
        if noise:  # drawn in float64, so that both precisions get the same
            update += (noise * torch.randn(len(update), generator=course.rng, dtype=torch.float64)).to(update.dtype)
        flagged = given[: rows.count] == 0 if decided else None
        return Verdict(update, weights=weights, flagged=flagged)

    def _scores(self, rows: Rows, situation: Situation, course: "_Course") -> Tensor | None:
        """What the rule thinks of each client, where it has a number for it and a client is behind each row."""
        entry, _, f = told(self.rule, situation.f)
        if entry.scores is None or not all(step.keeps_clients for step, _ in self.pre):
            return None
        return as_scores(entry, self._supply(entry, rows, replace(situation, f=f), course, RULE), rows.count)

    def _supply(self, entry: Entry, rows: Rows, situation: Situation, course: "_Course", own: str) -> dict[str, Any]:
        """What a step asks for; its memory is that of its `own` place in the chain."""
        makers: dict[str, Callable[[], Any]] = {
            "n": lambda: rows.count,
            "f": lambda: situation.f,
            "updates": lambda: None if entry.coordinatewise else rows.updates,
            "gram": lambda: rows.gram(entry.references),
            "squared_distances": lambda: rows.squared_distances(entry.references),
            "norms": lambda: rows.norms.clone(),
            "sizes": lambda: rows.sizes.clone(),
            "client_ids": lambda: situation.client_ids,
            "previous": lambda: situation.previous,
            "root_update": lambda: situation.root_update,
            "params": lambda: situation.params,
            "say": lambda: lambda text: course.said.append(Event("defence", detail=f"{entry.name}: {text}")),
            "rng": lambda: course.rng,
            "state": lambda: course.memory.of(own),
        }
        if entry.kind == "aggregator":
            makers |= {
                "layers": lambda: situation.layers,
                "base": lambda: self._base(situation, course),
                "probe": lambda: situation.probe,
            }
        return supplied(entry.kind, entry.asks, makers)

    def _base(self, situation: Situation, course: "_Course") -> Base:
        """The base rule as a function of rows; no client is behind them, so each counts the same.

        What it remembers goes on from call to call, and from round to round.
        """
        if self.base is None:
            raise ValueError("no base rule is given")
        inner = Defence((), self.base)

        def base(updates: Updates, f: int) -> Update:
            ids, sizes = torch.arange(len(updates)), torch.ones(len(updates), dtype=torch.float64)
            problems = inner.problems(len(updates), f)
            if problems:
                raise ValueError("; ".join(problems))
            seen = replace(
                situation,
                f=f,
                client_ids=ids,
                sizes=sizes,
                params=updates[0],
                previous=updates[0],
                state=course.memory.of(BASE),
            )
            verdict = inner._aggregate(updates, row_norms(updates), seen, course.rng)
            course.memory.keep(BASE, None, verdict.state)
            course.said.extend(verdict.events)
            return verdict.update

        return base


@dataclass(frozen=True)
class _Course:
    """What goes through a chain from step to step besides the rows: chance, remarks, memories."""

    rng: torch.Generator
    said: list[Event]
    memory: ByStep


def _skip(situation: Situation, norms: Norms, events: tuple[Event, ...], why: str) -> Verdict:
    nothing = torch.zeros_like(situation.params)
    return Verdict(nothing, norms, events=(*events, Event("skipped", detail=why)), state=situation.state, skipped=True)
