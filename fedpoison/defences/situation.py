"""What a server knows of a round besides the updates."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fedpoison.common.seeding import Stream
from fedpoison.types import ClientIds, Layer, Params, Probe, Sizes, Update


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What the server knows of a round besides the updates; client_ids and sizes in the updates' order."""

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
