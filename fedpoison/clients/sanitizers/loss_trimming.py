"""The samples that the model finds hardest."""

import torch

from fedpoison.common.rounding import down
from fedpoison.contract.registry import sanitizer
from fedpoison.types import Cleaned, Labels, Losses, Share


@sanitizer(
    paper="arXiv:1810.11874",
    source="read: the authors' code",
    evidence="tests/clients/test_sanitizers_by_hand.py::test_loss_trimming_by_hand",
)
def loss_trimming(losses: Losses, labels: Labels, *, keep: Share = 0.9, per_class: bool = False) -> Cleaned:
    """Keep the share of the samples whose losses under the global model are smallest.

    Shen and Sanghavi 2019 (ITLM): ⌊keep · n⌋ samples, of equal losses the earlier; nothing is taken out where that is
    none. They take a little less than the share that is believed to be good, and train from scratch between their
    turns; here the next turn is the next cleaning (`every`), by the model that federated training has come to.
    `per_class`: the share of each class by itself, for all samples of a rare class may be hard. As much is taken out
    where nothing is poisoned; and a backdoor that the model has learned has the smallest losses of all.
    """
    hard = losses.double().nan_to_num(nan=torch.inf, posinf=torch.inf)
    kept = torch.zeros(len(labels), dtype=torch.bool)
    groups = [labels == label for label in labels.unique()] if per_class else [torch.ones_like(kept)]
    for group in groups:
        own = group.nonzero().flatten()
        count = down(keep * len(own)) or len(own)
        kept[own[hard[own].argsort(stable=True)[:count]]] = True
    return Cleaned(kept, hard)
