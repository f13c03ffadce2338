"""The server's half of a round: screen the updates, aggregate them, step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from fedpoison.clients.training import Rates
from fedpoison.defences.defence import Defence
from fedpoison.defences.monitoring import Watch, Watched, watch
from fedpoison.defences.situation import Situation
from fedpoison.types import LARGEST, Event, NotNegative, Params, Positive, State, Update, Verdict


@dataclass(frozen=True, kw_only=True)
class Served:
    """What a round of the server gives: the parameters after it, the verdict, and what the next round starts from.

    `previous`: the aggregate of the last round that was not skipped or taken back; `memory`: the optimizer's;
    `watched`: the monitors'; `stepped`: whether there was a step that was not taken back; `stop`: it is the last
    round; `quarantine`: for how many rounds whom is kept out.
    """

    params: Params
    verdict: Verdict
    previous: Update
    memory: Mapping[str, Tensor]
    watched: Mapping[str, Tensor]
    stepped: bool = False
    stop: bool = False
    quarantine: Mapping[int, int] = field(default_factory=dict)


class Server(BaseModel):
    """[server]: how the aggregate Δ moves the parameters x.

    "sgd": m ← momentum · m + Δ; x ← x + lr · m (with momentum, FedAvgM: Hsu et al. 2019).
    "adam", "yogi", "adagrad" (Reddi et al. 2021, Algorithm 2): m ← β₁ m + (1 − β₁) Δ; v moves by Δ² as each of them
    has it, from v = τ²; x ← x + lr · m / (√v + τ). As there, without Adam's bias correction.
    `weight_decay` takes lr · weight_decay · x off, as torch's SGD does: Δ − weight_decay · x stands for Δ.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    optimizer: Literal["sgd", "adam", "yogi", "adagrad"] = "sgd"
    lr: Positive = 1.0
    momentum: float = Field(0.0, ge=0, lt=1)
    betas: list[Annotated[float, Field(ge=0, lt=1)]] = Field([0.9, 0.99], min_length=2, max_length=2)
    tau: Positive = 1e-3
    weight_decay: NotNegative = 0.0
    rates: Rates = Rates()

    @model_validator(mode="after")
    def _of_one_kind(self) -> "Server":
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(f"momentum = {self.momentum} belongs to sgd; {self.optimizer} has betas")
        return self

    def rate(self, round: int, rounds: int) -> float:
        """The learning rate in this round, of so many."""
        return min(self.lr * self.rates.at(round, rounds), LARGEST)

    def serve(
        self,
        updates: Tensor | Sequence[Tensor],
        situation: Situation,
        defence: Defence,
        memory: Mapping[str, Tensor],
        *,
        round: int,
        rounds: int,
        monitors: Sequence[Watch] = (),
        watched: Mapping[str, Tensor] | None = None,
    ) -> Served:
        """Aggregate what the clients of a situation sent and step by it, under the eyes of monitors.

        A round in which that cannot be done, or in which parameters overflow, is skipped: all stays as it was. So it
        does but for the monitors' memories where one has the step taken back.
        """
        watched, seen = watched or {}, Watched((), {})
        with defence.drawing(situation.stream):
            verdict = defence(updates, situation)
        if not verdict.skipped:
            params, kept = self.step(situation.params, verdict.update, memory, self.rate(round, rounds))
            if torch.isfinite(params).all():
                seen = watch(monitors, verdict, situation, watched, params)
                watched, verdict = seen.memory, replace(verdict, events=(*verdict.events, *seen.events))
                if not seen.rollback:
                    return Served(
                        params=params,
                        verdict=verdict,
                        previous=verdict.update,
                        memory=kept,
                        watched=watched,
                        stepped=True,
                        stop=seen.stop,
                        quarantine=seen.quarantine,
                    )
                verdict = replace(verdict, state=situation.state)
            else:
                events = (*verdict.events, Event("skipped", detail="parameters overflow"))
                verdict = replace(verdict, skipped=True, state=situation.state, events=events)
        return Served(
            params=situation.params,
            verdict=verdict,
            previous=situation.previous,
            memory=memory,
            watched=watched,
            stop=seen.stop,
            quarantine=seen.quarantine,
        )

    def step(self, params: Params, aggregate: Update, memory: Mapping[str, Tensor], lr: float) -> tuple[Params, State]:
        """The parameters after this aggregate, and the memory for the next round."""
        delta = aggregate
        if self.weight_decay:
            delta = torch.sub(delta, params, alpha=self.weight_decay)
        if self.optimizer == "sgd":
            if not self.momentum:
                return params + lr * delta, {}
            mean = memory["mean"] * self.momentum + delta if memory else delta
            return params + lr * mean, {"mean": mean}
        beta1, beta2 = self.betas
        mean = memory.get("mean", torch.zeros_like(params)) * beta1 + (1 - beta1) * delta
        square = memory.get("square", torch.full_like(params, self.tau**2))
        if self.optimizer == "adagrad":
            square = square + delta**2
        elif self.optimizer == "adam":
            square = beta2 * square + (1 - beta2) * delta**2
        else:
            square = square - (1 - beta2) * delta**2 * torch.sign(square - delta**2)
        return params + lr * mean / (square.sqrt() + self.tau), {"mean": mean, "square": square}
