"""A plain Flower app, as Flower's own quickstart is, gets a robust rule by changing one import and one line."""

import logging
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from fedpoison.engines import compat
from fedpoison.flower import InProcessGrid

logging.getLogger("flwr").setLevel(logging.ERROR)

PLAIN = """
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()
kept = []

@app.main()
def main(grid: Grid, context: Context) -> None:
    model = make_model()
    strategy = FedAvg(fraction_train=1.0)
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(model.state_dict()),
        train_config=ConfigRecord({"lr": context.run_config["lr"]}),
        num_rounds=context.run_config["num-server-rounds"],
    )
    kept.append(result)
"""
IMPORT = ("from flwr.serverapp.strategy import FedAvg", "from fedpoison.flower import RobustStrategy")
LINE = ("FedAvg(fraction_train=1.0)", 'RobustStrategy("krum", f=1, fraction_train=1.0, min_train_nodes=6)')


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


def client(bad: int) -> ClientApp:
    app = ClientApp()

    def data(partition: int) -> tuple[torch.Tensor, torch.Tensor]:
        samples = torch.randn(64, 3, generator=torch.Generator().manual_seed(partition))
        return samples, (samples.sum(dim=1) > 0).long()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        model, mine = make_model(), int(context.node_config["partition-id"])
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        optimizer = torch.optim.SGD(model.parameters(), lr=float(message.content.config_records["config"]["lr"]))  # type: ignore[arg-type]
        samples, labels = data(mine)
        for _ in range(20):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(samples), labels).backward()
            optimizer.step()
        state = model.state_dict()
        if mine == bad:
            state = {key: -50 * value for key, value in state.items()}
        metrics = MetricRecord({"train_loss": 0.1, "num-examples": 64})
        return Message(RecordDict({"arrays": ArrayRecord(state), "metrics": metrics}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        model = make_model().eval()
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        samples, labels = data(int(context.node_config["partition-id"]))
        accuracy = float((model(samples).argmax(dim=1) == labels).float().mean())
        metrics = MetricRecord({"accuracy": accuracy, "num-examples": 64})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


def accuracy_of(text: str) -> float:
    """Run the app in process, with one client that sends its model turned round and long; the last round's accuracy."""
    module: dict[str, Any] = {"make_model": make_model}
    exec(text, module)
    context = compat.context(0, {}, {"lr": 0.5, "num-server-rounds": 3})
    module["app"](InProcessGrid(client(bad=2), 6), context)
    return float(module["kept"][0].evaluate_metrics_clientapp[3]["accuracy"])


def test_one_import_and_one_line() -> None:
    changed = PLAIN.replace(*IMPORT).replace(*LINE)
    differing = [pair for pair in zip(PLAIN.splitlines(), changed.splitlines(), strict=True) if pair[0] != pair[1]]
    assert len(differing) == 2
    assert accuracy_of(PLAIN) < 0.7
    assert accuracy_of(changed) > 0.85


def test_the_line_says_when_too_few_clients_are_asked() -> None:
    with pytest.raises(ValueError, match="min_train_nodes"):
        accuracy_of(PLAIN.replace(*IMPORT).replace(LINE[0], 'RobustStrategy("krum", f=1)'))
