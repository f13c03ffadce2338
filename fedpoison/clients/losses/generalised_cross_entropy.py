"""The generalised cross-entropy."""

import math

import torch
from torch.nn import functional

from fedpoison.contract.registry import loss
from fedpoison.types import Labels, Logits, Losses, Share


@loss(
    paper="arXiv:1805.07836",
    source="secondary: implementations of the loss, which agree",
    evidence="tests/clients/test_losses.py::test_values_and_gradients_are_those_that_were_computed_elsewhere",
)
def generalised_cross_entropy(logits: Logits, labels: Labels, *, q: Share = 0.7, k: Share | None = None) -> Losses:
    """(1 − p^q)/q of the probability p of a sample's class: samples that the net disbelieves weigh little.

    Zhang and Sabuncu 2018, L_q: the gradient at the logits is the cross-entropy's times p^q. q = 1 is 1 − p, half the
    mean absolute error; q = 0 is the cross-entropy, its limit. `k`: the truncated loss (they take .5), which below
    p = k is what it is at k, so that such samples teach nothing. They choose them by the best net so far, every ten
    epochs from the 40th; here each minibatch does by its own. A net that knows nothing has p of 1/classes and never
    learns: begin with a trained one ([warm_start]).
    """
    wrong = functional.cross_entropy(logits, labels, reduction="none")  # −ln p
    if k:
        wrong = wrong.clamp(max=-math.log(k))
    return -torch.expm1(-q * wrong) / q if q else wrong
