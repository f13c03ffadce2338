"""Shapes as types, and the few records that cross rooms.

n rows (one a client, unless a pre-aggregator merged some), d parameters.
An update is local parameters minus global parameters.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

import torch
from annotated_types import Interval
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from fedpoison.common.plain import plain

Updates = Float[Tensor, "n d"]
Honest = Float[Tensor, "honest d"]
Malicious = Float[Tensor, "malicious d"]
LocalUpdates = Float[Tensor, "trained d"]
Twins = Float[Tensor, "twins d"]
MixedUpdates = Float[Tensor, "m d"]
Update = Float[Tensor, " d"]
Params = Float[Tensor, " d"]

References = Float[Tensor, "references d"]
Gram = Float[Tensor, "r r"]
"""Inner products of the rows about a common centre; reference rows last."""
SquaredDistances = Float[Tensor, "r r"]
Cosines = Float[Tensor, "n n"]
Norms = Float[Tensor, " n"]
AllNorms = Float[Tensor, " r"]
Sizes = Float[Tensor, " n"]
ClientIds = Int[Tensor, " n"]

Weights = Float[Tensor, " r"]
"""One weight a row of the Gram matrix; the clients' come first, they sum to 1."""
Mixing = Float[Tensor, "m n"]
"""Row i of the result is Σ_j mixing[i, j] · row j; what a row lacks of 1 lies on the zero update."""

Crafted = Float[Tensor, "{n_malicious} d"]
Images = Num[Tensor, "samples ..."]
"""Pictures or tables of numbers, or int64 tokens of text."""
Victims = Num[Tensor, "victims ..."]
Labels = Int[Tensor, " samples"]

Features = Float[Tensor, "samples features"]
Logits = Float[Tensor, "samples classes"]
Losses = Float[Tensor, " samples"]

LARGEST = 1e30
"""No setting is larger: float32 ends soon after."""
Real = Annotated[float, Interval(ge=-LARGEST, le=LARGEST)]
Positive = Annotated[float, Interval(gt=0, le=LARGEST)]
NotNegative = Annotated[float, Interval(ge=0, le=LARGEST)]
Threshold = Positive | Literal["median"]
"""A length on the scale of the updates, or the median of a round's lengths."""
Share = Annotated[float, Interval(ge=0, le=1)]
Count = Annotated[int, Interval(ge=1, le=10_000_000)]
Repeats = Annotated[int, Interval(ge=1, le=100_000)]
"""How often something is done: what takes time and little memory."""
Few = Annotated[int, Interval(ge=1, le=1000)]
Rounds = Annotated[int, Interval(ge=1, le=1_000_000)]
"""A number of rounds, or a round's."""
Population = Annotated[int, Interval(ge=1, le=1_000_000)]
"""A number of clients."""
RunSeed = Annotated[int, Interval(ge=0, lt=2**63)]
Seed = Annotated[int, Interval(ge=-(2**63), lt=2**64)]


class Layer(NamedTuple):
    """One parameter tensor of the net: which columns of an update are its values, in row-major order."""

    name: str
    columns: slice
    shape: tuple[int, ...]


class Exam(NamedTuple):
    """How a model does on some samples: their mean loss, the share of each class that is right, and their numbers."""

    loss: float
    right: Tensor
    sizes: Tensor

    @property
    def accuracy(self) -> float:
        """The share of all samples that is right."""
        there = self.sizes > 0
        return float((self.right * self.sizes)[there].sum() / self.sizes.sum())


Series = Literal["norm", "median_norm", "root_accuracy", "root_loss", "validation_accuracy", "validation_loss"]
"""What a server can watch from round to round: the norm of the aggregate, the median of the clients' norms, and how the
model does on samples of the server's own. Test samples are the experimenter's, and no server has them."""

Base = Callable[[Tensor, int], Tensor]
"""Another rule, for those that are built around one: (rows [m, d'], f) -> aggregate [d']."""
Probe = Callable[[Tensor], tuple[float, float]]
"""Mean loss and error rate, on the server's own samples, of the global model moved by an update [d]."""


@dataclass(frozen=True)
class Noisy:
    """Weights, and the standard deviation of Gaussian noise that is added to every coordinate of their sum."""

    weights: Weights
    deviation: float


