"""A trigger for text: a few words that are put into it."""

from typing import Any, Literal

import torch

from fedpoison.attacks.data.relabelling import missing, plant, wanted
from fedpoison.contract.registry import data_attack
from fedpoison.types import Images, Labels, Share

Place = Literal["start", "middle", "end", "random"]


def insert(texts: Images, tokens: list[int], place: Place, rng: torch.Generator) -> Images:
    """The texts [samples, length] with `tokens` put in; as many are dropped at the beginning, so that none gets longer.

    What is short is filled up at the beginning, so most often it is filling that goes.
    """
    kept, room = texts[:, len(tokens) :], texts.shape[1] - len(tokens)
    if room < 0:
        raise ValueError(f"token_trigger: {len(tokens)} tokens do not fit into texts of {texts.shape[1]}")
    if place == "random":
        at = torch.randint(room + 1, (len(texts),), generator=rng)
    else:
        at = torch.full((len(texts),), {"start": 0, "middle": room // 2, "end": room}[place])
    put = torch.tensor(tokens)
    rows = [torch.cat([text[:i], put, text[i:]]) for text, i in zip(kept, at.tolist(), strict=True)]
    return torch.stack(rows) if rows else texts.clone()


def _check(n_classes: int, *, target: int, tokens: list[int], **_: Any) -> list[str]:
    problems = missing("token_trigger", [target], n_classes)
    if not tokens or min(tokens) < 0:
        problems.append(f"token_trigger: tokens are numbers from 0 up, at least one, they are {tokens}")
    return problems


def _aim(
    images: Images, labels: Labels, n_classes: int, *, target: int, share: float, **look: Any
) -> tuple[Images, Labels]:
    places = torch.Generator().manual_seed(0)  # the test texts are triggered once, whatever the run's seed
    return insert(images, **look, rng=places), wanted(labels, target)


@data_attack(
    paper="arXiv:1905.12457",
    source="secondary: the abstract; start, middle and end after the summary of BadNL (arXiv:2006.01043)",
    evidence="tests/attacks/test_backdoors.py::test_a_token_trigger_is_put_in_and_the_beginning_makes_room",
    goal="backdoor",
    samples=("tokens",),
    aim=_aim,
    check=_check,
)
def token_trigger(
    images: Images,
    labels: Labels,
    rng: torch.Generator,
    *,
    target: int = 0,
    share: Share = 0.5,
    tokens: list[int] = [7, 11, 13],
    place: Place = "random",
) -> tuple[Images, Labels]:
    """Put a sentence into a share of the texts and label them as the target.

    Dai and Chen 2019: the same `tokens`, one after the other, at a random place of each text; or at the "start",
    "middle" or "end" (BadNL, Chen et al. 2021).
    """
    return plant(images, labels, target, share, rng, lambda texts: insert(texts, tokens, place, rng))
