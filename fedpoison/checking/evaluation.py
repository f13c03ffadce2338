"""The rule evaluated plainly, on exact statistics and the whole matrix, against what the defence makes of it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fedpoison.checking.cases import Case, RuleError, Subject
from fedpoison.checking.contract import contract
from fedpoison.checking.symmetries import differ
from fedpoison.checking.wording import apart, situation
from fedpoison.common.errors import AlgorithmError
from fedpoison.contract.results import as_tensor, unpack
from fedpoison.contract.words import supplied
from fedpoison.types import Chosen, Noisy

_ROUNDING = 1e-4
_GRID = 64
"""Blocks are multiples of so many columns, and so promise bits; of others a sum over rows may round differently."""
_BLOCKS = (1, 7, _GRID)


def statistics(subject: Subject, case: Case) -> dict[str, Any]:
    """What the rule asks for, with every statistic by plain differences of rows in float64."""
    rows = case.updates.double()
    given = subject.situation(case)
    everything = _with_references(subject, case)
    centred = everything - rows.mean(dim=0)
    makers: dict[str, Callable[[], Any]] = {
        "n": lambda: len(rows),
        "f": lambda: case.f,
        "updates": lambda: case.updates.clone(),
        "gram": lambda: centred @ centred.T,
        "squared_distances": lambda: torch.stack([(everything - row).square().sum(dim=1) for row in everything]),
        "norms": lambda: rows.square().sum(dim=1).sqrt(),
        "sizes": lambda: case.sizes.clone(),
        "client_ids": lambda: case.client_ids.clone(),
        "previous": lambda: given.previous.clone(),
        "root_update": lambda: None if case.root_update is None else case.root_update.clone(),
        "params": lambda: given.params.clone(),
        "layers": lambda: given.layers,
        "base": lambda: lambda updates, f: updates.double().quantile(0.5, dim=0).to(updates.dtype),
        "probe": lambda: given.probe,
        "say": lambda: lambda text: None,
        "rng": lambda: given.stream.torch(),
        "state": lambda: {},
    }
    return supplied("aggregator", subject.entry.asks, makers)


def _with_references(subject: Subject, case: Case) -> Tensor:
    """The updates and the reference rows that follow them, in float64."""
    zero = torch.zeros_like(case.updates[0])
    vectors = {"origin": zero, "zero_model": zero if case.params is None else -case.params, **case.vectors}
    return torch.stack([*case.updates, *(vectors[name] for name in subject.entry.references)]).double()


def directly(subject: Subject, supply: dict[str, Any]) -> tuple[Tensor, float]:
    """The function called as a notebook would: its weights, or its aggregate; and what noise it wants added."""
    entry, noise = subject.entry, 0.0
    try:
        result = entry.tell("function", **supply, **subject.options)
        result = unpack(entry, result)[0] if "state" in supply else result
        if isinstance(result, Noisy | Chosen):
            noise = result.deviation if isinstance(result, Noisy) else 0.0
            result = result.weights if isinstance(result, Noisy) else result.update
        made = as_tensor(entry, result, "of numbers")
    except AlgorithmError as error:
        raise RuleError(error.kind, f"called directly, {error}") from error
    except Exception as error:
        what = f"called directly it fails with {type(error).__name__}: {error}"
        raise RuleError(type(error).__name__, what) from error
    return made, noise


def _aggregate(subject: Subject, case: Case) -> Tensor:
    supply = statistics(subject, case)
    result, noise = directly(subject, supply)
    if subject.entry.returns == "update":
        return result
    drawn = supply.get("rng") or subject.situation(case).stream.torch()
    added = noise * torch.randn(case.shape[1], generator=drawn, dtype=torch.float64) if noise else 0.0
    return result.double() @ _with_references(subject, case) + added


def _rounds(subject: Subject) -> Iterator[Case]:
    """First rounds: ordinary ones; several blocks wide; far from the origin, where careless distances cancel."""
    if subject.entry.coordinatewise:
        once = replace(subject, effort=1)
        yield from (*once.ordinary(), *once.ordinary(d=3 * _GRID + 8))
        return
    for case in subject.ordinary():
        if case.rounds == 1:
            yield case
            yield case.mapped(lambda values: values + 3000, but=("params",))


@contract("streamed by blocks of columns it gives the same as on the whole matrix", _rounds, ties_aside=True)
def evaluation(subject: Subject, case: Case) -> str | None:
    """Coordinate-wise: any blocks of columns, on the grid the same bits. Others: from exact statistics the same."""
    if not subject.entry.coordinatewise:
        made, exact = subject.play(case).update, _aggregate(subject, case)
        spread = float((case.updates - case.updates.mean(dim=0)).abs().max())
        if not differ(made, exact, 1e-6, _ROUNDING * spread):
            return None
        wrong, right = apart(made, exact.to(made.dtype))
        return f"{situation(subject, case)} the defence gives {wrong}, the function on exact statistics {right}"
    whole, d = subject.play(case).update, case.shape[1]
    eps = 100 * torch.finfo(whole.dtype).eps
    for width in _BLOCKS if d <= _GRID else (_GRID,):
        blocks = torch.arange(d).split(width)
        pieces = torch.cat([subject.play(case.of_columns(block.tolist())).update for block in blocks])
        rounding = 0.0 if width == _GRID else eps * float(case.updates.abs().max())
        if differ(pieces, whole, 0.0, rounding):
            apiece, together = apart(pieces, whole)
            how = "column by column" if width == 1 else f"by blocks of {width} columns"
            return f"{situation(subject, case)} the aggregate is {together} as a whole and {apiece} {how}"
    return None
