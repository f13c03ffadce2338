"""blazefl's federated averaging with clients over a pool of threads; how many is the second argument."""

import sys

from work import Clock, Work

sys.path.pop(0)  # or this file would be found as the package

import torch
from blazefl.contrib.fedavg import FedAvgBaseServerHandler, FedAvgThreadPoolClientTrainer
from torch.utils.data import DataLoader, TensorDataset

work, clock, threads = Work(sys.argv[1]), Clock(), int(sys.argv[2])
torch.set_num_threads(1)


class Given:
    """The net, and each client's batches of this round."""

    round = 1

    def __init__(self) -> None:
        shards = [map(torch.from_numpy, (part.copy() for part in work.shard(i))) for i in range(work.clients)]
        self.data = [TensorDataset(*shard) for shard in shards]

    def select_model(self, model_name):
        """A new net."""
        return work.module()

    def get_dataloader(self, type_, cid, batch_size=None, generator=None):
        """A client's batches."""
        return DataLoader(self.data[cid], batch_sampler=work.batches(self.round, cid))


given = Given()
common = {"model_selector": given, "model_name": "given", "dataset": given, "device": "cpu", "seed": 0}
common |= {"num_clients": work.clients, "batch_size": work.batch_size}
server = FedAvgBaseServerHandler(global_round=work.rounds, sample_ratio=1.0, **common)
trainer = FedAvgThreadPoolClientTrainer(epochs=1, lr=work.lr, num_parallels=threads, **common)
trainer.progress_fn = lambda futures: futures
while not server.if_stop():
    given.round = server.round + 1
    trainer.local_process(server.downlink_package(), server.sample_clients())
    for package in trainer.uplink_package():
        server.load(package)
    clock.round_ended()
clock.report(work, f"{threads} thread{'s' if threads > 1 else ''}", server.downlink_package().model_parameters.numpy())
