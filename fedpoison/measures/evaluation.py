"""How well the global model does, and how well the attack does.

`asr`: the triggered test inputs whose true class is not the target, classified as the target.
`asr_untriggered`: the same inputs without the trigger. `target_success`: for attacks without a trigger, the
attacked test inputs that get the label the attacker wants; `source_recall`: those of an attack from class to class that
still get their own. A sample of which the model's outputs are not all finite is of no class: neither right nor a
success.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fedpoison.attacks.poisoning import Aim
from fedpoison.clients.federation import Shard
from fedpoison.common.parallel import in_parallel
from fedpoison.data import Dataset
from fedpoison.measures.rounds import finite
from fedpoison.models.vector import load
from fedpoison.tasks.task import LearningTask, Measured
from fedpoison.types import Event, Exam, Images, Labels, Params, Probe, Update

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
        self._task = dataset.task

    def __call__(self, params: Params) -> Scores:
        """Evaluate the model with these parameters."""
        load(self._net, params)
        unusable: list[str] = []

        def outputs(what: str, images: Tensor, labels: Labels, index: Tensor | None = None) -> tuple[Tensor, float]:
            made, loss = predict(self._net, self._task, images, labels, index)
            if count := int((~self._task.usable(made)).sum()):
                unusable.append(f"{count} of {len(labels)} {what}")
            return made, loss

        labels = self._dataset.test_labels
        made, loss = outputs("test samples", self._dataset.test_images, labels)
        scores = Scores(loss=finite(loss), **self._task.measures(made, labels))
        if shard := self._validation:
            labels = shard.labels[shard.index]
            made, loss = outputs("validation samples", shard.images, labels, shard.index)
            found = {"loss": finite(loss), **self._task.measures(made, labels)}
            known = {f"validation_{name}": value for name, value in found.items()}
            scores = replace(scores, **{name: value for name, value in known.items() if hasattr(scores, name)})
        if self._held_out:
            index = torch.cat([shard.index for shard in self._held_out])
            labels = self._held_out[0].labels[index]
            made, _ = outputs("held-out samples", self._held_out[0].images, labels, index)
            scores = replace(scores, **self._task.by_holder(made, labels, [*map(len, self._held_out)]))
        groups = [self._success(aim, outputs) if aim else {} for aim in self._aims]
        for success in reversed(groups):
            scores = replace(scores, **success)
        scores = replace(scores, groups=groups) if len(groups) > 1 else scores
        if not unusable:
            return scores
        detail = f"the model's outputs for {', '.join(unusable)} are not finite: they count as wrong"
        return replace(scores, events=(Event("not_finite", detail=detail),))

    def _success(self, aim: Aim, outputs: Callable[[str, Images, Labels], tuple[Tensor, float]]) -> Measured:
        """How well an attack does, by what it aims at."""
        presented, _ = outputs("attacked test samples", aim.presented, aim.wanted)

        def plain() -> Tensor:
            return outputs("their plain originals", aim.plain, aim.wanted)[0]

        return self._task.success(aim.goal, aim.labels, aim.wanted, presented, plain)


class RootProbe:
    """The server's root set, to try models on."""

    def __init__(self, net: nn.Module, task: LearningTask, root: Shard) -> None:
        self._net, self._task, self._root = copy.deepcopy(net).eval(), task, root

    def at(self, params: Params) -> Probe:
        """The probe of updates of these parameters."""

        def probe(update: Update) -> tuple[float, float]:
            load(self._net, params + update)
            labels = self._root.labels[self._root.index]
            outputs, loss = predict(self._net, self._task, self._root.images, labels, self._root.index)
            return loss, float((~self._task.right(outputs, labels)).double().mean())

        return probe


class Examiner:
    """Samples of the server's own, by which it sees how the model does."""

    def __init__(self, net: nn.Module, task: LearningTask, shard: Shard) -> None:
        self._net, self._task, self._shard = copy.deepcopy(net).eval(), task, shard

    def __call__(self, params: Params) -> Exam:
        """How a model with these parameters does; the share that is right is NaN of a class without samples."""
        load(self._net, params)
        labels = self._shard.labels[self._shard.index]
        outputs, loss = predict(self._net, self._task, self._shard.images, labels, self._shard.index)
        sizes, right = (
            torch.bincount(those, minlength=self._task.outputs).double()
            for those in (labels, labels[self._task.right(outputs, labels)])
        )
        return Exam(loss, right / sizes, sizes)


def predict(
    net: nn.Module, task: LearningTask, images: Tensor, labels: Labels, index: Tensor | None = None
) -> tuple[Tensor, float]:
    """Outputs [n, ...] and mean loss of the images, or of those at `index`, whose labels are given."""

    def one(chunk: slice) -> tuple[Tensor, float]:
        with torch.inference_mode():
            outputs = net(images[chunk].clone() if index is None else images[index[chunk]])  # a net may write to them
            return outputs, float(task.losses(outputs, labels[chunk], "sum"))

    chunks = [slice(i, i + _CHUNK) for i in range(0, len(labels), _CHUNK)]
    parts = list(in_parallel(one, chunks))
    return torch.cat([part[0] for part in parts]), sum(part[1] for part in parts) / len(labels)
