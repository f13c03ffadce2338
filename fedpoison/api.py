"""Single steps from anywhere: a notebook, a test, another framework's server."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from fedpoison import parallel
from fedpoison.defence import Defence, Situation
from fedpoison.entry import Step
from fedpoison.lookup import find
from fedpoison.seeding import Stream
from fedpoison.threat import Scene, craft_with
from fedpoison.types import Layer, Probe, Updates, Verdict

Named = str | Callable[..., Any]


def chain(
    aggregator: Named,
    pre: Sequence[Named | Mapping[str, Any]] = (),
    options: Mapping[str, Any] | None = None,
    base: Named | Mapping[str, Any] | None = None,
) -> Defence:
    """A defence from names (or decorated functions); a pre-aggregator or base with options is a table with `name`."""
    steps = tuple(_step("preaggregator", p) for p in pre)
    inner = None if base is None else _step("aggregator", base)
    return Defence(steps, _step("aggregator", aggregator, options or {}), inner)


def aggregate(
    aggregator: Named,
    updates: Tensor | Sequence[Tensor],
    *,
    f: int = 0,
    pre: Sequence[Named | Mapping[str, Any]] = (),
    base: Named | Mapping[str, Any] | None = None,
    sizes: Tensor | None = None,
    client_ids: Tensor | None = None,
    previous: Tensor | None = None,
    root_update: Tensor | None = None,
    params: Tensor | None = None,
    layers: Sequence[Layer] = (),
    probe: Probe | None = None,
    state: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    round: int = 1,
    **options: Any,
) -> Verdict:
    """Aggregate one round's updates as a run would: screened, mixed by `pre`, aggregated.

    `updates`: [n, d] of float32 or float64, or n tensors of which those that are not [d] and finite are set
    aside. `f`: how many may be malicious. `previous`: last round's aggregate, `state`: the last Verdict's;
    `root_update`: what training on the server's root set gave; `probe`: tries an update on that set; `layers`: which
    columns are which parameter's (one of all columns unless given); `base`: the rule that the rule is built around.
    `options`: the rule's. ValueError if the chain cannot take (n, f), with the bound.
    """
    defence = chain(aggregator, pre, options, base)
    n = len(updates)
    if not n:
        raise ValueError("there are no updates to aggregate")
    if isinstance(updates, Tensor) and (updates.dim() != 2 or not updates.is_floating_point()):
        raise ValueError(f"updates must be a floating-point matrix [n, d], not {tuple(updates.shape)} {updates.dtype}")
    problems = defence.problems(n, f)
    if defence.trains_root and root_update is None:
        problems.append(f"{defence.wants_root} needs root_update")
    if defence.probes and probe is None:
        problems.append(f"{defence.wants_root} needs probe")
    if problems:
        raise ValueError("; ".join(problems))
    updates = updates.detach() if isinstance(updates, Tensor) else [row.detach() for row in updates]
    like = next((v for v in (params, previous) if v is not None), None)
    like = _most_common_row(updates) if like is None else like
    if like.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"updates must be float32 or float64, not {like.dtype}")
    nothing = torch.zeros_like(like)
    parts = _checked(layers, len(like)) if layers else (Layer("all", slice(0, len(like)), (len(like),)),)
    if misfits := defence.misfits(parts):
        raise ValueError("; ".join(misfits))
    situation = Situation(
        f=f,
        client_ids=torch.arange(n) if client_ids is None else client_ids,
        sizes=torch.ones(n, dtype=torch.float64) if sizes is None else sizes.double(),
        params=nothing if params is None else params,
        previous=nothing if previous is None else previous,
        stream=Stream(seed, "defence", round),
        state=state or {},
        root_update=root_update,
        layers=parts,
        probe=probe,
    )
    with parallel.using(parallel.workers()):
        return defence(updates, situation)


def craft(
    attack: Named,
    *,
    n_malicious: int,
    benign: Updates | None = None,
    own: Tensor | None = None,
    n: int | None = None,
    params: Tensor | None = None,
    previous: Tensor | None = None,
    server_lr: float = 1.0,
    defend: Callable[[Tensor], Verdict] | None = None,
    state: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    round: int = 1,
    **options: Any,
) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
    """Craft the malicious updates [n_malicious, d] of one round.

    `benign` [b, d]: honest updates the attackers know; `own` [n_malicious, d]: what they trained; `n`: clients in
    the round (b + n_malicious unless given). What the attack's signature asks for must be given: ValueError says
    what is missing. An attack's remarks are warnings. One with memory gives (updates, state).
    """
    step = _step("update_attack", attack, options)
    some = next((t for t in (benign, own) if t is not None), None)
    if params is None and some is not None:
        params = torch.zeros_like(some[0])
    if n is None and benign is not None:
        n = len(benign) + n_malicious
    given = {"benign": benign, "own": own, "defend": defend, "n": n, "params": params}
    missing = [word for word in step[0].asks if word in given and given[word] is None]
    if missing:
        raise ValueError(f"{step[0].name} asks for {', '.join(missing)}, which is not given")
    if own is not None and len(own) != n_malicious:
        raise ValueError(f"own has {len(own)} rows for n_malicious = {n_malicious}")
    like = torch.zeros(0) if params is None else params
    none = like.new_empty(0, len(like))
    scene = Scene(
        honest=none if benign is None else benign,
        twins=none,
        own=none if own is None else own,
        n_malicious=n_malicious,
        n=n or n_malicious,
        params=like,
        previous=torch.zeros_like(like) if previous is None else previous,
        server_lr=server_lr,
        defend=defend,
        stream=Stream(seed, "attack", round),
        state=dict(state or {}),
    )
    crafted, memory, remarks = craft_with(step, ("all", "defence"), scene)
    for remark in remarks:
        warnings.warn(remark.detail, stacklevel=2)
    return (crafted, memory) if "state" in step[0].asks else crafted


def _step(kind: str, named: Named | Mapping[str, Any], options: Mapping[str, Any] | None = None) -> Step:
    if isinstance(named, Mapping):
        table = dict(named)
        return _step(kind, table.pop("name"), table)
    entry = find(kind, named)
    return entry, entry.validate(options or {})


def _checked(layers: Sequence[Layer], d: int) -> tuple[Layer, ...]:
    ends = accumulate((math.prod(layer.shape) for layer in layers), initial=0)
    wanted = [slice(start, end) for start, end in pairwise(ends)]
    if [layer.columns for layer in layers] != wanted or wanted[-1].stop != d:
        raise ValueError(f"layers must follow one another through all {d} columns: {list(layers)}")
    return tuple(layers)


def _most_common_row(updates: Tensor | Sequence[Tensor]) -> Tensor:
    """A row of the shape and type that most vectors have: what the others are screened against."""
    if isinstance(updates, Tensor):
        return updates[0]
    kinds = [(row.dim() == 1 and row.is_floating_point(), tuple(row.shape), row.dtype) for row in updates]
    return updates[kinds.index(max(kinds, key=lambda kind: (kind[0], kinds.count(kind))))]
