"""Classification: a label is one of so many classes, and a net gives a logit for each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedpoison.linalg.ranking import auroc, average_precision
from fedpoison.tasks.task import Measured


@dataclass(frozen=True)
class Classification:
    """Labels are int64, 0 to classes − 1; logits [n, classes]. `rare`: the rarer of two classes, None of more."""

    classes: int
    rare: int | None = None

    @classmethod
    def of(cls, labels: Tensor, classes: int) -> "Classification":
        """That of these training labels; of two classes that are equally frequent the second is the rarer."""
        sizes = torch.bincount(labels, minlength=classes).tolist()
        return cls(classes, int(sizes[1] <= sizes[0]) if classes == 2 else None)

    @property
    def outputs(self) -> int:
        """A logit a class."""
        return self.classes

    def misfit(self, labels: Tensor) -> str | None:
        """Labels outside of the classes."""
        if not len(labels):
            return None
        lowest, highest = int(labels.min()), int(labels.max())
        if 0 <= lowest <= highest < self.classes:
            return None
        return f"labels go from {lowest} to {highest}, {self.classes} classes are 0 to {self.classes - 1}"

    def losses(self, outputs: Tensor, labels: Tensor, reduction: Literal["none", "sum"] = "none") -> Tensor:
        """Cross-entropy."""
        return cross_entropy(outputs.double(), labels, reduction=reduction)

    def usable(self, outputs: Tensor) -> Tensor:
        """Those whose logits are all finite."""
        return outputs.isfinite().all(dim=1)

    def predicted(self, outputs: Tensor) -> Tensor:
        """The class of the largest logit [n]; −1, which is none, where a logit is not finite."""
        return outputs.argmax(dim=1).masked_fill(~self.usable(outputs), -1)

    def right(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Those whose class has the largest logit."""
        return self.predicted(outputs) == labels

    def measures(self, outputs: Tensor, labels: Tensor) -> Measured:
        """Accuracy, the recall of each class, and what tells classes of unlike sizes apart.

        `balanced_accuracy`: the mean recall of the classes that are there. Of two classes `auc` and
        `average_precision` of the rarer one's odds, its recall and its F1. None where a class is missing, and of the
        odds where some sample has none.
        """
        found = self.predicted(outputs)
        right = found == labels
        there = torch.bincount(labels, minlength=self.classes).tolist()
        hits = torch.bincount(labels[right], minlength=self.classes).tolist()
        recalls = [hit / count if count else None for hit, count in zip(hits, there, strict=True)]
        known = [recall for recall in recalls if recall is not None]
        measured: Measured = dict.fromkeys(("auc", "average_precision", "rare_recall", "rare_f1"))
        measured["accuracy"], measured["per_class_recall"] = float(right.double().mean()), recalls
        measured["balanced_accuracy"] = fmean(known)
        if self.rare is None or len(known) < 2:
            return measured
        odds, positive = self._odds(outputs), labels == self.rare
        measured["auc"], measured["average_precision"] = auroc(odds, positive), average_precision(odds, positive)
        measured["rare_recall"] = recalls[self.rare]
        measured["rare_f1"] = 2 * hits[self.rare] / (there[self.rare] + int((found == self.rare).sum()))
        return measured

    def _odds(self, outputs: Tensor) -> Tensor:
        """How much more each sample is held to be of the rarer class: the log of its odds [n], in float64.

        NaN where a logit is not finite.
        """
        assert self.rare is not None
        odds = outputs[:, self.rare].double() - outputs[:, 1 - self.rare].double()
        return odds.masked_fill(~self.usable(outputs), torch.nan)

    def by_holder(self, outputs: Tensor, labels: Tensor, sizes: Sequence[int]) -> Measured:
        """The accuracy, and of two classes the AUC over those who hold both, unless some sample has no odds."""
        right = self.right(outputs, labels).double()
        mean, worst = _mean_and_worst([float(part.mean()) for part in right.split([*sizes])])
        measured: Measured = {"client_accuracy": mean, "worst_decile_accuracy": worst}
        if self.rare is None or (odds := self._odds(outputs)).isnan().any():
            return measured
        parts = zip(odds.split([*sizes]), (labels == self.rare).split([*sizes]), strict=True)
        mean, worst = _mean_and_worst([auc for part in parts if (auc := auroc(*part)) is not None])
        return measured | {"client_auc": mean, "worst_decile_auc": worst}

    def success(
        self, goal: str, labels: Tensor, wanted: Tensor, presented: Tensor, plain: Callable[[], Tensor]
    ) -> Measured:
        """`asr` of a backdoor and `asr_untriggered`, without its trigger; else `target_success`, the wanted label's.

        Of an attack from class to class `source_recall` too: how many still get their own.
        """
        hit = float(self.right(presented, wanted).double().mean())
        if goal == "backdoor":
            return {"asr": hit, "asr_untriggered": float(self.right(plain(), wanted).double().mean())}
        if goal == "source_to_target":
            return {"target_success": hit, "source_recall": float(self.right(presented, labels).double().mean())}
        return {"target_success": hit}

    def skew(self, labels: Tensor, holders: Sequence[Tensor]) -> Tensor:
        """The total variation between the classes of each holder and those of all."""
        counts = torch.stack([torch.bincount(labels[own], minlength=self.classes) for own in holders]).double()
        shares, whole = counts / counts.sum(dim=1, keepdim=True), counts.sum(dim=0) / counts.sum()
        return (shares - whole).abs().sum(dim=1) / 2


def _mean_and_worst(values: Sequence[float]) -> tuple[float | None, float | None]:
    """The mean of all, and of the lowest tenth, rounded up; None of none."""
    worst = sorted(values)[: -(-len(values) // 10)]
    return (fmean(values), fmean(worst)) if values else (None, None)
