"""The cross-entropy to smoothed labels."""

from torch.nn import functional

from fedpoison.contract.registry import loss
from fedpoison.types import Labels, Logits, Losses, Share


@loss(
    paper="arXiv:1512.00567",
    source="read: torch's definition",
    evidence="tests/clients/test_losses.py::test_values_and_gradients_are_those_that_were_computed_elsewhere",
)
def label_smoothing(logits: Logits, labels: Labels, *, epsilon: Share = 0.1) -> Losses:
    """The cross-entropy to labels of which the share ε is spread over all classes alike.

    Szegedy et al. 2016, section 7: the class of a sample has 1 − ε + ε/classes, each other one ε/classes. ε = 0 is the
    cross-entropy. Some spread ε over the other classes only.
    """
    return functional.cross_entropy(logits, labels, reduction="none", label_smoothing=epsilon)
