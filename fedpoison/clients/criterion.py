"""The loss by which a client trains, of minibatches."""

from collections.abc import Callable

from torch import Tensor

from fedpoison.clients.losses.cross_entropy import cross_entropy
from fedpoison.contract.entry import Step
from fedpoison.contract.results import as_losses
from fedpoison.contract.words import supplied


class Criterion:
    """A loss with its options: of logits [samples, classes] and labels [samples] it gives each sample's loss."""

    def __init__(self, step: Step) -> None:
        self._entry, self._options = step

    @property
    def usual(self) -> bool:
        """Whether it is the cross-entropy, whose gradient at the logits is the softmax less 1 at the label."""
        return self._entry.function is cross_entropy

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The losses [samples], differentiable in the logits; AlgorithmError if a user's loss gives something else."""
        makers: dict[str, Callable[[], Tensor]] = {"logits": lambda: logits, "labels": lambda: labels}
        made = self._entry.call(supplied("loss", self._entry.asks, makers), self._options)
        return as_losses(self._entry, made, len(labels))
