"""What every contender is given, and how it reports."""

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np


class Work:
    """Clients' samples, the first weights and the order of all batches, from the benchmark's folder."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        told = json.loads((self.folder / "work.json").read_text(encoding="utf-8"))
        self.net, self.clients, self.samples = told["net"], told["clients"], told["samples"]
        self.rounds, self.steps = told["rounds"], told["steps"]
        self.batch_size, self.lr = told["batch_size"], told["lr"]
        self.params = np.load(self.folder / "params.npy")
        self.images, self.labels, self.orders = (
            np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in ("images", "labels", "orders")
        )

    def shard(self, client: int) -> tuple[np.ndarray, np.ndarray]:
        """A client's images and labels."""
        place = slice(client * self.samples, (client + 1) * self.samples)
        return self.images[place], self.labels[place]

    def batches(self, round: int, client: int) -> list[np.ndarray]:
        """Positions in the shard of each batch; rounds begin at 1."""
        order, batches = self.orders[round - 1, client], []
        for epoch in range(0, len(order), self.samples):
            whole = order[epoch : epoch + self.samples]
            batches += [whole[i : i + self.batch_size] for i in range(0, len(whole), self.batch_size)]
        return batches

    def module(self) -> Any:
        """The net as plain torch, with the first weights."""
        import torch
        from torch import nn

        if self.net == "mlp":
            net = nn.Sequential(nn.Flatten(), nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 10))
        else:
            convolutions = []
            for before, after in ((1, 16), (16, 32)):
                convolutions += [nn.Conv2d(before, after, 5, padding=2), nn.MaxPool2d(2), nn.ReLU()]
            head = [nn.Flatten(), nn.Linear(1568, 128), nn.ReLU(), nn.Linear(128, 10)]
            net = nn.Sequential(*convolutions, *head)
        first = torch.from_numpy(self.params).clone()  # the parameters become views of it
        nn.utils.vector_to_parameters(first, net.parameters())
        return net


def train(net: Any, images: Any, labels: Any, batches: list[np.ndarray], lr: float) -> None:
    """Plain SGD on the cross-entropy of these batches."""
    import torch

    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    for batch in batches:
        index = torch.from_numpy(np.ascontiguousarray(batch))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(images[index]), labels[index]).backward()
        optimizer.step()


class Clock:
    """When each round ended, and the CPU seconds until then of this process and those it or its kin started."""

    def __init__(self, group: bool = False) -> None:
        self.ended: list[float] = []
        self.cpu: list[float] = []
        self._group = group

    def round_ended(self) -> None:
        """Note the time."""
        self.ended.append(time.time())
        self.cpu.append(session_cpu() if self._group else time.process_time())

    def report(self, work: Work, uses: str, params: np.ndarray) -> None:
        """Write what was measured, the threads or processes that were used, and the final weights."""
        np.save(work.folder / "result.npy", params)
        told = {"ended": self.ended, "cpu": self.cpu, "uses": uses}
        (work.folder / "result.json").write_text(json.dumps(told), encoding="utf-8")


def family() -> list[Any]:
    """This process and all its living descendants; Ray, which has psutil in it, must have been imported."""
    import psutil

    me = psutil.Process(os.getpid())
    return [me, *me.children(recursive=True)]


def processes() -> int:
    """How many they are."""
    return len(family())


def session_cpu() -> float:
    """CPU seconds of all of them."""
    import psutil

    total = 0.0
    for process in family():
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total
