"""How well detectors would tell a client's poison from everybody's clean samples."""

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fedpoison.attacks.poisoning import Poison, Surrogate
from fedpoison.clients.federation import Federation
from fedpoison.measures.stealth import last_features, raw_features, stealth
from fedpoison.models.frozen import apply
from fedpoison.models.vector import travelling
from fedpoison.types import Images, Labels

_POOL = 3000
"""Samples that detectors are tried on."""
_EPOCHS, _OPERATIONS = 5, 2e11
"""For how long a net is trained to detect poison with, at the most: a few seconds."""


@dataclass(frozen=True)
class Detection:
    """The AUROC of each detector on some samples, by these features."""

    features: str
    samples: int
    poisoned: int
    auroc: dict[str, float | None]


Marked = tuple[Images, Labels, Tensor]
"""A client's samples after the attack, their labels, and which of them are poisoned: a mask."""


def detections(
    federation: Federation, poison: Poison, poisoned: Mapping[int, Marked], left_out: Collection[int], model: str
) -> tuple[tuple[Detection, ...], list[str]]:
    """How well the poison is told from all clients' clean samples, and what is to be said of that.

    `poisoned`: by client; nothing is looked at of the clients `left_out`. `model`: what the net is called.
    """
    dataset = poison.dataset
    remarks: list[str] = []
    if not poisoned:
        return (), remarks
    honest = [i for i in range(federation.clients) if i not in poisoned and i not in left_out]
    index = torch.cat([torch.empty(0, dtype=torch.int64), *(federation.shard(i).index for i in honest)])
    total = len(index) + sum(len(given) for _, given, _ in poisoned.values())
    kept = torch.arange(min(total, _POOL)) * total // min(total, _POOL)  # every so-many-th, in the clients' order
    clean, rest = index[kept[kept < len(index)]], kept[kept >= len(index)] - len(index)
    made, given, marks = (torch.cat(part)[rest] for part in zip(*poisoned.values(), strict=True))
    images, labels = torch.cat([dataset.train_images[clean], made]), torch.cat([dataset.train_labels[clean], given])
    bad = torch.cat([torch.zeros(len(clean), dtype=torch.bool), marks])
    if not images.isfinite().all():
        return (), ["some values are not finite: no detector is tried"]
    if not bad.any() or bad.all():
        return (), ["there are not both clean and poisoned samples for detectors to tell apart"]
    raw = "counts of tokens" if dataset.kind == "tokens" else "raw values"
    shown = {raw: raw_features(images, dataset.vocabulary)}
    try:
        features, epochs = _net_features(poison, images, labels)
        shown[f"{model} trained on these for {epochs} epoch{'s' * (epochs > 1)}"] = features
    except ValueError as error:
        remarks.append(f"no features of a net: {error}")
    measured = [Detection(name, len(bad), int(bad.sum()), stealth(made, labels, bad)) for name, made in shown.items()]
    return tuple(measured), remarks


def _net_features(poison: Poison, images: Images, labels: Labels) -> tuple[Tensor, int]:
    """What the last layer sees of a net trained on the samples, poisoned as they are, and for how many epochs.

    ValueError if that would take too long or comes to nothing.
    """
    surrogate = poison.surrogate
    if not isinstance(surrogate, Surrogate):
        raise ValueError("there is no net")
    inputs = images if poison.front is None else apply(poison.front, images)
    epochs = min(_EPOCHS, int(_OPERATIONS / (len(labels) * _operations(surrogate.net, inputs[:1]))))
    if not epochs:
        raise ValueError("training one takes too long for a preview")
    vocabulary = None if inputs.is_floating_point() else poison.dataset.vocabulary
    seen = replace(  # poison may be of any size
        poison.dataset,
        train_images=inputs,
        train_labels=labels,
        test_images=inputs[:1],
        test_labels=labels[:1],
        clients=None,
        vocabulary=vocabulary,
        seen_through=True,
    )
    net = replace(surrogate, seen=seen, epochs=epochs)(0, torch.arange(len(labels)))
    features = last_features(net, images)
    if not features.isfinite().all():
        raise ValueError("with these settings its training diverges")
    return features, epochs


def _operations(net: nn.Module, sample: Tensor) -> float:
    """Floating-point operations of a training step on one sample: three times those of looking at it.

    Recurrent layers are not counted by torch, so each parameter is taken to be used at each token.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copy.deepcopy(net).eval()(sample)
    tokens = 1 if sample.is_floating_point() else sample.shape[1]
    counted: int = max(counter.get_total_flops(), 2 * tokens * sum(p.numel() for p in travelling(net)))
    return 3.0 * counted
