"""What is learned: what labels are, and that nobody else knows."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import pytest
import torch
from sklearn import metrics
from torch import Tensor, nn

from fedpoison.attacks.poisoning import Aim
from fedpoison.clients.federation import Federation, Shard
from fedpoison.contract.lookup import find
from fedpoison.data import Dataset
from fedpoison.measures.evaluation import Evaluator, RootProbe
from fedpoison.tasks.classification import Classification
from fedpoison.tasks.task import LearningTask


def drawn(samples: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (samples,), generator=rng)
    return torch.randn(samples, classes, generator=rng), labels


@pytest.mark.parametrize("classes", [2, 5])
def test_measures_are_scikit_learns(classes: int) -> None:
    logits, labels = drawn(200, classes)
    found = Classification.of(labels, classes).measures(logits, labels)
    told = logits.argmax(dim=1)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(labels, told))
    assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(labels, told))
    assert found["per_class_recall"] == pytest.approx([*metrics.recall_score(labels, told, average=None)])
    if classes == 2:
        rare = int(labels.double().mean() <= 0.5)
        odds = logits[:, rare] - logits[:, 1 - rare]
        assert found["auc"] == pytest.approx(metrics.roc_auc_score(labels == rare, odds))
        assert found["rare_f1"] == pytest.approx(metrics.f1_score(labels, told, pos_label=rare))
    else:
        assert found["auc"] is found["rare_f1"] is None


def test_the_rarer_of_two_classes() -> None:
    assert Classification.of(torch.tensor([0, 0, 1]), 2).rare == 1
    assert Classification.of(torch.tensor([0, 1, 1]), 2).rare == 0
    assert Classification.of(torch.tensor([0, 1]), 2).rare == 1
    assert Classification.of(torch.tensor([0, 1, 2]), 3).rare is None


def test_labels_that_are_none() -> None:
    task = Classification(3)
    assert task.misfit(torch.tensor([0, 2, 1])) is None
    assert task.misfit(torch.tensor([], dtype=torch.int64)) is None
    assert task.misfit(torch.tensor([0, 3])) == "labels go from 0 to 3, 3 classes are 0 to 2"
    assert task.misfit(torch.tensor([-1, 2])) == "labels go from -1 to 2, 3 classes are 0 to 2"


def test_skew_by_hand() -> None:
    """Of all half are 0; one holder has nothing but that, one has both as all have."""
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    skews = Classification(2).skew(labels, [torch.tensor([0, 1]), torch.tensor([2, 3]), torch.tensor([4, 5])])
    assert skews.tolist() == [0.5, 0, 0.5]


class Ladder:
    """Labels are steps of a ladder, a net gives one number, and it is right within half a step."""

    outputs = 1

    def misfit(self, labels: Tensor) -> str | None:
        return "below the ladder" if (labels < 0).any() else None

    def losses(self, outputs: Tensor, labels: Tensor, reduction: str = "none") -> Tensor:
        losses = (outputs[:, 0].double() - labels).abs()
        return losses.sum() if reduction == "sum" else losses

    def usable(self, outputs: Tensor) -> Tensor:
        return outputs.isfinite().all(dim=1)

    def right(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return (outputs[:, 0] - labels).abs() < 0.5

    def measures(self, outputs: Tensor, labels: Tensor) -> dict[str, Any]:
        return {"accuracy": float(self.right(outputs, labels).double().mean()), "per_class_recall": []}

    def by_holder(self, outputs: Tensor, labels: Tensor, sizes: Any) -> dict[str, Any]:
        return {"client_accuracy": float(len(sizes))}

    def success(self, goal: str, labels: Tensor, wanted: Tensor, presented: Tensor, plain: Callable[[], Tensor]) -> Any:
        return {"target_success": float((presented - plain()).mean())}

    def skew(self, labels: Tensor, holders: Any) -> Tensor:
        return torch.tensor([float(labels[own].max()) for own in holders])


class Steps(Dataset):
    @cached_property
    def task(self) -> LearningTask:
        return Ladder()


def test_nobody_but_the_task_knows_what_a_label_is() -> None:
    rows = torch.tensor([[0.0], [1.2], [2.0], [9.0]])
    labels = torch.arange(4)
    data = Steps(rows, labels, rows, labels, 4)
    net = nn.Linear(1, 1)
    params = torch.tensor([1.0, 0.0])
    aim = Aim("targeted", rows + 3, rows, labels, labels)
    shard = Shard(rows, labels, torch.arange(2))
    scores = Evaluator(net, data, [aim], shard, [shard, shard])(params)
    assert (scores.accuracy, scores.validation_accuracy, scores.client_accuracy) == (0.75, 1, 2)
    assert scores.loss == pytest.approx(6.2 / 4)
    assert scores.target_success == pytest.approx(3)
    assert scores.balanced_accuracy is None
    loss, error = RootProbe(net, data.task, replace(shard, index=torch.arange(4))).at(params)(torch.zeros(2))
    assert (loss, error) == (pytest.approx(6.2 / 4), 0.25)
    step = find("partition", "iid"), {}
    federation = Federation(data, step, 2, 0)
    skews = [float(labels[federation.shard(i).index].max()) for i in range(2)]
    assert federation.skew(torch.arange(2)).tolist() == skews
