"""Flower's FedAvg in its simulation on Ray, a worker a core."""

import os
import sys
from pathlib import Path

os.environ.update(FLWR_TELEMETRY_ENABLED="0", RAY_USAGE_STATS_ENABLED="0")
sys.path.insert(0, str(Path(__file__).parent))
os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # for Ray's workers

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from work import Clock, Work, processes, train

FOLDER = sys.argv[1]
cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
clock = Clock(group=True)
client, server = ClientApp(), ServerApp()


@client.train()
def fit(message: Message, context: Context) -> Message:
    """Train from what was sent on this client's samples."""
    torch.set_num_threads(1)
    work, me = Work(FOLDER), int(context.node_config["partition-id"])
    net = work.module()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    images, labels = (torch.from_numpy(part.copy()) for part in work.shard(me))
    train(net, images, labels, work.batches(message.content["config"]["server-round"], me), work.lr)
    content = {"arrays": ArrayRecord(net.state_dict()), "metrics": MetricRecord({"num-examples": work.samples})}
    return Message(content=RecordDict(content), reply_to=message)


class Timed(FedAvg):
    """FedAvg that notes when each round has been averaged."""

    def aggregate_train(self, server_round, replies):
        """As FedAvg does."""
        result = super().aggregate_train(server_round, replies)
        clock.round_ended()
        return result


@server.main()
def main(grid: Grid, context: Context) -> None:
    """All rounds, then the report."""
    work = Work(FOLDER)
    strategy = Timed(fraction_evaluate=0.0, min_train_nodes=work.clients, min_available_nodes=work.clients)
    result = strategy.start(grid=grid, initial_arrays=ArrayRecord(work.module().state_dict()), num_rounds=work.rounds)
    state = result.arrays.to_torch_state_dict()
    clock.report(work, f"{processes()} processes", torch.cat([value.flatten() for value in state.values()]).numpy())


if __name__ == "__main__":
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": cores}}
    run_simulation(server, client, Work(FOLDER).clients, backend_config=resources)
