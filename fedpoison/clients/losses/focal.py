"""The focal loss."""

import torch
from torch.nn import functional

from fedpoison.contract.registry import loss
from fedpoison.types import Labels, Logits, Losses, NotNegative


@loss(
    paper="arXiv:1708.02002",
    source="secondary: two implementations, of the sigmoid form",
    evidence="tests/clients/test_losses.py::test_values_and_gradients_are_those_that_were_computed_elsewhere",
)
def focal(logits: Logits, labels: Labels, *, gamma: NotNegative = 2.0) -> Losses:
    """−(1 − p)^γ ln p of the probability p of a sample's class: what the net is sure of weighs little.

    Lin et al. 2017, equation 4, by the softmax over all classes; theirs is by a sigmoid for each, with weights of the
    classes besides. γ = 0 is the cross-entropy. It looks at hard samples more, and so at mislabelled ones: no remedy
    for these, but for rare classes.
    """
    wrong = functional.cross_entropy(logits, labels, reduction="none")  # −ln p
    doubt = -torch.expm1(-wrong)
    return doubt.clamp(min=torch.finfo(doubt.dtype).tiny) ** gamma * wrong  # at 0 the slope of the power is infinite
