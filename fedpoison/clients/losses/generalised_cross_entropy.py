"""The generalised cross-entropy."""

import torch
from torch.nn import functional

from fedpoison.contract.registry import loss
from fedpoison.types import Labels, Logits, Losses, Share


@loss(
    paper="arXiv:1805.07836",
    source="secondary: implementations of the loss, which agree",
    evidence="tests/clients/test_losses.py::test_values_and_gradients_are_those_that_were_computed_elsewhere",
)
def generalised_cross_entropy(logits: Logits, labels: Labels, *, q: Share = 0.7) -> Losses:
    """(1 − p^q)/q of the probability p of a sample's class: samples that the net disbelieves weigh little.

    Zhang and Sabuncu 2018, L_q without its truncation: the gradient at the logits is the cross-entropy's times p^q.
    q = 1 is 1 − p, half the mean absolute error; q = 0 is the cross-entropy, its limit.
    """
    wrong = functional.cross_entropy(logits, labels, reduction="none")  # −ln p
    return -torch.expm1(-q * wrong) / q if q else wrong
