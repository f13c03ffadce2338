"""The symmetric cross-entropy."""

from typing import Annotated

import torch
from annotated_types import Lt
from torch.nn import functional

from fedpoison.contract.registry import loss
from fedpoison.types import Labels, Logits, Losses, NotNegative


@loss(
    paper="arXiv:1908.06112",
    source="read: the authors' code",
    evidence="tests/clients/test_losses.py::test_values_and_gradients_are_those_that_were_computed_elsewhere",
)
def symmetric_cross_entropy(
    logits: Logits,
    labels: Labels,
    *,
    alpha: NotNegative = 0.1,
    beta: NotNegative = 1.0,
    log_zero: Annotated[float, Lt(0)] = -4.0,
) -> Losses:
    """α · cross-entropy + β · the reverse one, of the labels by the probabilities, which bounds what a sample weighs.

    Wang et al. 2019, equation 8; the reverse is −A · (1 − p) of a sample's class, A standing for ln 0 (`log_zero`).
    They have A = −4, as here, and their code cuts labels off at 10⁻⁴, which is A = −9.21. α, β: .01, 1 on MNIST, .1, 1
    on CIFAR-10, 6, .1 on CIFAR-100. β = 0 is the cross-entropy times α, α = 0 the mean absolute error times −A/2.
    """
    wrong = functional.cross_entropy(logits, labels, reduction="none")  # −ln p
    return alpha * wrong + beta * log_zero * torch.expm1(-wrong)
