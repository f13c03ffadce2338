"""Any rule of this package as a Flower strategy."""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result
from numpy.typing import NDArray
from torch import Tensor

from fedpoison.api import Named, chain, watched
from fedpoison.common import parallel
from fedpoison.common.seeding import Stream
from fedpoison.contract.entry import in_words
from fedpoison.defences.monitoring import lacking
from fedpoison.defences.situation import Situation
from fedpoison.engines.received import number, said
from fedpoison.flower.arrays import Layout, Model
from fedpoison.round import State
from fedpoison.runs.checkpoints import load_state, save_state
from fedpoison.server import Served, Server
from fedpoison.types import Event, Params, Probe, Update, Verdict

_log = logging.getLogger("flwr")


@dataclass(frozen=True)
class Taken:
    """A reply that is what was asked for, and how many samples it counts for."""

    content: RecordDict
    model: Model
    size: float


class RobustStrategy(FedAvg):
    """FedAvg's way of choosing nodes, with a rule of this package in place of the average.

    What is aggregated are updates, local minus global arrays, and they count the same whatever a client claims, unless
    `sizes` says otherwise: samples by node id as the server knows them, or "reported", the clients' own `num-examples`.
    Running statistics, as BatchNorm's, are observed and not learned. Neither the rule, with its distances and norms,
    nor the server's optimizer sees them: each of their numbers becomes the lower median of the clients', as the numbers
    of integer arrays do. They are told by names that end in running_mean, running_var, num_batches_tracked, moving_mean
    or moving_variance, or in what `statistics` adds (arrays that were given as a list have the names "0", "1", …).
    A reply that is not what was asked for (arrays, shapes, types, numbers that are not finite, a second one, one of
    another round) costs that client and is an event; a round that cannot be aggregated leaves the model as it is.

    `f`: how many clients of a round may be malicious. `pre`, `base`, `options`: as for `fedpoison.aggregate`. `server`:
    the optimizer that the aggregate goes through, with rates over the rounds that `start` is told of. `monitors`:
    names, or tables with options and what is done on an alarm, `action` = "warn" or "rollback". `root`: trains given
    arrays on samples of the server's own, `probe`: their mean loss and error rate on these; for rules that ask.
    `memory`: a file in which what the server remembers is kept from round to round, and from which it is taken up. What
    remains is FedAvg's: fraction_train, min_train_nodes, … Metrics are the medians of what clients say.

    `events` has what happened by round, with node ids; `verdict` is the last round's, its rows those of `clients`;
    `state` is what the server goes on from.
    """

    def __init__(
        self,
        aggregator: Named = "median",
        *,
        f: int = 0,
        pre: Sequence[Named | Mapping[str, Any]] = (),
        base: Named | Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        sizes: Mapping[int, float] | Literal["reported"] | None = None,
        statistics: Collection[str] = (),
        server: Server | None = None,
        monitors: Sequence[Named | Mapping[str, Any]] = (),
        root: Callable[[ArrayRecord], ArrayRecord] | None = None,
        probe: Callable[[ArrayRecord], tuple[float, float]] | None = None,
        memory: str | Path | None = None,
        seed: int = 0,
        **fedavg: Any,
    ) -> None:
        super().__init__(**fedavg)
        self._defence, self._f, self._seed, self._sizes = chain(aggregator, pre, options, base), f, seed, sizes
        if self._defence.probes and probe is None:
            raise ValueError(f"{self._defence.wants_root} needs probe: what tries arrays on the server's own samples")
        if self._defence.trains_root and root is None:
            raise ValueError(f"{self._defence.wants_root} needs root: what trains on the server's own samples")
        if problems := self._defence.problems(max(self.min_train_nodes, 2), f):
            raise ValueError("; ".join((*problems, "give min_train_nodes, the least number of clients in a round")))
        self._server, self._root, self._probe = server or Server(), root, probe
        self._monitors, self._statistics = tuple(map(watched, monitors)), tuple(statistics)
        if missing := lacking(self._monitors, ()):
            raise ValueError(f"{missing[0]}, which runs of an experiment have")
        if others := [each.action for each in self._monitors if each.action not in ("warn", "rollback")]:
            raise ValueError(f"action = {others[0]!r} is for runs of an experiment; here Flower draws and counts")
        self._file = None if memory is None else Path(memory)
        self._own_train, self._own_evaluate = (fedavg.get(f"{n}_metrics_aggr_fn") for n in ("train", "evaluate"))
        self.events: dict[int, list[Event]] = {}
        self.verdict: Verdict | None = None
        self.clients: list[int] = []
        self._arrays, self._layout, self._asked = ArrayRecord(), Layout(ArrayRecord()), set[int]()
        self._before, self._rounds, self._ids = 0, 0, dict[int, int]()
        self.state: State | None = None
        if self._file and self._file.is_file():
            self.resume(self._file)

    def summary(self) -> None:
        """Say which rule it is, and the rest as FedAvg does."""
        names = " + ".join(entry.name for entry, _ in self._defence.steps)
        _log.info("\t├──> Rule: %s, f = %s, weights: %s", names, self._f, _weights(self._sizes))
        super().summary()

    def start(self, grid: Grid, initial_arrays: ArrayRecord, num_rounds: int = 3, *more: Any, **named: Any) -> Result:
        """As FedAvg does; rounds are counted on from those before, and rates go over all of them."""
        self._before = self.state.round if self.state else 0
        self._rounds = self._before + num_rounds
        return super().start(grid, initial_arrays, num_rounds, *more, **named)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As FedAvg does, remembering what was sent to whom."""
        self._arrays, self._layout = arrays, Layout(arrays, self._statistics)
        if self.state and len(self.state.params) != self._layout.d:
            was = len(self.state.params)
            raise ValueError(f"the memory is of {was} parameters, and the model has {self._layout.d}")
        if self._server.rates.cosine and not self._rounds:
            raise ValueError("the server's rates fall along a cosine to the last round, and only `start` knows that")
        if misfits := self._defence.misfits(self._layout.layers):
            raise ValueError("; ".join(misfits))
        asked = list(super().configure_train(server_round, arrays, config, grid))
        for message in asked:
            message.metadata.group_id = str(server_round)
        self._asked = {message.metadata.dst_node_id for message in asked}
        return asked

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The global arrays after this round, and the medians of the metrics of those who count."""
        events: list[Event] = []
        taken = self._taken(server_round, replies, events)
        self.clients, number = sorted(taken), self._before + server_round
        for node in self.clients:
            self._ids.setdefault(node, len(self._ids))
        params = self._layout.vector(self._arrays)
        state = self.state or State(round=self._before, params=params, previous=torch.zeros_like(params))
        rows = [taken[node].model.vector - params for node in self.clients]
        situation = Situation(
            # who sent what no honest client does is one of the f; who is silent or fails may be anybody
            f=max(0, self._f - sum(len(event.clients) for event in events if event.what == "set_aside")),
            client_ids=torch.tensor([self._ids[node] for node in self.clients], dtype=torch.int64),
            sizes=torch.tensor([taken[node].size for node in self.clients], dtype=torch.float64),
            params=params,
            previous=state.previous,
            stream=Stream(self._seed, "defence", number),
            state=state.memory_of("defence"),
            root_update=self._layout.vector(self._root(self._arrays)) - params if self._root else None,
            layers=self._layout.layers,
            probe=self._probing(params),
        )
        sent: Sequence[Tensor] | Tensor = torch.stack(rows) if rows else []
        with parallel.using(parallel.workers()):
            served = self._server.serve(
                sent,
                situation,
                self._defence,
                state.memory_of("server"),
                round=number,
                rounds=self._rounds,
                monitors=self._monitors,
                watched=state.memory_of("monitors"),
            )
        self.verdict = verdict = served.verdict
        node_of = {mine: node for node, mine in self._ids.items()}
        events += [Event(e.what, tuple(node_of[c] for c in e.clients), e.detail) for e in verdict.events]
        good = [taken[node] for node in self.clients if not any(node in event.clients for event in events)]
        self.events[server_round] = events
        memories = {"defence": verdict.state, "server": served.memory, "monitors": served.watched}
        memories["nodes"] = as_memory(self._ids)
        self.state = State(round=number, params=served.params, previous=served.previous, memories=memories)
        for event in events:
            _log.warning("round %s: %s %s %s", server_round, event.what, list(event.clients), event.detail)
        if self._file:
            self.save(self._file)
        return self._arrays_of(served, good), self._metrics([reply.content for reply in good], self._own_train)

    def _probing(self, params: Params) -> Probe | None:
        """The user's probe, of the model moved by an update."""
        if (probe := self._probe) is None:
            return None
        others = {key: self._arrays[key] for key in self._layout.others}

        def tried(update: Update) -> tuple[float, float]:
            loss, error = probe(self._layout.record(params + update, others))
            return float(loss), float(error)

        return tried

    def _taken(self, server_round: int, replies: Iterable[Message], events: list[Event]) -> dict[int, "Taken"]:
        """The replies that are what was asked for, by node; what is wrong with the others is an event."""
        taken: dict[int, Taken] = {}
        heard: set[int] = set()
        for reply in replies:
            node, group = reply.metadata.src_node_id, reply.metadata.group_id
            if node not in self._asked:
                events.append(Event("not_asked", (node,)))
            elif group != str(server_round):
                events.append(Event("late", (node,), f"its reply is to round {said(group)}"))
            elif node in heard:
                events.append(Event("twice", (), f"node {node} answered again; its first answer counts"))
            elif reply.has_error():
                heard.add(node)
                events.append(Event("lost", (node,), said(reply.error.reason)))
            else:
                heard.add(node)
                model, size = self._layout.read(reply.content), self._size(node, reply.content)
                problems = [part for part in (model, size) if isinstance(part, str)]
                if problems:
                    events.append(Event("set_aside", (node,), "; ".join(problems)))
                elif isinstance(model, Model) and isinstance(size, float):
                    taken[node] = Taken(reply.content, model, size)
        if silent := tuple(sorted(self._asked - heard)):
            events.append(Event("no_answer", silent))
        return taken

    def _size(self, node: int, content: RecordDict) -> float | str:
        """What a client counts for rules that weight, or why it does not."""
        if self._sizes is None:
            return 1.0
        if self._sizes == "reported":
            told = [record.get(self.weighted_by_key) for record in content.metric_records.values()]
            alone = told[0] if len(told) == 1 else None
            size = number(alone)
            return size if size and size > 0 else f"{self.weighted_by_key} is {said(alone)}"
        return float(self._sizes[node]) if node in self._sizes else "how many samples it has is not known"

    def _arrays_of(self, served: Served, good: Sequence["Taken"]) -> ArrayRecord:
        """The arrays after the round; those that are not learned take a middle client's numbers."""
        if not served.stepped:
            return self._arrays
        others = {key: _middle([reply.model.others[key] for reply in good]) for key in self._layout.others}
        return self._layout.record(served.params, others)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """The medians of the clients' metrics."""
        return self._metrics([reply.content for reply in replies if reply.has_content()], self._own_evaluate)

    def _metrics(self, contents: list[RecordDict], own: Callable[..., MetricRecord] | None) -> MetricRecord | None:
        if own is not None and contents:
            try:
                return own(contents, self.weighted_by_key)
            except Exception as error:  # of a client's making, as likely as not
                _log.warning("metrics cannot be aggregated: %s", said(in_words(error)))
                return None
        told: dict[str, list[float]] = {}
        for content in contents:
            pairs = [pair for record in content.metric_records.values() for pair in record.items()]
            for key, value in dict(pairs).items():  # once a client, whatever it repeats
                if key != self.weighted_by_key and (known := number(value)) is not None:
                    told.setdefault(key, []).append(known)
        made = {key: median(values) for key, values in told.items() if 2 * len(values) > len(contents)}
        return MetricRecord(dict(made)) if made else None

    def save(self, path: str | Path) -> None:
        """Write what the server remembers, atomically, as a run's checkpoint is; nothing before the first round."""
        if self.state:
            save_state(Path(path), self.state)

    def resume(self, path: str | Path) -> None:
        """Take up the memory that was saved; rounds are counted on, so that no random stream comes twice."""
        self.state = load_state(Path(path))
        self._before, self._ids = self.state.round, _from_memory(self.state.memory_of("nodes"))


def as_memory(ids: Mapping[int, int]) -> dict[str, Tensor]:
    """The nodes that have answered, in the order of their numbers here; they are whole numbers below 2^64."""
    return {"ids": torch.from_numpy(np.array(list(ids), dtype=np.uint64).view(np.int64))}


def _from_memory(nodes: Mapping[str, Tensor]) -> dict[int, int]:
    return {node: number for number, node in enumerate(nodes["ids"].numpy().view(np.uint64).tolist())}


def _middle(values: Sequence[NDArray[Any]]) -> Array:
    """Of each number the lower median: always one that some client sent."""
    stacked = np.sort(np.stack(values), axis=0)
    return Array(np.array(stacked[(len(values) - 1) // 2]))


def _weights(sizes: Mapping[int, float] | Literal["reported"] | None) -> str:
    if sizes is None:
        return "the same for all"
    return "as clients report" if sizes == "reported" else "samples the server knows"
