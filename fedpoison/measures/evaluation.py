"""How well the global model does, and how well the attack does.

`asr`: the triggered test inputs whose true class is not the target, classified as the target.
`asr_untriggered`: the same inputs without the trigger. `target_success`: for attacks without a trigger, the
attacked test inputs that get the label the attacker wants; `source_recall`: those of an attack from class to class that
still get their own. A sample of which the model's outputs are not all finite is of no class: neither right nor a
success.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedpoison.attacks.poisoning import Aim
from fedpoison.clients.federation import Shard
from fedpoison.common.parallel import in_parallel
from fedpoison.data import Dataset
from fedpoison.measures.rounds import Measured, auroc, finite, odds_of, predicted, quality, usable
from fedpoison.models.vector import load
from fedpoison.types import Event, Labels, Params, Probe, Update

_CHUNK = 500
"""Test samples a task: fixed, so that results do not depend on the number of threads."""


@dataclass(frozen=True)
class Scores:
    """One evaluation; None where there is nothing to measure.

    Of several groups of attackers the success is the first one's that aims at such a thing; each one's is in `groups`.
    """

    accuracy: float
    loss: float | None
    per_class_recall: list[float | None]
    asr: float | None = None
    asr_untriggered: float | None = None
    target_success: float | None = None
    source_recall: float | None = None
    validation_accuracy: float | None = None
    validation_loss: float | None = None
    client_accuracy: float | None = None
    worst_decile_accuracy: float | None = None
    balanced_accuracy: float | None = None
    auc: float | None = None
    average_precision: float | None = None
    rare_recall: float | None = None
    rare_f1: float | None = None
    validation_balanced_accuracy: float | None = None
    validation_auc: float | None = None
    validation_average_precision: float | None = None
    validation_rare_recall: float | None = None
    validation_rare_f1: float | None = None
    client_auc: float | None = None
    worst_decile_auc: float | None = None
    groups: list[Measured] | None = None
    events: tuple[Event, ...] = ()


class Evaluator:
    """The test set, and its attacked version, made once; and the sets on which else the model is looked at.

    `validation`: samples that are neither trained nor tested on. `held_out`: what each honest client keeps of its
    samples; `client_accuracy` is the mean over the clients, `worst_decile_accuracy` over the worst tenth of them,
    rounded up: what a defence costs those whose data are unlike the others'. The same of the AUC, over those who hold
    out samples of both classes.
    """

    def __init__(
        self,
        net: nn.Module,
        dataset: Dataset,
        aims: Sequence[Aim | None] = (),
        validation: Shard | None = None,
        held_out: Sequence[Shard] = (),
    ) -> None:
        self._net, self._dataset = copy.deepcopy(net).eval(), dataset
        self._validation = validation
        self._held_out = [shard for shard in held_out if len(shard)]
        self._aims = aims
        sizes = torch.bincount(dataset.train_labels, minlength=dataset.n_classes).tolist()
        self._rare = int(sizes[1] <= sizes[0]) if len(sizes) == 2 else None
        self._unusable: list[str] = []

    def __call__(self, params: Params) -> Scores:
        """Evaluate the model with these parameters."""
        load(self._net, params)
        self._unusable = []
        labels = self._dataset.test_labels
        logits, loss = self._predict("test samples", self._dataset.test_images, labels)
        right = predicted(logits) == labels
        recall = [
            float(right[labels == c].double().mean()) if (labels == c).any() else None
            for c in range(self._dataset.n_classes)
        ]
        found = quality(logits, labels, self._rare)
        scores = Scores(float(right.double().mean()), finite(loss), recall, **found)
        if self._validation:
            scores = self._validated(scores, self._validation)
        if self._held_out:
            scores = self._with_clients(scores)
        groups = [self._success(aim) for aim in self._aims]
        for success in reversed(groups):
            scores = replace(scores, **success)
        scores = replace(scores, groups=groups) if len(groups) > 1 else scores
        if not self._unusable:
            return scores
        detail = f"the model's outputs for {', '.join(self._unusable)} are not finite: they count as wrong"
        return replace(scores, events=(Event("not_finite", detail=detail),))

    def _success(self, aim: Aim | None) -> Measured:
        """How well an attack does, by what it aims at."""
        if aim is None:
            return {}
        found = predicted(self._predict("attacked test samples", aim.presented, aim.wanted)[0])
        hit = float((found == aim.wanted).double().mean())
        if aim.goal == "backdoor":
            plain = predicted(self._predict("their plain originals", aim.plain, aim.wanted)[0])
            return {"asr": hit, "asr_untriggered": float((plain == aim.wanted).double().mean())}
        if aim.goal == "source_to_target":
            return {"target_success": hit, "source_recall": float((found == aim.labels).double().mean())}
        return {"target_success": hit}

    def _validated(self, scores: Scores, shard: Shard) -> Scores:
        labels = shard.labels[shard.index]
        logits, loss = self._predict("validation samples", shard.images, labels, shard.index)
        accuracy = float((predicted(logits) == labels).double().mean())
        found = {f"validation_{name}": value for name, value in quality(logits, labels, self._rare).items()}
        return replace(scores, validation_accuracy=accuracy, validation_loss=finite(loss), **found)

    def _with_clients(self, scores: Scores) -> Scores:
        index = torch.cat([shard.index for shard in self._held_out])
        labels = self._held_out[0].labels[index]
        logits, _ = self._predict("held-out samples", self._held_out[0].images, labels, index)
        right, sizes = (predicted(logits) == labels).double(), [*map(len, self._held_out)]
        accuracies = [float(part.mean()) for part in right.split(sizes)]
        client, worst = _mean_and_worst(accuracies)
        scores = replace(scores, client_accuracy=client, worst_decile_accuracy=worst)
        if self._rare is None or (odds := odds_of(self._rare, logits)).isnan().any():
            return scores
        parts = zip(odds.split(sizes), (labels == self._rare).split(sizes), strict=True)
        client, worst = _mean_and_worst([auc for part in parts if (auc := auroc(*part)) is not None])
        return replace(scores, client_auc=client, worst_decile_auc=worst)

    def _predict(self, what: str, images: Tensor, labels: Labels, index: Tensor | None = None) -> tuple[Tensor, float]:
        logits, loss = predict(self._net, images, labels, index)
        if unusable := int((~usable(logits)).sum()):
            self._unusable.append(f"{unusable} of {len(labels)} {what}")
        return logits, loss


def _mean_and_worst(values: Sequence[float]) -> tuple[float | None, float | None]:
    """The mean of all, and of the lowest tenth, rounded up; None of none."""
    worst = sorted(values)[: -(-len(values) // 10)]
    return (fmean(values), fmean(worst)) if values else (None, None)


class RootProbe:
    """The server's root set, to try models on."""

    def __init__(self, net: nn.Module, root: Shard) -> None:
        self._net, self._root = copy.deepcopy(net).eval(), root

    def at(self, params: Params) -> Probe:
        """The probe of updates of these parameters."""

        def probe(update: Update) -> tuple[float, float]:
            load(self._net, params + update)
            labels = self._root.labels[self._root.index]
            logits, loss = predict(self._net, self._root.images, labels, self._root.index)
            return loss, float((predicted(logits) != labels).double().mean())

        return probe


def predict(net: nn.Module, images: Tensor, labels: Labels, index: Tensor | None = None) -> tuple[Tensor, float]:
    """Logits [n, classes] and mean loss of the images, or of those at `index`, whose labels are given."""

    def one(chunk: slice) -> tuple[Tensor, float]:
        with torch.inference_mode():
            logits = net(images[chunk].clone() if index is None else images[index[chunk]])  # a net may write to them
            loss = cross_entropy(logits.double(), labels[chunk], reduction="sum")
            return logits, float(loss)

    chunks = [slice(i, i + _CHUNK) for i in range(0, len(labels), _CHUNK)]
    parts = list(in_parallel(one, chunks))
    return torch.cat([part[0] for part in parts]), sum(part[1] for part in parts) / len(labels)
