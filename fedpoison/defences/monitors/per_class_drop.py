"""One class of which the model suddenly knows less."""

from collections.abc import Callable, Collection
from typing import Any, Literal

import torch
from torch import Tensor

from fedpoison.contract.registry import monitor
from fedpoison.types import Alarm, Count, Share, State


def _lacking(samples: Collection[str], *, on: str, **options: Any) -> list[str]:
    return [] if on in samples else [f"on = {on!r} needs [data] {on}"]


@monitor(
    source="read: our own definition",
    evidence="tests/defences/test_charts.py::test_per_class_drop_by_hand",
    check=_lacking,
)
def per_class_drop(
    recalls: Callable[[str], tuple[Tensor, Tensor]],
    state: State,
    *,
    on: Literal["validation", "root"] = "validation",
    window: Count = 10,
    drop: Share = 0.2,
    fewest: Count = 20,
) -> tuple[Alarm | None, State]:
    """Alarm when the accuracy on a class's samples of the server's own is far below its median of the last rounds.

    Far: by more than `drop`, and more than 3·√(R(1 − R)/n), R being the median of the last `window` rounds without an
    alarm and n the class's samples, of which there must be `fewest`. One class of ten that loses half its accuracy
    costs the mean five points. It never looks at test samples, which are the experimenter's. It begins when the window
    is full.
    """
    right, sizes = recalls(on)
    seen = state.get("right", right.new_zeros(0, len(right)))
    if len(seen) == window:
        usual = seen.quantile(0.5, dim=0)
        chance = 3 * (usual * (1 - usual) / sizes).sqrt()
        fallen = ((usual - right > chance.clamp(min=drop)) & (sizes >= fewest)).nonzero().flatten().tolist()
        if fallen:
            told = ", ".join(f"class {c} from {float(usual[c]):.3g} to {float(right[c]):.3g}" for c in fallen)
            return Alarm(f"accuracy on the {on} samples fell: {told}"), {"right": seen}
    return None, {"right": torch.cat([seen, right.unsqueeze(0)])[-window:]}
