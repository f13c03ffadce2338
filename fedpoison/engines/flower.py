"""The batched engine in the nodes of a Flower federation: a Grid carries parameters out and updates back.

A node trains its own partition, by the same plan and streams, so the bits are those of `batched`, whether the nodes
are in this process, in Flower's simulation on Ray or in a deployment. Node ids are random there and replies come in
any order: one query maps nodes to partitions, and updates stand in the plan's order.
"""

import time
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from fedpoison.clients.federation import Federation
from fedpoison.clients.training import Engine, Local, Plan, Recipe, Trained
from fedpoison.contract.registry import engine
from fedpoison.engines import grids
from fedpoison.engines.batched import batched
from fedpoison.types import Count, Event, Params, Positive


def _bits(transport: str, lost: str, patience: float, stack: int | None) -> list[Any]:
    """A run that goes on without whom it lost is another."""
    return [stack, lost == "event"]


@engine(bits_of="batched", bits=_bits)
def flower(
    model: nn.Module,
    federation: Federation,
    local: Local,
    recipe: Recipe | None,
    *,
    transport: Literal["process", "simulation", "deployment"] = "process",
    lost: Literal["event", "error"] = "error",
    patience: Positive = 600.0,
    stack: Count | None = None,
) -> Engine:
    """The batched engine in Flower's clients, a node a client: the same bits, whatever carries them.

    `transport`: "process"; "simulation", Flower's on Ray, started here unless a ServerApp runs this; "deployment", the
    SuperLink whose ServerApp runs this. `lost`: what a client is that fails or is not heard of for `patience` seconds;
    if an "event", the run goes on without it.
    `stack`: as for batched.
    """
    here = batched(model, federation, local, stack=stack)
    if transport == "deployment" and grids.lent() is None:
        raise ValueError(
            'transport = "deployment" needs the Grid of a ServerApp: start it by `flwr run experiments/flower_app`'
        )
    if transport != "process" and recipe is None:
        raise ValueError(f"transport = {transport!r} needs an experiment that other processes can build again")
    return OnFlower(here, federation.clients, recipe, transport, lost == "error", patience)


class OnFlower:
    """Asks the nodes of a Grid to train."""

    def __init__(
        self, here: Engine, clients: int, recipe: Recipe | None, transport: str, strict: bool, patience: float
    ) -> None:
        self._here, self._clients, self._recipe, self._transport = here, clients, recipe, transport
        self._strict, self._patience = strict, patience
        self._own: Any = None
        self._nodes: dict[int, int] = {}
        self._heard_of: set[int] = set()

    def train(self, params: Params, plan: Plan) -> Trained:
        """Train every client's tasks at its node; those of the server's root set here."""
        from fedpoison.engines.messages import asking, by_client, updates_of

        grid, updates = self._grid(), params.new_full((len(plan.tasks), len(params)), torch.nan)
        places = by_client(plan.tasks)
        parts = {c: replace(plan, tasks=tuple(plan.tasks[i] for i in where)) for c, where in places.items()}
        events: list[Event] = []
        if self._clients in parts:
            updates[places[self._clients]] = self._here.train(params, parts.pop(self._clients)).updates
        nodes = self._find(grid) if parts else {}
        text = self._recipe.text if self._recipe and self._transport != "process" else ""
        asked = {nodes[c]: c for c in parts if c in nodes}
        failed = {c: "its node is not there" for c in parts if c not in nodes}
        replies = grid.send_and_receive(
            [asking(node, params, parts[c], text) for node, c in asked.items()], timeout=self._patience
        )
        for reply in sorted(replies, key=lambda reply: asked.get(reply.metadata.src_node_id, -1)):
            client = asked.pop(reply.metadata.src_node_id, None)
            if client is None:
                continue  # not asked, or a second time
            got = updates_of(reply, client, len(places[client]), params)
            if isinstance(got, str):
                failed[client] = got
                continue
            updates[places[client]], told = got
            events += [event for event in told if event not in events]
        failed |= dict.fromkeys(asked.values(), f"not heard of for {self._patience:.0f} s")
        return Trained(updates, (*events, *self._losses(failed)), tuple(sorted(failed)))

    def _losses(self, failed: dict[int, str]) -> list[Event]:
        if failed and self._strict:
            whole = "; ".join(f"client {client}: {why}" for client, why in sorted(failed.items()))
            raise RuntimeError(f"clients were lost on Flower: {whole}")
        return [Event("lost", (client,), why) for client, why in sorted(failed.items())]

    def _grid(self) -> Any:
        if self._transport == "process":
            if self._own is None:
                from fedpoison.engines.in_process import InProcessGrid
                from fedpoison.engines.messages import client_app

                self._own = InProcessGrid(client_app(lambda text: self._here), self._clients)
            return self._own
        if (grid := grids.lent()) is not None:
            return grid
        from fedpoison.engines.messages import client_app

        assert self._recipe is not None
        return grids.simulated(client_app(self._recipe.make), self._clients)

    def _find(self, grid: Any) -> dict[int, int]:
        """The node of each client; asked anew when nodes come or go."""
        from fedpoison.engines.messages import partition_of, who_are_you

        there = self._wait(grid)
        if there == self._heard_of:
            return self._nodes
        self._heard_of, self._nodes = there, {}
        answers = grid.send_and_receive([who_are_you(node) for node in sorted(there)], timeout=self._patience)
        problems, twice = [], set[int]()
        for reply in answers:
            node, partition = reply.metadata.src_node_id, partition_of(reply, self._clients)
            if isinstance(partition, str):
                problems.append(f"node {node}: {partition}")
            elif self._nodes.setdefault(partition, node) != node:
                problems.append(f"nodes {node} and {self._nodes[partition]} both have partition {partition}")
                twice.add(partition)
        if problems and self._strict:
            raise RuntimeError("; ".join(problems))
        for partition in twice:  # one of them lies, and nobody knows which
            del self._nodes[partition]
        return self._nodes

    def _wait(self, grid: Any) -> set[int]:
        """The nodes that are there; all clients' are waited for before the first round."""
        began = time.monotonic()
        while len(there := set(grid.get_node_ids())) < self._clients and not self._heard_of:
            if time.monotonic() - began > self._patience:
                raise RuntimeError(f"{len(there)} of {self._clients} nodes were there within {self._patience:.0f} s")
            time.sleep(0.2)
        return there
