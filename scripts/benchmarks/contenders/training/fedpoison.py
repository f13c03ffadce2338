"""fedpoison's batched engine and its defence with the mean, all cores."""

import sys

from work import Clock, Work

sys.path.pop(0)  # or this file would be found as the package

import numpy as np
import torch

from fedpoison.clients.federation import Federation
from fedpoison.clients.training import Local, Plan, Task
from fedpoison.common import parallel
from fedpoison.common.seeding import Stream
from fedpoison.contract.lookup import find
from fedpoison.contract.registry import partition
from fedpoison.data import Dataset
from fedpoison.defences.defence import Defence
from fedpoison.defences.situation import Situation


@partition()
def in_order(labels, n_clients, rng):
    """Equal pieces in the samples' order."""
    return np.split(np.arange(len(labels)), n_clients)


work, clock = Work(sys.argv[1]), Clock()
images, labels = torch.from_numpy(np.array(work.images)), torch.from_numpy(np.array(work.labels))
dataset = Dataset(images, labels, images[:9], labels[:9], 10)
federation = Federation(dataset, (find("partition", in_order), {}), work.clients, 0)
length = {"steps": work.steps} if work.steps else {"epochs": 1}
local = Local(batch_size=work.batch_size, lr=work.lr, **length)
net, params = work.module(), torch.from_numpy(work.params)
engine = find("engine", "batched").call({"model": net, "federation": federation, "local": local}, {})
entry = find("aggregator", "mean")
defence, ids, nothing = Defence((), (entry, entry.validate({}))), torch.arange(work.clients), torch.zeros_like(params)
with parallel.using(None):
    for number in range(1, work.rounds + 1):
        trained = engine.train(params, Plan(0, number, tuple(Task(i) for i in range(work.clients))))
        seen = Situation(
            f=0,
            client_ids=ids,
            sizes=federation.sizes(ids),
            params=params,
            previous=nothing,
            stream=Stream(0, "defence", number),
            state={},
        )
        params = params + defence(trained.updates, seen).update
        clock.round_ended()
clock.report(work, f"{parallel.available_cores()} threads", params.numpy())
