"""What a learning task is asked for, by those who know samples, labels and outputs but not what they mean."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

Measured = dict[str, Any]


@runtime_checkable
class LearningTask(Protocol):
    """What labels [n] and a net's outputs [n, ...] are, and how well these tell those."""

    @property
    def outputs(self) -> int:
        """How many numbers a net gives of a sample."""
        ...

    def misfit(self, labels: Tensor) -> str | None:
        """Why these can be no labels of it; None if they can."""
        ...

    def losses(self, outputs: Tensor, labels: Tensor, reduction: Literal["none", "sum"] = "none") -> Tensor:
        """What is measured and probed as the loss of each sample [n], or their sum, in float64.

        What clients train on may be another, see [clients.local] loss.
        """
        ...

    def usable(self, outputs: Tensor) -> Tensor:
        """Of which samples [n] the outputs say anything at all."""
        ...

    def right(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Which samples [n] are told rightly; what is not usable is wrong."""
        ...

    def measures(self, outputs: Tensor, labels: Tensor) -> Measured:
        """How well a model does on samples, by the names that records have; None for what cannot be said."""
        ...

    def by_holder(self, outputs: Tensor, labels: Tensor, sizes: Sequence[int]) -> Measured:
        """How well it does on the samples of so many holders, one after the other: the mean, and the worst tenth's."""
        ...

    def success(
        self, goal: str, labels: Tensor, wanted: Tensor, presented: Tensor, plain: Callable[[], Tensor]
    ) -> Measured:
        """How well an attack reaches its goal, from the outputs of samples as it presents them and as they are.

        `goal` is one of vocabulary.GOALS; `wanted`: the labels it wants for these samples.
        """
        ...

    def skew(self, labels: Tensor, holders: Sequence[Tensor]) -> Tensor:
        """How unlike all others' the labels of each holder are [holders], from 0 to 1; they hold samples by place."""
        ...