@dataclass(frozen=True)
class Chosen:
    """An aggregate that is no average, and which clients [n] it is made of."""

    update: Update
    kept: Bool[Tensor, " n"]


@dataclass(frozen=True)
class Stamp:
    """A trigger, and the samples of a shard that it is set on: those at `places` [m].

    `trigger`: a function of pictures [k, ...], and of what is each one's `own` [k, ...] where there is such a thing,
    that returns as many pictures. It draws nothing at random: what is drawn is drawn when the attack is made and kept
    in `own`, for it is called anew in each step.
    """

    places: Tensor
    trigger: Callable[..., Tensor]
    own: Tensor | None = None

    @torch.no_grad()
    def __call__(self, images: Tensor, turns: Tensor) -> Tensor:
        """The images, those of the places at `turns` [k], with the trigger."""
        return self.trigger(images) if self.own is None else self.trigger(images, self.own[turns])


class Planted(tuple[Tensor, Tensor]):
    """What an attack with a trigger returns: (images, labels), and how the images come about.

    `bare`: the images without the trigger; `stamps`: the triggers, so that they can be set on what augmentation makes
    of the bare images. No two are set on the same sample.
    """

    bare: Tensor
    stamps: tuple[Stamp, ...]

    def __new__(cls, bare: Tensor, labels: Tensor, *stamps: Stamp) -> "Planted":
        """Set the triggers on the bare images."""
        bare = bare.detach()
        images = bare.clone()
        for stamp in stamps:
            images[stamp.places] = stamp(bare[stamp.places], torch.arange(len(stamp.places)))
        planted = super().__new__(cls, (images, labels))
        planted.bare, planted.stamps = bare, stamps
        return planted


@dataclass(frozen=True)
class Drill:
    """How one client trains otherwise than the honest do; what is not said is as it is for them.

    `local`: settings of [clients.local] by name, such as {"epochs": 10, "lr": 0.02}; a rate given so follows no
    schedule. `mask` [d]: False where a parameter stays what it is in the global model: its gradient counts as 0 and
    each step's change of it is taken back. `radius`: the largest Euclidean distance from the global model, held at the
    end, and after every `every` steps too if that is given.
    """

    local: Mapping[str, Any] = field(default_factory=dict)
    mask: Tensor | None = None
    radius: float | None = None
    every: int | None = None

    @property
    def holds(self) -> bool:
        """Whether it holds parameters in place or near."""
        return self.mask is not None or self.radius is not None


@dataclass(frozen=True)
class Cleaned:
    """What a sanitizer makes of n samples: which it keeps [n], and how suspect each is [n], more being worse."""

    keep: Tensor
    suspicion: Tensor


@dataclass(frozen=True)
class Alarm:
    """What a monitor has to say of a round, and whom of its clients it suspects, if anybody."""

    detail: str
    suspects: tuple[int, ...] = ()


State = dict[str, Tensor]
"""A rule's or an attack's memory; it is saved in the run's checkpoint."""


@dataclass(frozen=True)
class Event:
    """Something that happened in a round and did not stop it."""

    what: str
    clients: tuple[int, ...] = ()
    detail: str = ""

    def __post_init__(self) -> None:
        """What it says may be a user's code's, or a client's."""
        object.__setattr__(self, "detail", plain(self.detail))

    def as_dict(self) -> dict[str, Any]:
        """The event as it stands in rounds.jsonl."""
        return {"what": self.what, "clients": list(self.clients), "detail": self.detail}


@dataclass(frozen=True)
class Verdict:
    """What a defence made of one round's updates.

    ``update`` [d]; ``norms`` [n], the Euclidean norms of what was sent (NaN or Inf where it was not finite or
    not a vector); ``weights`` [n], what each client is credited with (None where a rule has no such
    weights; 0 for a row that was set aside); ``flagged`` [n] bool, from rules that decide about clients;
    ``scores`` [n], how suspect each client is, from rules that have such a number (Inf for a row that was set aside);
    ``state``, the rule's memory after the round; ``skipped`` when no aggregate could be made, with the
    reason among the events.
    """

    update: Tensor
    norms: Tensor = field(default_factory=lambda: torch.empty(0))
    weights: Tensor | None = None
    flagged: Tensor | None = None
    scores: Tensor | None = None
    events: tuple[Event, ...] = ()
    state: Mapping[str, Tensor] = field(default_factory=dict)
    skipped: bool = False
