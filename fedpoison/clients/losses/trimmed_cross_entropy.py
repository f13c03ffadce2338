"""The cross-entropy without the hardest samples of a minibatch."""

import torch
from torch.nn import functional

from fedpoison.common.rounding import down
from fedpoison.contract.registry import loss
from fedpoison.types import Labels, Logits, Losses, Share


@loss(
    paper="arXiv:1804.06872",
    source="read: the authors' code, for what a minibatch keeps; one net that chooses for itself is our own",
    evidence="tests/clients/test_losses.py::test_the_trimmed_cross_entropy_by_hand",
)
def trimmed_cross_entropy(logits: Logits, labels: Labels, *, share: Share = 0.1) -> Losses:
    """The cross-entropy, but of the share of a minibatch's samples with the largest nothing.

    As Han et al. 2018 choose, without their second net and their schedule: the m = max(1, B − ⌊share · B⌋) smallest
    losses of B are kept, of equal ones the earlier, and stand for all: they count B/m times, so that the minibatch's
    mean is theirs. It is the one loss of which a sample's depends on the others of its minibatch. Rare classes go
    first, and a backdoor that was learned has small losses and stays.
    """
    losses = functional.cross_entropy(logits, labels, reduction="none")
    count = max(1, len(losses) - down(share * len(losses)))
    kept = losses.detach().argsort(stable=True)[:count]
    return losses * torch.zeros_like(losses).index_fill(0, kept, len(losses) / count)
