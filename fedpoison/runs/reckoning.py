"""What a run takes of memory at the least, reckoned before any of it is taken."""

from collections.abc import Mapping
from typing import Any

import torch

from fedpoison.common.memory import gigabytes, of_this_machine
from fedpoison.config.config import Config
from fedpoison.contract.entry import Step

_PAIRS = {"gram", "squared_distances"}


def check_memory(config: Config, shown: Mapping[str, Any]) -> None:
    """ValueError where a run cannot fit into this machine; `shown`: what a net is built for.

    Counted is what is there in every round: parameters, the last aggregate and the next, an update a client of the
    cohort, a momentum a client, and inner products of all pairs where a step asks for them. A user's net is counted
    when it is built.
    """
    d, cohort, has = _parameters(config.model.step, shown), config.clients.cohort, of_this_machine()
    vectors = 3 + cohort + (config.clients.count if config.clients.momentum else 0)
    if (needs := 4.0 * d * vectors) > has:
        what = f"{cohort} updates of {d:,} parameters and what belongs to them"
        raise ValueError(f"{what} take {gigabytes(needs)}, and this machine has {gigabytes(has)}")
    asked = {word for entry, _ in config.defence.chain.steps for word in entry.asks}
    if (config.defence.pre or _PAIRS & asked) and (needs := 8.0 * cohort**2) > has:
        what = f"the inner products of {cohort} updates"
        raise ValueError(f"{what} take {gigabytes(needs)}, and this machine has {gigabytes(has)}")


def _parameters(step: Step, shown: Mapping[str, Any]) -> int:
    """How many parameters a net of ours has, without a number of them; 1 where that is not known yet."""
    entry, options = step
    if not entry.ours:
        return 1
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in entry.call(shown, options).parameters())
