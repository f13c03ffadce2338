"""pfl-research's simulated federated averaging with PyTorch."""

import itertools
import sys

from work import Clock, Work

sys.path.pop(0)  # or this file would be found as the package

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel

work, clock = Work(sys.argv[1]), Clock()
torch.set_num_threads(1)
shards = [tuple(torch.from_numpy(part.copy()) for part in work.shard(client)) for client in range(work.clients)]


class Net(torch.nn.Module):
    """The net with its loss, as pfl wants them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = work.module()

    def loss(self, images, labels):
        """Of a batch."""
        return torch.nn.functional.cross_entropy(self.layers(images), labels)

    def metrics(self, images, labels):
        """Next to nothing: pfl evaluates before and after the first round, and there is no way not to."""
        return {"samples": Weighted(len(labels), 1)}


class Shard(PyTorchTensorDataset):
    """A client's samples, in the batches of this round."""

    def __init__(self, client: int) -> None:
        super().__init__(shards[client], user_id=client)
        self.client = client

    def iter(self, batch_size):
        """All batches."""
        images, labels = self.raw_data
        for batch in work.batches(ended.rounds + 1, self.client):
            index = torch.from_numpy(batch)
            yield images[index], labels[index]


class Ended(TrainingProcessCallback):
    """Notes when each round has ended."""

    rounds = 0

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        """Also the number of rounds."""
        self.rounds += 1
        clock.round_ended()
        return False, Metrics()


ended = Ended()
model = PyTorchModel(net := Net(), torch.optim.SGD, torch.optim.SGD(net.parameters(), lr=1.0))
federation = FederatedDataset(Shard, itertools.cycle(range(work.clients)).__next__)
rounds = NNAlgorithmParams(
    central_num_iterations=work.rounds, evaluation_frequency=10**9, train_cohort_size=work.clients, val_cohort_size=None
)
FederatedAveraging().run(
    rounds,
    SimulatedBackend(federation, federation),
    model,
    NNTrainHyperParams(local_batch_size=work.batch_size, local_num_epochs=1, local_learning_rate=work.lr),
    callbacks=[ended],
)
params = torch.nn.utils.parameters_to_vector(net.parameters()).detach().numpy()
clock.report(work, "1 thread", params)
