"""A case in words that a reader can follow with a pencil."""

from typing import Any

import torch
from torch import Tensor

from fedpoison.checking.cases import Case, Subject

_SHOWN = 60
"""Numbers of a matrix that a sentence may hold."""


def number(value: float, digits: int = 3) -> str:
    """Three digits unless asked for more; 1e9 and not 1e+09."""
    text = f"{value:.{digits}g}".replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")
    return "0" if text == "-0" else text


def vector(values: Tensor, digits: int = 3) -> str:
    """[0, 1, 0.5]; of a long one the beginning."""
    listed = [number(float(value), digits) for value in values[:_SHOWN]]
    return f"[{', '.join(listed)}{', …' if len(values) > _SHOWN else ''}]"


def apart(one: Tensor, other: Tensor) -> tuple[str, str]:
    """Two vectors of one length with as many digits as it takes to tell them from each other."""
    for digits in (3, 6, 9, 17):
        texts = vector(one, digits), vector(other, digits)
        if texts[0] != texts[1]:
            break
    return texts


def exactly(value: float, dtype: torch.dtype) -> str:
    """As few digits as tell it from every other number of its precision, up to nine."""
    wanted = torch.tensor(value, dtype=dtype)
    texts = (number(value, digits) for digits in range(3, 10))
    return next((text for text in texts if torch.tensor(float(text), dtype=dtype) == wanted), number(value, 9))


def matrix(updates: Tensor) -> str:
    """[[0, 1], [2, 0]], so that it can be typed again; of a large one the size."""
    n, d = updates.shape
    if n * d > _SHOWN:
        return f"({n} × {d} numbers)"
    rows = (", ".join(exactly(value, updates.dtype) for value in row) for row in updates.tolist())
    return f"[{', '.join(f'[{row}]' for row in rows)}]"


def situation(subject: Subject, case: Case) -> str:
    """With updates [[0, 1], [2, 0]] and f = 0."""
    return f"with updates {matrix(case.updates)}{besides(subject, case)}"


def besides(subject: Subject, case: Case) -> str:
    """All that the rule is shown besides the updates, as far as it is not plain."""
    parts = [f" and f = {case.f}"]
    plain = {"sizes": torch.ones(len(case.updates)), "client_ids": torch.arange(len(case.updates))}
    for word, usual in plain.items():
        value = getattr(case, word)
        if word in subject.entry.asks and not torch.equal(value.double(), usual.double()):
            parts.append(f", {word} = {vector(value)}")
    parts += [f", {name} = {vector(value)}" for name, value in case.vectors.items()]
    if case.cohorts:
        who = (f"clients {', '.join(map(str, cohort))}" for cohort in case.cohorts)
        parts.append(f", of which there come {', then '.join(who)},")
    if case.rounds > 1:
        parts.append(f", the same {case.rounds} rounds long,")
    return "".join(parts)


def as_dict(subject: Subject, case: Case) -> dict[str, Any]:
    """The case for machines: enough to make it again."""
    shown: dict[str, Any] = {"updates": case.updates.tolist(), "f": case.f, "seed": case.seed, "rounds": case.rounds}
    shown["dtype"] = str(case.updates.dtype).removeprefix("torch.")
    shown |= {word: getattr(case, word).tolist() for word in ("sizes", "client_ids") if word in subject.entry.asks}
    shown |= {name: value.tolist() for name, value in case.vectors.items()}
    if case.cohorts:
        shown["cohorts"] = list(map(list, case.cohorts))
    if case.attackers:
        shown["attackers"] = list(case.attackers)
    return shown
