"""byzfl's Server and Clients with its plain average: DataLoaders, a net a client, one after the other.

A round of one step is byzfl's round of gradients, a longer one its round of weights.
"""

import importlib.util
import sys
from types import ModuleType

from work import Clock, Work

sys.path.pop(0)  # or this file would be found as the package

import torch
from torch.utils.data import DataLoader, TensorDataset

# byzfl's own __init__ imports its evaluation too, and with it torchvision, matplotlib and seaborn; its clients and
# server need none of them, so the package is entered without running that file.
package = ModuleType("byzfl")
package.__path__ = importlib.util.find_spec("byzfl").submodule_search_locations
sys.modules["byzfl"] = package

from byzfl.fed_framework import Client, Server, models  # noqa: E402

work, clock = Work(sys.argv[1]), Clock()
torch.set_num_threads(1)
models.given = work.module  # nets are looked up there by name
net = {
    "model_name": "given",
    "device": "cpu",
    "optimizer_name": "SGD",
    "learning_rate": work.lr,
    "weight_decay": 0.0,
    "milestones": [],
    "learning_rate_decay": 0.5,
}


def client(number: int) -> Client:
    """A client that goes through the batches of all its rounds."""
    images, labels = (torch.from_numpy(part.copy()) for part in work.shard(number))
    batches = [batch for round in range(1, work.rounds + 1) for batch in work.batches(round, number)]
    loader = DataLoader(TensorDataset(images, labels), batch_sampler=batches)
    training = {"loss_name": "CrossEntropyLoss", "LabelFlipping": False, "nb_labels": 10, "momentum": 0.0}
    return Client({**net, **training, "training_dataloader": loader, "store_per_client_metrics": False})


clients = [client(number) for number in range(work.clients)]
nothing = DataLoader(TensorDataset(torch.zeros(1)))
server = Server(
    {**net, "aggregator_info": {"name": "Average", "parameters": {}}, "pre_agg_list": [], "test_loader": nothing}
)
steps = len(work.batches(1, 0))
for _ in range(work.rounds):
    state = server.get_dict_parameters()
    for each in clients:
        each.set_model_state(state)
        if steps == 1:
            each.compute_gradients()
        else:
            each.compute_model_update(steps)
    if steps == 1:
        server.update_model_with_gradients([each.get_flat_gradients_with_momentum() for each in clients])
    else:
        server.update_model_with_weights([each.get_flat_parameters() for each in clients])
    clock.round_ended()
clock.report(work, "1 thread", server.get_flat_parameters().detach().numpy())
