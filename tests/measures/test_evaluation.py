"""Evaluation against nets whose predictions are known."""

from dataclasses import fields
from typing import Any

import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor, nn

from fedpoison.attacks.poisoning import aim_of
from fedpoison.clients.federation import Shard
from fedpoison.common import parallel
from fedpoison.contract.lookup import find
from fedpoison.data import Dataset
from fedpoison.measures.evaluation import Evaluator, RootProbe, Scores
from fedpoison.measures.metrics import QUALITY, SCORES
from fedpoison.models.vector import flatten


class ByTable(nn.Module):
    """Predicts what is written in a sample's first row; one parameter scales the logits.

    Pixel (0, 0, i) of a sample is the logit of class i; a bright pixel at (5, 5) forces class 0.
    """

    def __init__(self, trigger: bool = True) -> None:
        super().__init__()
        self.scale, self.trigger = nn.Parameter(torch.ones(())), trigger

    def forward(self, images: Tensor) -> Tensor:
        logits = self.scale * images[:, 0, 0, :4]
        if self.trigger:
            logits = logits + 100 * (images[:, 0, 4, 4] == 1).unsqueeze(1) * torch.tensor([1.0, 0, 0, 0])
        return logits


def samples(*pairs: tuple[int, int]) -> Dataset:
    """One sample for each (class, what the net makes of it)."""
    images = torch.zeros(len(pairs), 1, 6, 6)
    for image, (_, predicted) in zip(images, pairs, strict=True):
        image[0, 0, predicted] = 0.9
    labels = torch.tensor([label for label, _ in pairs])
    return Dataset(images, labels, images, labels, 4)


def scores_of(
    data: Dataset, net: nn.Module | None = None, scale: float = 1.0, attack: Any = None, **options: Any
) -> Scores:
    entry = None if attack is None else find("data_attack", attack)
    step = None if entry is None else (entry, entry.validate(options))
    evaluator = Evaluator(net or ByTable(), data, [aim_of(step, data)] if step else [])
    return evaluator(torch.tensor([scale]))


def test_accuracy_and_recall_are_counted() -> None:
    scores = scores_of(samples((0, 0), (0, 1), (1, 1), (1, 1), (1, 2), (2, 3)))
    assert scores.accuracy == 0.5
    assert scores.per_class_recall == [0.5, pytest.approx(2 / 3), 0.0, None]
    assert (scores.asr, scores.asr_untriggered, scores.target_success) == (None, None, None)


def test_the_loss_is_the_mean_cross_entropy() -> None:
    scores = scores_of(samples((0, 0), (0, 1), (3, 3)), scale=2.0)
    logits = torch.tensor([[1.8, 0, 0, 0], [0, 1.8, 0, 0], [0, 0, 0, 1.8]], dtype=torch.float64)
    expected = -torch.log_softmax(logits, dim=1)[torch.arange(3), torch.tensor([0, 0, 3])].mean()
    assert scores.loss == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_is_left_out(scale: float) -> None:
    scores = scores_of(samples((0, 0), (1, 2)), scale=scale)
    assert scores.loss is None
    assert 0 <= scores.accuracy <= 1
    assert len(scores.per_class_recall) == 4


def test_a_huge_loss_is_kept() -> None:
    assert scores_of(samples((0, 0), (1, 2)), scale=1e38).loss == pytest.approx(0.45e38, rel=1e-6)


