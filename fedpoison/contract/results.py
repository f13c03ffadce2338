"""What an algorithm returned, held to what its kind promises; AlgorithmError says what it must be instead."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fedpoison.contract.entry import Entry
from fedpoison.types import Chosen, Cleaned, Noisy

_UNIT = 1e-6
"""How far the sum of weights may be from 1, relative to the sum of their sizes if that is more."""


def unpack(entry: Entry, result: Any) -> tuple[Any, dict[str, Tensor]]:
    """The result and the memory that a function with `state` returned, without gradients."""
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)):
        raise entry.fault(f"asks for state and must return (result, state), not {_kind(result)}")
    for name, value in result[1].items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise entry.fault(f"may keep tensors by name in its state, and state[{name!r}] is {_kind(value)}")
        if "/" in name:
            raise entry.fault(f"keeps state[{name!r}]: what stands before a / says whose a memory is")
    return result[0], {name: as_tensor(entry, value, f"as state[{name!r}]") for name, value in result[1].items()}


def as_vector(entry: Entry, result: Any, d: int) -> Tensor:
    """An aggregate [d], without gradients."""
    made = as_tensor(entry, result, "[d]")
    if made.shape != (d,) or not made.is_floating_point():
        raise entry.fault(f"must return {d} floating-point numbers, not {tuple(made.shape)} of {made.dtype}")
    return made


def as_weights(entry: Entry, result: Any, rows: int) -> tuple[Tensor, float]:
    """One weight a row, 1 in all, without gradients; and the deviation of noise that is added to their sum."""
    try:
        noise = float(result.deviation) if isinstance(result, Noisy) else 0.0
    except (TypeError, ValueError) as error:
        raise entry.fault(f"must return Noisy with a number as deviation, not {result.deviation!r}") from error
    weights = as_tensor(entry, result.weights if isinstance(result, Noisy) else result, "of weights [n]")
    if weights.shape != (rows,) or not sums_to_one(weights):
        total = f"{tuple(weights.shape)}, {float(weights.double().sum()):.9g}"
        raise entry.fault(f"must return {rows} weights that sum to 1: {total}")
    return weights, noise


def sums_to_one(weights: Tensor) -> bool:
    """Whether each row of weights sums to 1, as far as float32 can tell; scaling up tiny rows takes huge weights."""
    shares = weights.double()
    missing = (shares.sum(dim=-1) - 1).abs()
    return not bool((missing > _UNIT * shares.abs().sum(dim=-1).clamp(min=1)).any())  # what is not finite is skipped


def as_chosen(entry: Entry, result: Chosen, rows: int, d: int) -> tuple[Tensor, Tensor]:
    """The aggregate [d], and which clients [rows] it is made of."""
    kept = as_tensor(entry, result.kept, "in Chosen.kept")
    if kept.shape != (rows,) or kept.dtype != torch.bool:
        raise entry.fault(f"must say of {rows} clients whether they are kept, not {tuple(kept.shape)} of {kept.dtype}")
    return as_vector(entry, result.update, d), kept


def as_mixing(entry: Entry, result: Any, into: int, rows: int) -> Tensor:
    """A mixing [into, rows] whose rows sum to 1, unless the entry says that what they lack lies on the origin."""
    mixing = as_tensor(entry, result, "[m, n]")
    if mixing.shape != (into, rows):
        raise entry.fault(f"must return a mixing of ({into}, {rows}) as its rows say, not {tuple(mixing.shape)}")
    if "origin" not in entry.references and not sums_to_one(mixing):
        raise entry.fault('must return rows that sum to 1, or say references=("origin",)')
    return mixing


def as_losses(entry: Entry, result: Any, samples: int) -> Tensor:
    """The loss of each sample [samples], with its gradients."""
    if not isinstance(result, Tensor) or result.shape != (samples,) or not result.is_floating_point():
        made = f"{tuple(result.shape)} of {result.dtype}" if isinstance(result, Tensor) else _kind(result)
        raise entry.fault(f"must return a loss for each of {samples} samples, not {made}")
    if torch.is_grad_enabled() and not result.requires_grad:
        raise entry.fault("must return losses that follow from the logits, and theirs have no gradient")
    return result


def as_cleaned(entry: Entry, result: Any, samples: int) -> tuple[Tensor, Tensor]:
    """Which samples [samples] are kept, and how suspect each is."""
    if not isinstance(result, Cleaned):
        raise entry.fault(f"must return Cleaned, not {_kind(result)}")
    keep, suspicion = as_tensor(entry, result.keep, "in Cleaned.keep"), as_tensor(entry, result.suspicion, "in Cleaned")
    if keep.shape != (samples,) or keep.dtype != torch.bool:
        raise entry.fault(
            f"must say of {samples} samples whether each is kept, not {tuple(keep.shape)} of {keep.dtype}"
        )
    if suspicion.shape != (samples,) or not suspicion.is_floating_point() or suspicion.isnan().any():
        raise entry.fault(f"must say by a number how suspect each of {samples} samples is")
    return keep, suspicion.double()


def as_scores(entry: Entry, supply: Mapping[str, Any], rows: int) -> Tensor:
    """How suspect an entry holds each row [rows], in float64; what is no number counts as most."""
    words = inspect.signature(entry.scores).parameters if entry.scores else ()
    shown = {word: supply[word] for word in words}
    if not entry.ours:
        shown = {word: value.clone() if isinstance(value, Tensor) else value for word, value in shown.items()}
    made = as_tensor(entry, entry.tell("scores", **shown), "of scores [n]")
    if made.shape != (rows,):
        raise entry.fault(f"must score {rows} rows, not {tuple(made.shape)}")
    return made.double().nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)


def as_samples(entry: Entry, result: Any, images: Tensor, labels: Tensor, how: str = "") -> tuple[Tensor, Tensor]:
    """The images and labels that an attack on data made of these, in the same shapes and types."""
    if not (isinstance(result, tuple | list) and len(result) == 2):
        raise entry.fault(f"must return {how}(images, labels), not {_kind(result)}")
    made = [as_tensor(entry, part, f"of {name}") for name, part in zip(("images", "labels"), result, strict=True)]
    for name, given, got in zip(("images", "labels"), (images, labels), made, strict=True):
        if (got.shape, got.dtype) != (given.shape, given.dtype):
            was, now = (f"{tuple(t.shape)} {t.dtype}" for t in (given, got))
            raise entry.fault(f"returned {how}{name} {now} for {was}")
    return made[0], made[1]


def as_tensor(entry: Entry, result: Any, form: str) -> Tensor:
    """An ordinary tensor, without gradients."""
    if not isinstance(result, Tensor):
        raise entry.fault(f"must return a tensor {form}, not {_kind(result)}")
    if result.layout is not torch.strided or result.device.type != "cpu":
        raise entry.fault(f"must return a dense tensor {form} on the CPU, not {result.layout} on {result.device}")
    return result.detach()


def _kind(value: Any) -> str:
    hints = {"NoneType": " (is a return missing?)", "list": " (torch.tensor makes one of it)"}
    hints["ndarray"] = " (torch.from_numpy makes one of it)"
    return type(value).__name__ + hints.get(type(value).__name__, "")
