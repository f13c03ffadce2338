"""The cross-entropy."""

from torch.nn import functional

from fedpoison.contract.registry import loss
from fedpoison.types import Labels, Logits, Losses


@loss(
    source="read: torch's definition",
    evidence="tests/clients/test_losses.py::test_values_and_gradients_are_those_that_were_computed_elsewhere",
)
def cross_entropy(logits: Logits, labels: Labels) -> Losses:
    """−ln p of a sample's class, by the softmax of the logits."""
    return functional.cross_entropy(logits, labels, reduction="none")
