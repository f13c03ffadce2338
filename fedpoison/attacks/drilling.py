"""What an attack on the training is shown of a client, and the drill that it makes for it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from fedpoison.clients.drills import Gradients
from fedpoison.clients.training import Local
from fedpoison.common.parallel import in_parallel
from fedpoison.common.seeding import Stream
from fedpoison.common.spelling import among
from fedpoison.contract.entry import Entry, Step, in_words
from fedpoison.contract.results import as_tensor, unpack
from fedpoison.contract.words import supplied
from fedpoison.types import ClientIds, Drill, Event, Layer, Params, Update


@dataclass(frozen=True)
class Drills:
    """Makes the drills of a round's attackers, each from what it knows itself; memories are by client."""

    step: Step
    local: Local
    layers: tuple[Layer, ...]
    gradients: Gradients
    seed: int

    def __call__(
        self, clients: ClientIds, n: int, params: Params, previous: Update, memory: Mapping[str, Tensor], round: int
    ) -> tuple[list[Drill], dict[str, Tensor], list[Event]]:
        """The drills of these malicious clients of a cohort of n, all memories after it, and remarks."""
        entry, options = self.step
        said: list[Event] = []

        def one(client: int) -> tuple[Drill, dict[str, Tensor]]:
            own = f"{client}/"
            known = {name.removeprefix(own): value.clone() for name, value in memory.items() if name.startswith(own)}
            stream = Stream(self.seed, "drill", round, client)
            makers: dict[str, Callable[[], Any]] = {
                "own_gradient": lambda: self.gradients(params, client),
                "local": lambda: self.local,
                "layers": lambda: self.layers,
                "n_malicious": lambda: len(clients),
                "n": lambda: n,
                "params": lambda: params,
                "previous": lambda: previous,
                "say": lambda: lambda text: said.append(Event("attack", (client,), text)),
                "state": lambda: known,
                "rng": stream.torch,
            }
            result = entry.call(supplied(entry.kind, entry.asks, makers), options, stream)
            drill, kept = unpack(entry, result) if "state" in entry.asks else (result, known)
            return as_drill(entry, drill, self.local, len(params)), {own + name: v for name, v in kept.items()}

        ids = clients.tolist()
        made = list(in_parallel(one, ids))
        memories = dict(memory)
        for client, (_, kept) in zip(ids, made, strict=True):
            memories = {name: v for name, v in memories.items() if not name.startswith(f"{client}/")} | kept
        said.sort(key=lambda event: event.clients)
        return [drill for drill, _ in made], memories, said


def as_drill(entry: Entry, made: Any, local: Local, d: int) -> Drill:
    """The drill that an attack made for a net of d parameters; AlgorithmError says what it must be instead."""
    if not isinstance(made, Drill):
        raise entry.fault(f"must return a Drill, not {type(made).__name__}")
    try:
        local.drilled(made)
    except (ValueError, TypeError) as error:
        raise entry.fault(f"has its clients train with {dict(made.local)}: {_why(error)}", error) from error
    for name, value in (("radius", made.radius), ("every", made.every)):
        if value is not None and not (isinstance(value, int | float) and 0 < value < float("inf")):
            raise entry.fault(f"must return a Drill whose {name} is more than 0, not {value!r}")
    if made.mask is None:
        return made
    mask = as_tensor(entry, made.mask, "[d] as the mask of its Drill")
    if mask.shape != (d,) or mask.dtype != torch.bool:
        raise entry.fault(
            f"must return a Drill whose mask is {d} values of torch.bool, not {tuple(mask.shape)} of {mask.dtype}"
        )
    return replace(made, mask=mask.contiguous())


def _why(error: Exception) -> str:
    """What is wrong with settings, in the words of a configuration's own errors."""
    if not isinstance(error, ValidationError):
        return in_words(error)
    return "; ".join(
        f"there is no such setting; {among(str(each['loc'][-1]), Local.model_fields, 'settings')}"
        if each["type"] == "extra_forbidden"
        else f"{'.'.join(map(str, each['loc']))}: {each['msg'].removeprefix('Value error, ')}".lstrip(": ")
        for each in error.errors()
    )
