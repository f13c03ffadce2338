"""Attacks that one client can do alone, as a mod for anybody's ClientApp."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Message
from flwr.clientapp.typing import ClientAppCallable, Mod
from torch import Tensor

from fedpoison.api import Named, craft
from fedpoison.contract.lookup import find
from fedpoison.flower.arrays import Layout

_MEMORY = "fedpoison.attack"


def attack_mod(
    attack: Named,
    *,
    malicious: Collection[int],
    clients: int | None = None,
    claims: int | None = None,
    server_lr: float = 1.0,
    statistics: Collection[str] = (),
    seed: int = 0,
    **options: Any,
) -> Mod:
    """A mod with which the clients whose `partition-id` is in `malicious` send what the attack makes of their training.

    `clients`: how many answer in a round, for attacks that ask for n. `claims`: the num-examples that they report.
    `options`: the attack's. The attack may ask for what its own training gave, not for other clients' updates, the
    last aggregate or the defence: ValueError names `AdversarialGrid`, which does. An attack's memory stays in the
    node's Context. Running statistics are sent as training left them (`statistics`: as for RobustStrategy).
    """
    entry = find("update_attack", attack)
    beyond = {"benign": "other clients' updates", "previous": "the last aggregate", "defend": "the defence"}
    if asked := [words for word, words in beyond.items() if word in entry.asks]:
        raise ValueError(
            f"{entry.name} asks for {' and '.join(asked)}, which one client cannot see: AdversarialGrid can"
        )
    if "n" in entry.asks and clients is None:
        raise ValueError(f"{entry.name} asks for n: give clients, how many answer in a round")
    entry.validate(options)

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        mine = int(context.node_config["partition-id"])
        if mine not in malicious or message.metadata.message_type.split(".")[0] != "train":
            return call_next(message, context)
        (sent,) = message.content.array_records.values()
        layout = Layout(sent, tuple(statistics))
        params = layout.vector(sent)
        reply = call_next(message, context)
        ((name, trained),) = reply.content.array_records.items()
        own = (layout.vector(trained) - params).unsqueeze(0)
        crafted = craft(
            attack,
            n_malicious=1,
            own=own,
            n=clients or 1,
            params=params,
            server_lr=server_lr,
            state=_remembered(context),
            seed=seed + 1_000_003 * mine,  # each draws for itself
            round=_round_of(message),
            **options,
        )
        if isinstance(crafted, tuple):
            crafted, memory = crafted
            context.state[_MEMORY] = ArrayRecord({key: Array(value.numpy()) for key, value in memory.items()})
        reply.content[name] = layout.forged(params, crafted[0], trained)
        if claims is not None:
            for record in reply.content.metric_records.values():
                record["num-examples"] = claims
        return reply

    return mod


def _remembered(context: Context) -> dict[str, Tensor]:
    kept: Mapping[str, Array] = context.state.array_records.get(_MEMORY) or {}
    return {key: torch.from_numpy(np.array(array.numpy())) for key, array in kept.items()}


def _round_of(message: Message) -> int:
    """The round that the message says it is of, by its config or its group."""
    for config in message.content.config_records.values():
        number = config.get("server-round")
        if isinstance(number, int):
            return number
    group = message.metadata.group_id
    return int(group) if group.isdecimal() else 0
