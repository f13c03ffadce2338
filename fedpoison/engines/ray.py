"""The batched engine in the workers of a Ray cluster, a worker a core.

The clients' data are placed in the object store once, the parameters once a round; a worker trains a stack of
clients and sends their updates back as one block. As a client's update does not depend on its stack, the bits are
those of `batched`. A worker that dies is replaced and its clients are trained again elsewhere.
"""

import os
from collections import deque
from dataclasses import replace
from itertools import count
from typing import Any

import torch
from torch import nn

from fedpoison.clients.federation import Federation
from fedpoison.clients.training import Engine, Local, Plan, Trained
from fedpoison.common import parallel
from fedpoison.contract import usercode
from fedpoison.contract.blame import staying
from fedpoison.contract.registry import engine
from fedpoison.engines import grids
from fedpoison.engines.batched import batched
from fedpoison.engines.cluster import PATIENCE, connected, kept
from fedpoison.types import Count, Event, Params

_DEATHS = 3
"""Workers that a share of the clients may cost."""
_numbers = count()


@engine(bits_of="batched", bits=lambda address, stack: [stack, False])
def ray(
    model: nn.Module, federation: Federation, local: Local, *, address: str | None = None, stack: Count | None = None
) -> Engine:
    """The batched engine on a Ray cluster, a worker a core: the same bits, however many there are and whoever dies.

    `address`: a running cluster's, as "10.0.0.1:6379" or "auto"; one is started on this machine unless given.
    `stack`: as for batched.
    """
    return OnRay(model, federation, local, address, stack)


class OnRay:
    """Hands stacks of clients to whichever worker is free."""

    def __init__(
        self, model: nn.Module, federation: Federation, local: Local, address: str | None, stack: Count | None
    ) -> None:
        self._parts, self._address = (model, federation, local, stack), address
        self._here = batched(model, federation, local, stack=stack)
        self._name = next(_numbers)
        self._world: Any = None

    def train(self, params: Params, plan: Plan) -> Trained:
        """Train every task on some worker."""
        grids.end_simulation()
        ray = connected(self._address)
        pool = _pool(self._address)
        if self._world is None:
            self._world = [ray.put(usercode.codes()), ray.put(self._parts)]
        sent, updates = ray.put(params.numpy()), params.new_empty(len(plan.tasks), len(params))
        open_shares = deque((share, _DEATHS) for share in self._here.shares(plan, pool.size))
        events: list[Event] = []
        busy: dict[Any, tuple[Any, list[int], int]] = {}
        while open_shares or busy:
            while open_shares and pool.idle:
                share, lives = open_shares.popleft()
                worker, part = pool.idle.popleft(), replace(plan, tasks=tuple(plan.tasks[i] for i in share))
                busy[worker.train.remote(self._name, self._world, sent, part)] = worker, share, lives
            done, _ = ray.wait([*busy, *pool.starting], timeout=None if busy else PATIENCE)
            if not done:
                raise RuntimeError(f"no worker of the Ray cluster was ready within {PATIENCE:.0f} s")
            if done[0] in pool.starting:
                pool.started(done[0])
                continue
            worker, share, lives = busy.pop(done[0])
            try:
                block, said = ray.get(done[0])
            except ray.exceptions.RayActorError as error:
                if lives == 1:
                    raise RuntimeError(f"{_DEATHS} Ray workers died of the same clients: {error}") from error
                pool.start(1)
                open_shares.append((share, lives - 1))
                events.append(Event("engine", detail="a Ray worker died; its clients were trained again"))
                continue
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            pool.idle.append(worker)
            updates[torch.tensor(share)] = torch.tensor(block)
            events += [event for event in said if event not in events]
        return Trained(updates, tuple(events))


class Worker:
    """What runs in a process of the cluster: one world at a time, built when it is first trained in."""

    def __init__(self) -> None:
        self._name: int | None = None
        self._engine: Engine

    def pid(self) -> int:
        """The worker's process, as soon as it can work."""
        return os.getpid()

    def train(self, name: int, world: list[Any], params: Any, plan: Plan) -> tuple[Any, tuple[Event, ...]]:
        """Train a plan's tasks in the world of that name, one intra-op thread; updates as an array [tasks, d]."""
        with parallel.using(1), staying():
            if self._name != name:
                import ray

                usercode.install(ray.get(world[0]))
                model, federation, local, stack = ray.get(world[1])
                self._engine, self._name = batched(model, federation, local, stack=stack), name
            trained = self._engine.train(torch.tensor(params), plan)
        return trained.updates.numpy(), trained.events


class _Pool:
    """The workers of a cluster: those that wait for work, and those that are not up yet."""

    def __init__(self, address: str | None) -> None:
        self._ray = connected(address)
        self.idle: deque[Any] = deque()
        self.starting: dict[Any, Any] = {}
        self.size = max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        self.start(self.size)

    def start(self, workers: int) -> None:
        """Ask for so many workers more."""
        remote = self._ray.remote(num_cpus=1)(Worker)
        for _ in range(workers):
            worker = remote.remote()
            self.starting[worker.pid.remote()] = worker

    def started(self, answer: Any) -> None:
        """Take a worker that has answered, or ask for another if it died on the way."""
        worker = self.starting.pop(answer)
        try:
            self._ray.get(answer)
        except self._ray.exceptions.RayActorError:
            self.start(1)
        else:
            self.idle.append(worker)


def _pool(address: str | None) -> _Pool:
    if address not in kept:
        kept[address] = _Pool(address)
    pool: _Pool = kept[address]
    return pool
