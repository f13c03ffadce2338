"""Samples far out along the direction in which their class is spread most."""

from collections.abc import Callable

from torch import Tensor

from fedpoison.clients.sanitizers.classes import Judged, by_class, largest
from fedpoison.common.rounding import down
from fedpoison.contract.registry import sanitizer
from fedpoison.linalg.principal import principal
from fedpoison.types import Cleaned, Features, Labels, Share


@sanitizer(
    paper="arXiv:1811.00636",
    source="read: the authors' code",
    evidence="tests/clients/test_sanitizers_by_hand.py::test_spectral_signatures_by_hand",
)
def spectral_signatures(
    features: Features, labels: Labels, say: Callable[[str], None], *, share: Share = 0.05
) -> Cleaned:
    """Take out of each class the ⌊1.5 · share · n⌋ samples with the largest ⟨x − mean, v⟩².

    Tran et al. 2018, Algorithm 1: v is the top right singular vector of the class's centred features. `share`, their ε,
    is the part of a class that is believed to be poisoned; they scan the one class that is attacked, here no class is
    known to be. The paper projects centred features, as here; the authors' code takes v of the centred and projects the
    uncentred. Left alone: classes of which less than one sample would go (with .05 those of fewer than 14), and those
    spread as far along a second direction, for v is none then. As much is taken out of a clean class; the net must
    have learned the trigger.
    """

    def judge(rows: Tensor) -> Judged | None:
        projections, values = principal(rows, 2)
        count = down(1.5 * share * len(rows))
        if not count or (len(values) > 1 and values[0] - values[1] < 1e-9 * values[0]):
            return None
        scores = projections[:, 0].square()
        return largest(scores, count), scores

    return by_class(features, labels, say, 3, judge)
