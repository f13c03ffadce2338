"""What a server knows of a round besides the updates."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from fedpoison.common.seeding import Stream
from fedpoison.types import ClientIds, Exam, Layer, Params, Probe, Sizes, Update


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What the server knows of a round besides the updates; client_ids and sizes in the updates' order.

    `exams`: how a model does on the server's own samples, by what they are called in [data].
    """

    f: int
    client_ids: ClientIds
    sizes: Sizes
    params: Params
    previous: Update
    stream: Stream
    state: Mapping[str, Tensor]
    root_update: Update | None = None
    layers: tuple[Layer, ...] = ()
    probe: Probe | None = None
    exams: Mapping[str, Callable[[Params], Exam]] = field(default_factory=dict)
