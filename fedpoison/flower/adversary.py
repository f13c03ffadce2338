"""Attacks that need the honest updates, put where the replies come together: any strategy is attacked unchanged."""

from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from fedpoison.api import Named, craft
from fedpoison.attacks.threat import Threat
from fedpoison.common.seeding import Stream
from fedpoison.contract.lookup import find
from fedpoison.flower.arrays import Layout
from fedpoison.types import Verdict


class AdversarialGrid(Grid):
    """Another Grid, some of whose nodes answer training with what an attack makes, knowing all honest replies.

    `malicious`: node ids, or how many of the nodes that are there in the first round, drawn by `seed`. `claims`: the
    num-examples that they report. `defend`: the defence, for attacks that ask for it. `options`: the attack's. The
    attackers' clients train like all others, so what they send has the form of the honest replies. Their running
    statistics are those of their training: the attack sees and makes only what is learned (`statistics`: as for
    RobustStrategy). They answer last: whoever pulls replies by hand gets theirs when all asked honest nodes have
    answered. A training message must hold one ArrayRecord, as all strategies of Flower's send it.
    """

    def __init__(
        self,
        grid: Grid,
        attack: Named,
        *,
        malicious: int | Collection[int],
        claims: int | None = None,
        defend: Callable[[Tensor], Verdict] | None = None,
        statistics: Collection[str] = (),
        seed: int = 0,
        **options: Any,
    ) -> None:
        entry = find("update_attack", attack)
        entry.validate(options)
        if "defend" in entry.asks and defend is None:
            raise ValueError(f"{entry.name} asks for the defence: give defend")
        self._grid, self._attack, self._options, self._defend = grid, attack, options, defend
        self._many, self._claims, self._seed, self._statistics = malicious, claims, seed, tuple(statistics)
        self._nodes = None if isinstance(malicious, int) else frozenset(malicious)
        self._state: dict[str, Tensor] = {}
        self._layout: Layout | None = None
        self._params: Tensor | None = None
        self._previous: Tensor | None = None
        self._round = 0
        self._sent: dict[str, Message] = {}
        self._held: dict[str, Message] = {}
        self._honest: list[Message] = []

    @property
    def run(self) -> Any:
        """The Grid's run."""
        return self._grid.run

    def set_run(self, run: Any) -> None:
        """As the Grid does."""
        self._grid.set_run(run)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """As the Grid does."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """The Grid's nodes."""
        return self._grid.get_node_ids()

    @property
    def malicious(self) -> frozenset[int]:
        """The attackers' node ids."""
        if self._nodes is None:
            there = sorted(self._grid.get_node_ids())
            assert isinstance(self._many, int)
            if self._many > len(there):
                raise ValueError(f"malicious = {self._many} of {len(there)} nodes")
            drawn = Threat.draw_ids(Stream(self._seed, "malicious"), len(there), self._many)
            self._nodes = frozenset(there[i] for i in drawn)
        return self._nodes

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send them, and begin a round of the attack if they are for training."""
        sent = list(messages)
        names = list(self._grid.push_messages(sent))
        self._begin(sent)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that are there; the attackers' are held back until the honest ones have come."""
        asked = set(message_ids)
        return self._through(self._grid.pull_messages(asked - set(self._held)), asked, over=False)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | int | None = None) -> Iterable[Message]:
        """As the Grid does, with the attackers' replies exchanged; at the timeout they answer with what they know."""
        sent = list(messages)
        replies = list(self._grid.send_and_receive(sent, timeout=timeout))
        self._begin(sent)
        return self._through(replies, set(self._sent), over=True)

    def _begin(self, sent: list[Message]) -> None:
        training = {
            message.metadata.message_id: message
            for message in sent
            if message.metadata.message_type.split(".")[0] == MessageType.TRAIN
        }
        if not training:
            return
        self._sent, self._held, self._honest = training, {}, []
        self._round += 1
        (arrays,) = next(iter(training.values())).content.array_records.values()
        if self._layout is None:
            self._layout = Layout(arrays, self._statistics)  # for good: FedAvg makes floating-point numbers of counts
        params = self._layout.vector(arrays)
        self._previous = params - self._params if self._params is not None else torch.zeros_like(params)
        self._params = params

    def _through(self, replies: Iterable[Message], asked: set[str], over: bool) -> list[Message]:
        """What the strategy gets of these replies."""
        passed = []
        for reply in replies:
            name = reply.metadata.reply_to_message_id
            trains = name in self._sent and reply.has_content()
            if trains and reply.metadata.src_node_id in self.malicious:
                self._held[name] = reply
                continue
            if trains:
                self._honest.append(reply)
            passed.append(reply)
            if not over:
                self._sent.pop(name, None)
        waited_for = [m for n, m in self._sent.items() if m.metadata.dst_node_id not in self.malicious]
        mine = [self._held[name] for name in sorted(self._held) if name in asked]
        if mine and (over or not waited_for):
            self._craft(mine)
            passed += mine
            for reply in mine:
                del self._held[reply.metadata.reply_to_message_id]
                self._sent.pop(reply.metadata.reply_to_message_id, None)
        return passed

    def _craft(self, replies: list[Message]) -> None:
        """Put what the attack makes into the attackers' replies."""
        replies.sort(key=lambda reply: reply.metadata.src_node_id)
        self._honest.sort(key=lambda reply: reply.metadata.src_node_id)
        assert self._params is not None
        assert self._layout is not None
        params, layout = self._params, self._layout

        def updates(of: list[Message]) -> Tensor:
            rows = [layout.vector(next(iter(m.content.array_records.values()))) - params for m in of]
            return torch.stack(rows) if rows else params.new_empty(0, len(params))

        honest = self._honest or replies
        crafted = craft(
            self._attack,
            n_malicious=len(replies),
            benign=updates(honest),
            benign_ids=[m.metadata.src_node_id % 2**63 for m in honest],  # Flower's ids have 64 bits
            own=updates(replies),
            n=len(self._honest) + len(replies),
            params=params,
            previous=self._previous,
            defend=self._defend,
            state=self._state,
            seed=self._seed,
            round=self._round,
            **self._options,
        )
        if isinstance(crafted, tuple):
            crafted, self._state = crafted
        for reply, row in zip(replies, crafted, strict=True):
            ((name, trained),) = reply.content.array_records.items()
            reply.content[name] = layout.forged(params, row, trained)
            if self._claims is not None:
                for record in reply.content.metric_records.values():
                    record["num-examples"] = self._claims
