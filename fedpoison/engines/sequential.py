"""One client after the other, by autograd: the oracle."""

from torch import nn

from fedpoison.clients.federation import Federation
from fedpoison.clients.training import Engine, Local, Plan, Trained, train_client, untouched
from fedpoison.common.parallel import using
from fedpoison.contract.registry import engine
from fedpoison.types import Params


@engine()
def sequential(model: nn.Module, federation: Federation, local: Local) -> Engine:
    """One client after the other with torch's autograd and optimizer: slow, obvious, what `batched` is held to."""
    return Sequential(model, federation, local)


class Sequential:
    """The oracle."""

    def __init__(self, model: nn.Module, federation: Federation, local: Local) -> None:
        self._model, self._federation, self._local = model, federation, local

    def train(self, params: Params, plan: Plan) -> Trained:
        """Train every task in turn."""
        updates = params.new_empty(len(plan.tasks), len(params))
        with using(1):
            for row, task in enumerate(plan.tasks):
                shard, stream = task.shard(self._federation), plan.batch_stream(task)
                local, augment = plan.settings(self._local, task), self._federation.augment
                updates[row] = train_client(self._model, params, shard, stream, local, augment, task.drill)
        return Trained(updates, untouched(self._federation, plan))
