"""Single steps from anywhere: a notebook, a test, another framework's server."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, get_args

import torch
from torch import Tensor

from fedpoison.attacks.threat import Scene, craft_with
from fedpoison.common import parallel
from fedpoison.common.given import (
    Given,
    matrix_of,
    most_common_row,
    point_of,
    rows_of,
    table_of,
    tensor_of,
    vector_of,
    whole,
)
from fedpoison.common.seeding import Stream
from fedpoison.contract.entry import Step
from fedpoison.contract.lookup import find
from fedpoison.defences.defence import Defence
from fedpoison.defences.monitoring import Action, Watch
from fedpoison.defences.situation import Situation
from fedpoison.types import Layer, Probe, Verdict

Named = str | Callable[..., Any]


def chain(
    aggregator: Named,
    pre: Sequence[Named | Mapping[str, Any]] = (),
    options: Mapping[str, Any] | None = None,
    base: Named | Mapping[str, Any] | None = None,
) -> Defence:
    """A defence from names (or decorated functions); a pre-aggregator or base with options is a table with `name`."""
    if isinstance(pre, str | Mapping) or not isinstance(pre, Sequence):
        raise ValueError(f"pre is a list of steps, as [{pre!r}]")
    steps = tuple(_step("preaggregator", p) for p in pre)
    inner = None if base is None else _step("aggregator", base)
    return Defence(steps, _step("aggregator", aggregator, options or {}), inner)


def watched(monitor: Named | Mapping[str, Any]) -> Watch:
    """A monitor from its name (or the decorated function), or a table with `name`, options and `action`."""
    table = dict(monitor) if isinstance(monitor, Mapping) else {"name": monitor}
    action: Any = table.pop("action", "warn")
    span: Any = table.pop("for_rounds", None)
    if action not in get_args(Action):
        raise ValueError(f"action = {action!r} of a monitor is none of {', '.join(get_args(Action))}")
    if span is not None:
        span = whole("for_rounds", span)
    return Watch(_step("monitor", table), action, span)


@torch.inference_mode(False)
def aggregate(
    aggregator: Named,
    updates: Given,
    *,
    f: int = 0,
    pre: Sequence[Named | Mapping[str, Any]] = (),
    base: Named | Mapping[str, Any] | None = None,
    sizes: Given | None = None,
    client_ids: Given | None = None,
    previous: Given | None = None,
    root_update: Given | None = None,
    params: Given | None = None,
    layers: Sequence[Layer] = (),
    probe: Probe | None = None,
    state: Mapping[str, Given] | None = None,
    seed: int = 0,
    round: int = 1,
    options: Mapping[str, Any] | None = None,
    **named: Any,
) -> Verdict:
    """Aggregate one round's updates as a run would: screened, mixed by `pre`, aggregated.

    `updates`: [n, d] of float32 or float64, or n rows of which those that are not [d] and finite are set aside. These
    and other numbers are tensors, arrays or lists.
    `f`: how many may be malicious. `previous`: last round's aggregate, `state`: the last Verdict's;
    `root_update`: what training on the server's root set gave; `probe`: tries an update on that set; `layers`: which
    columns are which parameter's (one of all columns unless given); `base`: the rule that the rule is built around.
    `options`: the rule's, also by name where this function has none of that name. ValueError if the chain cannot take
    (n, f), with the bound.
    """
    defence = chain(aggregator, pre, _together(options, named), base)
    rows, f = rows_of("updates", updates), whole("f", f)
    n = len(rows)
    if not n:
        raise ValueError("there are no updates to aggregate")
    problems = defence.problems(n, f)
    if defence.trains_root and root_update is None:
        problems.append(f"{defence.wants_root} needs root_update")
    if defence.probes and probe is None:
        problems.append(f"{defence.wants_root} needs probe")
    if problems:
        raise ValueError("; ".join(problems))
    vectors = {name: point_of(name, v) for name, v in (("params", params), ("previous", previous)) if v is not None}
    like = next(iter(vectors.values()), None)
    like = most_common_row("updates", rows) if like is None else like
    d, nothing = len(like), torch.zeros_like(like)
    parts = _checked(layers, d)
    if misfits := defence.misfits(parts):
        raise ValueError("; ".join(misfits))
    situation = Situation(
        f=f,
        client_ids=torch.arange(n) if client_ids is None else _whole_numbers(vector_of("client_ids", client_ids, n)),
        sizes=torch.ones(n, dtype=torch.float64) if sizes is None else vector_of("sizes", sizes, n).double(),
        params=vectors.get("params", nothing),
        previous=nothing if previous is None else vector_of("previous", previous, d),
        stream=Stream(whole("seed", seed), "defence", whole("round", round)),
        state=_memory(state),
        root_update=None if root_update is None else vector_of("root_update", root_update, d),
        layers=parts,
        probe=probe,
    )
    with parallel.using(parallel.workers()):
        return defence(rows, situation)


@torch.inference_mode(False)
def craft(
    attack: Named,
    *,
    n_malicious: int,
    benign: Given | None = None,
    benign_ids: Given | None = None,
    own: Given | None = None,
    n: int | None = None,
    params: Given | None = None,
    previous: Given | None = None,
    server_lr: float = 1.0,
    defend: Callable[[Tensor], Verdict] | None = None,
    state: Mapping[str, Given] | None = None,
    seed: int = 0,
    round: int = 1,
    options: Mapping[str, Any] | None = None,
    **named: Any,
) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
    """Craft the malicious updates [n_malicious, d] of one round.

    `benign` [b, d]: honest updates the attackers know, of the clients `benign_ids` (0, 1, … unless given);
    `own` [n_malicious, d]: what they trained; `n`: clients in the round (b + n_malicious unless given), the attackers
    last. Rows of `benign` that are not finite are not shown to the attack. Numbers are tensors, arrays or
    lists. `options`: the attack's, also by name where this function has none of that name. What the attack's signature
    asks for must be given: ValueError says what is missing. Remarks on an attack are warnings.
    One with memory gives (updates, state).
    """
    step = _step("update_attack", attack, _together(options, named))
    known = {name: matrix_of(name, rows) for name, rows in (("benign", benign), ("own", own)) if rows is not None}
    like = next((rows.new_zeros(rows.shape[1]) for rows in known.values()), None)
    like = like if params is None else point_of("params", params)
    if (n_malicious := whole("n_malicious", n_malicious)) < 1:
        raise ValueError(f"n_malicious must be at least 1, it is {n_malicious}")
    n = len(known["benign"]) + n_malicious if n is None and "benign" in known else n
    given = {"defend": defend, "n": n, "params": like, **{name: rows for name, rows in known.items() if len(rows)}}
    missing = [word for word in step[0].asks if word in _OF_A_ROUND and given.get(word) is None]
    if missing:
        raise ValueError(f"{step[0].name} asks for {', '.join(missing)}, which is not given")
    if own is not None and len(known["own"]) != n_malicious:
        raise ValueError(f"own has {len(known['own'])} rows for n_malicious = {n_malicious}")
    if n is not None and whole("n", n) < n_malicious:
        raise ValueError(f"n = {n} clients are fewer than n_malicious = {n_malicious}")
    if not isinstance(server_lr, int | float) or not 0 < server_lr < math.inf:
        raise ValueError(f"server_lr must be more than 0, it is {server_lr!r}")
    like = torch.zeros(0) if like is None else like
    for name, rows in known.items():
        if rows.shape[1] != len(like):
            raise ValueError(
                f"{name} must have {len(like)} columns, as many as there are parameters, not {rows.shape[1]}"
            )
    none = like.new_empty(0, len(like))
    honest, clients = known.get("benign", none), torch.arange(n or n_malicious)
    ids = torch.arange(len(honest))
    scene = Scene(
        honest=honest,
        honest_ids=ids if benign_ids is None else _whole_numbers(vector_of("benign_ids", benign_ids, len(honest))),
        twins=none,
        twin_ids=ids[:0],
        own=known.get("own", none),
        malicious=clients >= len(clients) - n_malicious,
        params=like,
        previous=torch.zeros_like(like) if previous is None else vector_of("previous", previous, len(like)),
        server_lr=server_lr,
        defend=defend,
        stream=Stream(whole("seed", seed), "attack", whole("round", round)),
        state=_memory(state),
    )
    crafted, memory, remarks = craft_with(step, ("all", "defence"), scene)
    for remark in remarks:
        warnings.warn(remark.detail, stacklevel=2)
    return (crafted, memory) if "state" in step[0].asks else crafted


_OF_A_ROUND = {"benign", "own", "defend", "n", "params"}
"""What an attack may ask for and only the caller can know."""


def _together(options: Mapping[str, Any] | None, named: Mapping[str, Any]) -> dict[str, Any]:
    """Options given in a mapping and by name."""
    table = table_of("options", options)
    if twice := sorted({*table} & {*named}):
        raise ValueError(f"{', '.join(twice)} is given among the options and by name")
    return {**table, **named}


def _memory(state: Mapping[str, Given] | None) -> dict[str, Tensor]:
    return {name: tensor_of(f"state[{name!r}]", value) for name, value in table_of("state", state).items()}


def _whole_numbers(ids: Tensor) -> Tensor:
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise ValueError(f"client_ids must be whole numbers, not {ids.dtype}")
    return ids.long()


def _step(kind: str, named: Named | Mapping[str, Any], options: Mapping[str, Any] | None = None) -> Step:
    if isinstance(named, Mapping):
        table = dict(named)
        if "name" not in table:
            raise ValueError(f"a {kind} with options is a table with its name, such as {{'name': …}}, not {table}")
        return _step(kind, table.pop("name"), table)
    entry = find(kind, named)
    return entry, entry.validate(options or {})


def _checked(layers: Sequence[Layer] | None, d: int) -> tuple[Layer, ...]:
    if layers is None or (isinstance(layers, Sequence) and not layers):
        return (Layer("all", slice(0, d), (d,)),)
    if not isinstance(layers, Sequence) or not all(isinstance(layer, Layer) for layer in layers):
        raise ValueError(f"layers must be a sequence of Layer, not {type(layers).__name__}")
    ends = accumulate((math.prod(layer.shape) for layer in layers), initial=0)
    wanted = [slice(start, end) for start, end in pairwise(ends)]
    if [layer.columns for layer in layers] != wanted or wanted[-1].stop != d:
        raise ValueError(f"layers must follow one another through all {d} columns: {list(layers)}")
    return tuple(layers)
