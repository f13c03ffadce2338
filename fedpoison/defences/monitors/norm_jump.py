"""A jump of the aggregate's norm."""

import torch
from torch import Tensor

from fedpoison.contract.registry import monitor
from fedpoison.types import Alarm, ClientIds, Norms, Positive, Repeats, State, Update

_NORMAL_MAD, _NORMAL_MEAN = 1.4826, 1.2533
"""What makes standard deviations of normal numbers of the median and of the mean absolute deviation."""


@monitor(
    source="read: our own definition, on the robust z-score of Iglewicz and Hoaglin (1993)",
    evidence="tests/defences/test_monitors.py::test_norm_jump_by_hand",
)
def norm_jump(
    update: Update,
    norms: Norms,
    client_ids: ClientIds,
    state: State,
    *,
    window: Repeats = 20,
    threshold: Positive = 3.5,
) -> tuple[Alarm | None, State]:
    """Alarm when the aggregate's norm is far from those of the last `window` rounds without an alarm.

    Far: |x − median| > `threshold` · 1.4826 · the median absolute deviation; where half of them are alike, 1.2533 · the
    mean one; where all are, a thousandth of the median. It begins when the window is full. Suspects: clients whose own
    norms are far from this round's in the same sense. Of normal norms one in 100 is far from a window of 20, one in 20
    from one of 8. Training ends in smaller steps: a window that is long lags behind.
    """
    seen, norm = state.get("norms", torch.zeros(0, dtype=torch.float64)), update.double().norm().reshape(1)
    if len(seen) == window and (off := float(_off(seen, norm))) > threshold:
        sent = norms[norms.isfinite()].double()
        far = norms.isfinite() & (_off(sent, norms.double()) > threshold)
        said = f"the aggregate's norm is {float(norm):.4g}, {off:.3g} deviations from {float(_middle(seen)):.4g}"
        return Alarm(said, tuple(client_ids[far].tolist())), {"norms": seen}
    return None, {"norms": torch.cat([seen, norm])[-window:]}


def _off(known: Tensor, values: Tensor) -> Tensor:
    """How many deviations of the known numbers the values are away from their median."""
    middle = _middle(known)
    apart = (known - middle).abs()
    scale = _NORMAL_MAD * _middle(apart) or _NORMAL_MEAN * apart.mean()
    if not scale:  # all alike
        return torch.where((values - middle).abs() > 1e-3 * middle.abs(), torch.inf, 0.0)
    return (values - middle).abs() / scale


def _middle(values: Tensor) -> Tensor:
    """The median; of an even number the mean of the middle two, which torch's is not."""
    return values.quantile(0.5)