class Given(nn.Module):
    """Logits that are the samples; one parameter scales them."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, samples: Tensor) -> Tensor:
        return self.scale * samples


def graded(seed: int, samples: int = 40) -> tuple[Tensor, Tensor]:
    """Logits of two classes with many ties, and labels, of which few are 1."""
    rng = torch.Generator().manual_seed(seed)
    labels = (torch.rand(samples, generator=rng) < 0.25).long()
    return torch.randint(4, (samples, 2), generator=rng) + 0.5 * labels[:, None] * torch.tensor([0.0, 1.0]), labels


@pytest.mark.parametrize("rare", [0, 1])
def test_the_quality_of_two_classes_is_scikit_learns(rare: int) -> None:
    for seed in range(20):
        logits, labels = graded(seed)
        logits, labels = (logits, labels) if rare else (logits.flip(1), 1 - labels)
        scores = Evaluator(Given(), Dataset(logits, labels, logits, labels, 2))(torch.ones(1))
        predicted, odds = logits.argmax(dim=1), logits[:, rare] - logits[:, 1 - rare]
        assert scores.balanced_accuracy == pytest.approx(sk.balanced_accuracy_score(labels, predicted))
        assert scores.auc == pytest.approx(sk.roc_auc_score(labels == rare, odds))
        assert scores.average_precision == pytest.approx(sk.average_precision_score(labels == rare, odds))
        assert scores.rare_recall == pytest.approx(sk.recall_score(labels, predicted, pos_label=rare))
        assert scores.rare_f1 == pytest.approx(sk.f1_score(labels, predicted, pos_label=rare))


def test_the_rarer_class_is_that_of_the_training_data_and_of_equal_ones_the_second() -> None:
    logits, labels = graded(0)
    for train, rare in ((torch.tensor([0, 1, 1]), 0), (torch.tensor([0, 0, 1]), 1), (torch.tensor([0, 1]), 1)):
        scores = Evaluator(Given(), Dataset(logits[: len(train)], train, logits, labels, 2))(torch.ones(1))
        assert scores.rare_recall == scores.per_class_recall[rare]


def test_three_classes_have_a_balanced_accuracy_alone() -> None:
    scores = scores_of(samples((0, 0), (0, 1), (1, 1), (3, 2)))
    assert scores.balanced_accuracy == pytest.approx((0.5 + 1 + 0) / 3)
    assert (scores.auc, scores.average_precision, scores.rare_recall, scores.rare_f1) == (None,) * 4


@pytest.mark.parametrize("label", [0, 1])
def test_where_a_class_is_missing_nothing_is_said_of_two(label: int) -> None:
    logits, labels = graded(0)
    there = labels == label
    scores = Evaluator(Given(), Dataset(logits, labels, logits[there], labels[there], 2))(torch.ones(1))
    assert (scores.auc, scores.average_precision, scores.rare_recall, scores.rare_f1) == (None,) * 4
    assert scores.balanced_accuracy == scores.accuracy


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), float("-inf")])
def test_odds_that_are_no_numbers_have_no_auc(scale: float) -> None:
    logits, labels = graded(0)
    shard = Shard(logits, labels, torch.arange(len(labels)))
    evaluator = Evaluator(Given(), Dataset(logits, labels, logits, labels, 2), [], shard, [shard])
    scores = evaluator(torch.tensor([scale]))
    assert scores.auc is scores.average_precision is scores.validation_auc is scores.client_auc is None
    assert scores.balanced_accuracy is not None


class Ruined(nn.Module):
    """As a table has it, but samples whose pixel (3, 3) is set have a NaN, an infinity or a −infinity among outputs."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.scale, self.value = nn.Parameter(torch.ones(())), value

    def forward(self, images: Tensor) -> Tensor:
        logits = self.scale * images[:, 0, 0, :4]
        logits[images[:, 0, 3, 3] == 1, 0] = self.value
        return logits


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_outputs_that_are_not_finite_are_neither_right_nor_a_success(value: float) -> None:
    """argmax takes NaN for the largest: class 0 would be recognised, and badnets' own target 0 reached."""
    data = samples((0, 0), (0, 0), (1, 0), (1, 1), (2, 0), (2, 2))
    data.test_images[::2, 0, 3, 3] = 1
    held = [Shard(data.test_images, data.test_labels, torch.arange(6))]
    for attack, names in (("badnets", ("asr", "asr_untriggered")), ("label_flip", ("target_success", "source_recall"))):
        entry = find("data_attack", attack)
        options = {"target": 0, "size": 1} if attack == "badnets" else {"source": 1, "target": 0}
        aim = aim_of((entry, entry.validate(options)), data)
        scores = Evaluator(Ruined(value), data, [aim], held[0], held)(torch.ones(1))
        assert scores.accuracy == scores.validation_accuracy == scores.client_accuracy == 0.5
        assert scores.per_class_recall == [0.5, 0.5, 0.5, None]
        assert scores.balanced_accuracy == 0.5
        assert getattr(scores, names[0]) == 0
        assert getattr(scores, names[1]) == (0 if attack == "badnets" else 0.5)
        (event,) = scores.events
        assert event.what == "not_finite"
        for part in ("3 of 6 test samples", "3 of 6 validation samples", "3 of 6 held-out samples"):
            assert part in event.detail
        assert ("2 of 4 attacked test samples" if attack == "badnets" else "1 of 2 attacked") in event.detail
    _, error = RootProbe(Ruined(value), data.task, held[0]).at(torch.ones(1))(torch.zeros(1))
    assert error == 0.5


def test_one_output_that_is_not_finite_leaves_no_auc() -> None:
    logits, labels = graded(0)
    logits[3, 0] = 3e38
    shard = Shard(logits, labels, torch.arange(len(labels)))
    data = Dataset(logits, labels, logits, labels, 2)
    scores = Evaluator(Given(), data, [], shard, [shard])(torch.tensor([2.0]))
    assert scores.auc is scores.average_precision is scores.validation_auc is scores.client_auc is None
    assert scores.worst_decile_auc is None
    assert scores.rare_recall is not None


def test_validation_and_clients_have_the_same_metrics() -> None:
    logits, labels = graded(1, 90)
    data = Dataset(logits, labels, logits[:30], labels[:30], 2)
    held = [torch.arange(30 + 12 * i, 42 + 12 * i) for i in range(4)] + [(labels == 0).nonzero().flatten()[:5]]
    shards = [Shard(logits, labels, index) for index in held]
    scores = Evaluator(Given(), data, [], Shard(logits, labels, torch.arange(30)), shards)(torch.ones(1))
    for name in QUALITY:
        assert getattr(scores, f"validation_{name}") == getattr(scores, name) is not None
    odds = logits[:, 1] - logits[:, 0]
    aucs = [sk.roc_auc_score(labels[index], odds[index]) for index in held[:4]]  # the fifth has one class
    assert scores.client_auc == pytest.approx(sum(aucs) / 4)
    assert scores.worst_decile_auc == pytest.approx(min(aucs))


def test_every_score_has_a_name_that_tables_know() -> None:
    assert {field.name for field in fields(Scores)} - {"per_class_recall", "groups", "events"} == set(SCORES)


def test_asr_leaves_out_samples_of_the_target_class() -> None:
    data = samples((0, 0), (0, 0), (0, 1), (1, 0), (1, 1), (2, 2), (3, 3))
    triggered = scores_of(data, attack="badnets", target=0, size=3)
    assert triggered.asr == 1.0  # the trigger reaches pixel (4, 4)
    assert triggered.asr_untriggered == 0.25  # one of the four of other classes; the target's own do not count
    assert triggered.target_success is None
    assert triggered.accuracy == pytest.approx(5 / 7)
    deaf = scores_of(data, ByTable(trigger=False), attack="badnets", target=0, size=3)
    assert deaf.asr == deaf.asr_untriggered == 0.25
    missed = scores_of(data, attack="badnets", target=0, size=3, position="top_left")
    assert missed.asr == 0.25  # a stamp over rows 1 to 3 is not the trigger


def test_asr_of_a_net_that_always_says_the_target_is_one_and_of_one_that_never_does_zero() -> None:
    always, never = samples(*((c, 2) for c in range(4))), samples(*((c, 1) for c in range(4)))
    assert scores_of(always, ByTable(False), attack="badnets", target=2).asr == 1.0
    assert scores_of(never, ByTable(False), attack="badnets", target=2).asr == 0.0


def test_there_is_no_asr_where_all_samples_are_of_the_target_class() -> None:
    scores = scores_of(samples((1, 1), (1, 2)), attack="badnets", target=1)
    assert (scores.asr, scores.asr_untriggered, scores.target_success) == (None, None, None)


@pytest.mark.parametrize(
    ("options", "success"),
    [
        ({"source": 1, "target": 2}, 0.5),  # one of two
        ({"source": [1, 3], "target": 2}, pytest.approx(1 / 3)),
        ({"source": "all", "target": 2}, pytest.approx(2 / 4)),  # samples of class 2 do not count
        ({"source": "all", "target": "C-1-y"}, pytest.approx(3 / 5)),
        ({"source": 2, "target": "C-1-y"}, 1.0),
        ({"source": "all", "target": "random"}, None),
    ],
)
def test_target_success_is_the_share_that_gets_the_wanted_label(options: dict[str, Any], success: Any) -> None:
    scores = scores_of(samples((0, 2), (1, 2), (1, 1), (2, 1), (3, 0)), attack="label_flip", **options)
    assert scores.target_success == success
    assert (scores.asr, scores.asr_untriggered) == (None, None)


def test_more_samples_than_a_chunk_are_all_counted_whatever_the_workers() -> None:
    drawn = torch.randint(4, (1201, 2), generator=torch.Generator().manual_seed(0)).tolist()
    data = samples(*map(tuple, drawn))
    expected = sum(label == predicted for label, predicted in drawn) / 1201
    found = []
    for workers in (1, 2, 3):
        with parallel.using(workers):
            found.append(scores_of(data, attack="badnets", target=0))
    assert found[0].accuracy == pytest.approx(expected)
    assert found[0] == found[1] == found[2]
    others = [predicted == 0 for label, predicted in drawn if label != 0]
    assert found[0].asr_untriggered == pytest.approx(sum(others) / len(others))


def test_evaluating_changes_neither_the_net_nor_the_data_nor_the_next_evaluation() -> None:
    class Loud(ByTable):
        def forward(self, images: Tensor) -> Tensor:
            assert not self.training  # dropout and the like are off
            assert not torch.is_grad_enabled()
            return super().forward(images)

    data, net = samples((0, 0), (1, 2), (3, 3)), Loud()
    before = data.test_images.clone()
    entry = find("data_attack", "badnets")
    evaluator = Evaluator(net.train(), data, [aim_of((entry, entry.validate({})), data)])
    first = evaluator(torch.tensor([1.0]))
    assert evaluator(torch.tensor([-1.0])) != first
    assert evaluator(torch.tensor([1.0])) == first
    assert net.training
    assert torch.equal(flatten(net), torch.ones(1))
    assert torch.equal(data.test_images, before)
