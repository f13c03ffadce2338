"""Backdoor attacks on data, each against its definition written once more."""

import contextlib
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedpoison import data_attack
from fedpoison.attacks.data import dba as dba_file
from fedpoison.attacks.data.wanet import field
from fedpoison.attacks.poisoning import Poison, aim_of
from fedpoison.common.seeding import Stream
from fedpoison.config.config import parse
from fedpoison.contract.lookup import entries, find
from fedpoison.data import Dataset
from fedpoison.data.augment import Augment
from fedpoison.runs.world import build
from fedpoison.types import Planted

LABELS = torch.arange(5).repeat(20)
SHAPES: dict[str, tuple[int, ...]] = {"pictures": (2, 10, 13), "rows": (6,), "tokens": (9,)}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def samples(kind: str, count: int = 100) -> Tensor:
    if kind == "tokens":
        return torch.randint(20, 40, (count, *SHAPES[kind]), generator=rng(3))
    drawn = torch.rand(count, *SHAPES[kind], generator=rng(3))
    return 0.1 + 0.8 * drawn if kind == "pictures" else drawn - 0.5


def poison(name: str, images: Tensor, labels: Tensor, seed: int = 0, attacker: int = 0, **given: Any) -> Any:
    entry = find("data_attack", name)
    supply = {"images": images, "labels": labels, "n_classes": 5, "attacker": attacker, "rng": rng(seed)}
    return entry.call(supply, entry.validate(given))


def aim(name: str, images: Tensor, labels: Tensor, **given: Any) -> tuple[Tensor, Tensor]:
    entry = find("data_attack", name)
    return entry.aim(images, labels, 5, **entry.validate(given))


def triggered(name: str, images: Tensor, **given: Any) -> Tensor:
    """The images as they are shown to the model."""
    return aim(name, images, torch.ones(len(images), dtype=torch.int64), **given)[0]


def hits(before: Tensor, after: Tensor) -> Tensor:
    """Which samples differ."""
    return (before != after).flatten(1).any(dim=1)


# What they have in common

RELABELLING: list[tuple[str, str, dict[str, Any]]] = [
    ("badnets", "pictures", {"pattern": [[1, -1], [-1, 1]]}),
    ("blended", "pictures", {}),
    ("wanet", "pictures", {"cross_ratio": 0.0}),
    ("dba", "pictures", {}),
    ("feature_trigger", "rows", {}),
    ("token_trigger", "tokens", {}),
]
each = pytest.mark.parametrize(("name", "kind", "options"), RELABELLING, ids=lambda value: str(value)[:16])


@each
@pytest.mark.parametrize(("share", "count"), [(0.29, 23), (0.3125, 25), (1.0, 80), (0.0, 0)])
def test_a_share_of_the_others_is_triggered_and_labelled_as_the_target(
    name: str, kind: str, options: dict[str, Any], share: float, count: int
) -> None:
    images = samples(kind)
    poisoned, relabelled = poison(name, images, LABELS, target=3, share=share, **options)
    hit = hits(images, poisoned)
    assert int(hit.sum()) == count
    assert not (hit & (LABELS == 3)).any()
    assert torch.equal(relabelled, torch.where(hit, 3, LABELS))
    assert torch.equal(images, samples(kind))


@each
def test_success_is_measured_on_the_triggered_samples_of_other_classes(
    name: str, kind: str, options: dict[str, Any]
) -> None:
    images = samples(kind)
    presented, wanted = aim(name, images, LABELS, target=3, share=0.1, **options)
    assert hits(images, presented).all()
    assert torch.equal(wanted, torch.where(LABELS == 3, -1, 3))
    assert torch.equal(images, samples(kind))


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        *(case for case in RELABELLING if case[0] in ("badnets", "blended", "wanet", "feature_trigger")),
        ("token_trigger", "tokens", {"place": "middle"}),
        ("sig", "pictures", {}),
    ],
    ids=lambda value: str(value)[:16],
)
def test_the_trigger_is_the_same_for_every_attacker_and_for_the_test_samples(
    name: str, kind: str, options: dict[str, Any]
) -> None:
    images, labels = samples(kind), torch.full((100,), 4)
    target = 4 if name == "sig" else 0
    shown = aim(name, images, labels, target=0, **options)[0]
    for client in range(3):
        poisoned, _ = poison(name, images, labels, client, client, target=target, share=1.0, **options)
        assert torch.equal(poisoned, shown)


@pytest.mark.parametrize("name", ["badnets", "blended", "sig", "wanet", "dba", "feature_trigger", "token_trigger"])
@pytest.mark.parametrize("target", [5, -1])
def test_a_target_that_is_no_class_is_refused(name: str, target: int) -> None:
    entry = find("data_attack", name)
    problems = entry.check(5, **entry.validate({"target": target}))
    assert problems == [f"{name}: there is no class {target}, the classes are 0 to 4"]


# Triggers after augmentation

PLANTING = ["badnets", "blended", "dba", "label_consistent", "sig", "wanet"]


def crafted(name: str, stamps_last: bool, **options: Any) -> tuple[Poison, Dataset]:
    images, entry = samples("pictures"), find("data_attack", name)
    data = Dataset(images, LABELS, images, LABELS, 5)
    net = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(SHAPES["pictures"]), 5))
    step = entry, entry.validate(options)
    return Poison(step, data, 0, surrogate=lambda client, index: net.eval(), stamps_last=stamps_last), data


def test_these_attacks_say_where_they_set_their_trigger() -> None:
    assert sorted(entry.name for entry in entries("data_attack").values() if entry.plants) == PLANTING


@pytest.mark.parametrize("name", PLANTING)
def test_the_same_samples_get_the_same_trigger_after_augmentation_as_before(name: str) -> None:
    index = torch.arange(100).flip(0)
    torch.manual_seed(0)
    late, data = crafted(name, True)
    torch.manual_seed(0)
    early, _ = crafted(name, False)
    before, after = early(1, index), late(1, index)
    assert torch.equal(before.labels, after.labels)
    assert not before.stamps
    rows = torch.randperm(100, generator=rng())
    seen = after.images[rows].clone()
    after.stamp(seen, rows)
    assert torch.equal(seen, before.images[rows])
    assert torch.equal(early.craft(1, index)[0], before.images)
    if name != "label_consistent":  # whose samples are changed before they get the trigger
        assert torch.equal(after.images, data.train_images[index])


def test_a_trigger_stands_where_it_is_looked_for_however_the_picture_is_moved() -> None:
    late, data = crafted("badnets", True, share=0.5, value=0.0)
    shard, augment = late(0, torch.arange(100)), Augment(crop=3, flip=True)
    (draws,) = augment.draws(Stream(0, "augment"), [100])
    moved = augment(data.train_images, draws)
    seen = augment(shard.images, draws)
    shard.stamp(seen, torch.arange(100))
    poisoned = shard.labels != LABELS
    assert int(poisoned.sum()) == 40
    assert torch.equal(seen[~poisoned], moved[~poisoned])
    assert torch.equal(seen[poisoned], triggered("badnets", moved, value=0.0)[poisoned])


def test_each_attackers_part_and_each_samples_warp_stay_its_own() -> None:
    late, data = crafted("dba", True, share=1.0)
    for client in range(2):
        shard = late(client, torch.arange(100))
        seen = shard.images.flip(3)
        shard.stamp(seen, torch.arange(100))
        assert torch.equal(seen, poison("dba", data.train_images.flip(3), LABELS, attacker=client, share=1.0)[0])
    late, data = crafted("wanet", True, share=0.2)
    shard = late(0, torch.arange(100))
    together, alone = (shard.images.flip(3) for _ in range(2))
    shard.stamp(together, torch.arange(100))
    for row in torch.randperm(100, generator=rng()).tolist():
        shard.stamp(alone[row : row + 1], torch.tensor([row]))
    assert torch.equal(together, alone)


def test_who_says_planted_must_return_it() -> None:
    @data_attack(aim=lambda images, labels, n_classes: (images, labels), goal="backdoor")
    def promised(images: Tensor, labels: Tensor) -> Planted:
        """Promise more than is returned."""
        return images, labels  # type: ignore[return-value]

    data = Dataset(samples("pictures"), LABELS, samples("pictures"), LABELS, 5)
    with pytest.raises(ValueError, match="promised says that it returns Planted, and returned tuple"):
        Poison((find("data_attack", promised), {}), data, 0)(0, torch.arange(9))


def augmented(augment: dict[str, Any] | None, attack: str, stamp: str | None) -> Any:
    threat = {"malicious": 2, "data": attack, **({"stamp": stamp} if stamp else {})}
    data = {"name": "digits", **({} if augment is None else {"augment": augment})}
    local = {"epochs": 2, "lr": 0.1}
    return parse({"name": "t", "rounds": 6, "data": data, "clients": {"count": 5, "local": local}, "threat": threat})


@pytest.mark.parametrize(
    ("augment", "attack", "differs"),
    [({"flip": True}, "badnets", True), ({"flip": True}, "label_flip", False), (None, "badnets", False)],
)
def test_when_a_trigger_is_set_is_part_of_the_hash_where_it_matters(
    augment: dict[str, Any] | None, attack: str, differs: bool
) -> None:
    usual, after, before = (
        augmented(augment, attack, f"{s}_augmentation" if s else None).hash for s in ("", "after", "before")
    )
    assert usual == after
    assert (before != after) == differs


@pytest.mark.parametrize(("stamp", "count"), [("after_augmentation", 1), ("before_augmentation", 0), (None, 1)])
def test_a_run_sets_triggers_when_it_is_told_to(stamp: str | None, count: int) -> None:
    world, _ = build(augmented({"flip": True, "crop": 1}, "badnets", stamp))
    for client in world.threats[0].fixed_ids:
        assert len(world.federation.shard(client, poisoned=True).stamps) == count


# Blended


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.2, 1.0])
def test_blended_mixes_every_pixel_with_one_pattern(alpha: float) -> None:
    images = samples("pictures").double()
    pattern = triggered("blended", torch.zeros(1, *SHAPES["pictures"], dtype=torch.float64), alpha=1.0)[0]
    assert 0 <= pattern.min() < 0.05
    assert 0.95 < pattern.max() <= 1
    assert pattern.unique().numel() == pattern.numel()  # every channel of every pixel has its own
    shown = triggered("blended", images, alpha=alpha)
    for place in itertools.product(*(range(n) for n in SHAPES["pictures"])):
        for sample in (0, 7):
            before, noise = float(images[(sample, *place)]), float(pattern[place])
            assert float(shown[(sample, *place)]) == pytest.approx((1 - alpha) * before + alpha * noise, abs=1e-12)
    assert ((shown - images).abs() <= alpha + 1e-12).all()


def test_blendeds_pattern_is_that_of_its_seed() -> None:
    images = samples("pictures")
    first, again, other = (triggered("blended", images, pattern_seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert hits(first, other).all()


# SIG


@pytest.mark.parametrize(("delta", "f"), [(20 / 255, 6.0), (0.3, 2.5)])
def test_sig_adds_a_sinusoid_to_the_target_class_alone(delta: float, f: float) -> None:
    images, (_, height, width) = samples("pictures"), SHAPES["pictures"]
    poisoned, labels = poison("sig", images, LABELS, target=2, share=1.0, delta=delta, f=f)
    assert torch.equal(labels, LABELS)
    assert torch.equal(hits(images, poisoned), LABELS == 2)
    for i, j in itertools.product(range(height), range(width)):
        v = delta * math.sin(2 * math.pi * (j + 1) * f / width)
        expected = [[min(max(float(x) + v, 0), 1) for x in sample] for sample in images[LABELS == 2, :, i, j]]
        assert torch.allclose(poisoned[LABELS == 2, :, i, j], torch.tensor(expected), atol=1e-6)
    assert ((poisoned - images).abs() <= delta + 1e-6).all()


@pytest.mark.parametrize(("share", "count"), [(0.3, 6), (0.12, 2), (0.125, 3), (0.0, 0)])
def test_sigs_share_is_of_the_target_class_and_no_label_changes(share: float, count: int) -> None:
    images = samples("pictures")
    poisoned, labels = poison("sig", images, LABELS, target=2, share=share)
    assert int(hits(images, poisoned).sum()) == count
    assert torch.equal(labels, LABELS)


def test_a_sinusoid_that_is_zero_in_every_column_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sig: a sinusoid of f = 6.0 is 0 in all of 12 columns"):
        triggered("sig", torch.rand(2, 1, 12, 12))


# WaNet


def cubic(t: float) -> float:
    """The cubic convolution kernel with a = −0.75."""
    t, a = abs(t), -0.75
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


def upsampled(grid: list[list[float]], size: int, i: int, j: int) -> float:
    """Pixel (i, j) of a k × k grid enlarged to size × size, corners on corners, edges repeated."""
    k = len(grid)
    y, x = (n * (k - 1) / (size - 1) for n in (i, j))
    return sum(
        cubic(y - row) * cubic(x - column) * grid[min(max(row, 0), k - 1)][min(max(column, 0), k - 1)]
        for row in range(math.floor(y) - 1, math.floor(y) + 3)
        for column in range(math.floor(x) - 1, math.floor(x) + 3)
    )


def bilinear(picture: Tensor, y: float, x: float) -> float:
    """A picture [height, width] between its pixels; outside there is nothing."""
    height, width = picture.shape
    value = 0.0
    for row, column in itertools.product((math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)):
        if 0 <= row < height and 0 <= column < width:
            value += (1 - abs(y - row)) * (1 - abs(x - column)) * float(picture[row, column])
    return value


@pytest.mark.parametrize(("k", "s"), [(4, 0.5), (3, 2.0)])
def test_wanet_takes_each_pixel_from_where_the_field_says(k: int, s: float) -> None:
    size = 9
    drawn = 2 * torch.rand(1, 2, k, k, generator=rng(5)) - 1
    control = (drawn / drawn.abs().mean())[0].tolist()
    assert sum(abs(v) for grid in control for row in grid for v in row) / (2 * k * k) == pytest.approx(1, abs=1e-5)
    images = samples("pictures")[:2, :, :size, :size]
    shown = triggered("wanet", images, k=k, s=s, field_seed=5)
    for i, j in itertools.product(range(size), range(size)):
        x, y = (
            min(max(2 * n / (size - 1) - 1 + s / size * upsampled(grid, size, i, j), -1), 1)
            for n, grid in ((j, control[0]), (i, control[1]))
        )
        row, column = ((c + 1) / 2 * (size - 1) for c in (y, x))
        for sample, channel in itertools.product(range(2), range(2)):
            expected = bilinear(images[sample, channel], row, column)
            assert float(shown[sample, channel, i, j]) == pytest.approx(expected, abs=1e-4)


def test_wanet_moves_pixels_by_a_bounded_way_and_leaves_even_pictures_alone() -> None:
    images, (_, height, width) = samples("pictures"), SHAPES["pictures"]
    assert torch.allclose(triggered("wanet", images, s=0.0), images, atol=1e-5)
    assert torch.allclose(triggered("wanet", torch.full_like(images, 0.4)), torch.tensor(0.4), atol=1e-6)
    drawn = 2 * torch.rand(1, 2, 4, 4, generator=rng(5)) - 1
    largest = float(drawn.abs().max() / drawn.abs().mean()) * 1.375**2  # no four cubic weights exceed 1.375 in all
    rest, moved = field(height, width, 4, 0.0, 5), field(height, width, 4, 0.5, 5)
    assert 0.0 < float((moved - rest).abs().max()) <= 0.5 / height * largest
    assert moved.abs().max() <= 1


@pytest.mark.parametrize(("cross_ratio", "count"), [(0.0, 0), (0.5, 4), (2.0, 16), (50.0, 92)])
def test_wanets_noise_mode_warps_others_otherwise_and_keeps_their_labels(cross_ratio: float, count: int) -> None:
    images = samples("pictures")
    poisoned, labels = poison("wanet", images, LABELS, share=0.1, cross_ratio=cross_ratio)
    hit, relabelled = hits(images, poisoned), labels != LABELS
    assert int(relabelled.sum()) == 8
    assert int((hit & ~relabelled).sum()) == count
    assert (labels[relabelled] == 0).all()
    shown = triggered("wanet", images)
    assert torch.equal(poisoned[relabelled], shown[relabelled])
    assert hits(shown, poisoned)[hit & ~relabelled].all()


def test_wanets_noise_is_drawn_for_each_sample_and_small() -> None:
    slope = torch.linspace(0, 1, 13).expand(100, 1, 10, 13)  # a pixel's value says which column it was taken from
    poisoned, labels = poison("wanet", slope, LABELS, share=0.1)
    noisy = hits(slope, poisoned) & (labels == LABELS)
    off = poisoned[noisy] - triggered("wanet", slope)[noisy]
    assert 0.4 / 10 < float(off.abs().max()) <= 0.5 / 10 + 1e-6  # 1/height of [−1, 1] is half of that of [0, 1]
    assert len({tuple(sample.flatten().tolist()) for sample in off}) == int(noisy.sum())


def test_wanets_field_is_that_of_its_seed() -> None:
    first, again, other = (field(8, 8, 4, 0.5, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# DBA

AUTHORS = [  # their pixels for MNIST, a list an attacker
    [(0, 0), (0, 1), (0, 2), (0, 3)],
    [(0, 6), (0, 7), (0, 8), (0, 9)],
    [(3, 0), (3, 1), (3, 2), (3, 3)],
    [(3, 6), (3, 7), (3, 8), (3, 9)],
]


def test_dba_gives_each_attacker_a_bar_and_shows_all_four() -> None:
    images, labels = samples("pictures"), torch.ones(100, dtype=torch.int64)
    whole = images.clone()
    for attacker, pixels in enumerate(AUTHORS):
        expected = images.clone()
        for row, column in pixels:
            expected[:, :, row, column] = 1
            whole[:, :, row, column] = 1
        for later in (attacker, attacker + 4, attacker + 8):
            assert torch.equal(poison("dba", images, labels, attacker=later, share=1.0)[0], expected)
    assert torch.equal(triggered("dba", images), whole)


@pytest.mark.parametrize(("size", "gap", "shift"), [(1, 0, 0), (3, 1, 0), (4, 2, 1), (2, 3, 4)])
def test_dbas_parts_are_disjoint_and_make_up_the_trigger(size: int, gap: int, shift: int) -> None:
    options, black = {"size": size, "gap": gap, "shift": shift, "value": 0.5}, torch.zeros(1, 1, 12, 12)
    parts = [dba_file.stamp(black, (part,), **options)[0, 0] for part in range(4)]
    assert [int((part == 0.5).sum()) for part in parts] == [size] * 4
    assert torch.equal(sum(parts), triggered("dba", black, **options)[0, 0])  # a pixel of two parts would be 1
    lit = [part.nonzero() for part in parts]
    assert lit[0][0].tolist() == [shift, shift]
    assert int(lit[1][0, 1] - lit[0][-1, 1]) - 1 == gap
    assert int(lit[2][0, 0] - lit[0][0, 0]) - 1 == gap


def test_a_dba_trigger_that_does_not_fit_is_refused() -> None:
    table = {"name": "t", "rounds": 1, "data": {"name": "digits"}, "threat": {"malicious": 1, "data": "dba"}}
    with pytest.raises(ValueError, match=r"dba: bars of 4 pixels .* do not fit into images of shape \(1, 8, 8\)"):
        build(parse(table))


# Tables and text


def test_a_feature_trigger_sets_the_features_and_nothing_else() -> None:
    rows = samples("rows")
    options = {"features": [4, 1], "values": [10.0, -3]}
    expected = [[row[0], -3.0, row[2], row[3], 10.0, row[5]] for row in rows.tolist()]
    assert triggered("feature_trigger", rows, **options).tolist() == expected
    poisoned, labels = poison("feature_trigger", rows, LABELS, share=1.0, **options)
    assert poisoned.tolist() == [
        old if label == 0 else new for old, new, label in zip(rows.tolist(), expected, LABELS.tolist(), strict=True)
    ]
    assert (labels == 0).all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"features": []}, "features are different ones"),
        ({"features": [2, 2], "values": [1, 1]}, "features are different ones"),
        ({"features": [-1]}, "counted from 0, they are [-1]"),
        ({"features": [1, 2]}, "there are 2 features and 1 values"),
        ({"values": [float("nan")]}, "values are finite, they are [nan]"),
    ],
)
def test_features_that_cannot_be_are_refused(options: dict[str, Any], sentence: str) -> None:
    entry = find("data_attack", "feature_trigger")
    assert sentence in "; ".join(entry.check(5, **entry.validate(options)))


def test_a_feature_that_a_table_has_not_is_refused_before_the_first_round() -> None:
    data = {"name": "feature_trigger", "features": [30]}
    table = {"name": "t", "rounds": 1, "data": {"name": "breast_cancer"}, "threat": {"malicious": 1, "data": data}}
    with pytest.raises(ValueError, match="feature_trigger: there is no feature 30, a row has 30, from 0"):
        build(parse({**table, "model": "logistic"}))


@pytest.mark.parametrize(("place", "at"), [("start", 0), ("middle", 3), ("end", 6)])
def test_a_token_trigger_is_put_in_and_the_beginning_makes_room(place: str, at: int) -> None:
    texts = samples("tokens")
    expected = []
    for text in texts.tolist():
        text = text[3:]
        expected.append([*text[:at], 1, 2, 3, *text[at:]])
    assert triggered("token_trigger", texts, tokens=[1, 2, 3], place=place).tolist() == expected
    poisoned, labels = poison("token_trigger", texts, LABELS, share=1.0, tokens=[1, 2, 3], place=place)
    assert poisoned[LABELS != 0].tolist() == [new for new, label in zip(expected, LABELS, strict=True) if label]
    assert torch.equal(poisoned[LABELS == 0], texts[LABELS == 0])
    assert (labels == 0).all()


def test_a_sentence_at_random_places_is_whole_and_everywhere() -> None:
    texts, places = samples("tokens"), []
    for text, shown in zip(texts.tolist(), triggered("token_trigger", texts, tokens=[1, 2, 3]).tolist(), strict=True):
        at = shown.index(1)
        assert shown[at : at + 3] == [1, 2, 3]
        assert shown[:at] + shown[at + 3 :] == text[3:]
        places.append(at)
    assert set(places) == set(range(7))


@pytest.mark.parametrize("tokens", [[], [3, -1]])
def test_tokens_that_cannot_be_are_refused(tokens: list[int]) -> None:
    entry = find("data_attack", "token_trigger")
    assert "tokens are numbers from 0 up, at least one" in entry.check(5, **entry.validate({"tokens": tokens}))[0]


def test_a_sentence_longer_than_the_texts_is_refused() -> None:
    with pytest.raises(ValueError, match="token_trigger: 10 tokens do not fit into texts of 9"):
        triggered("token_trigger", samples("tokens"), tokens=[1] * 10)


def test_a_token_that_is_not_in_the_vocabulary_is_refused() -> None:
    entry, texts = find("data_attack", "token_trigger"), samples("tokens")
    data = Dataset(texts, LABELS % 2, texts, LABELS % 2, 2, vocabulary=40)
    for tokens, problem in (([39, 1], None), ([1, 40], "tokens from 1 to 40, a vocabulary of 40 is 0 to 39")):
        step = (entry, entry.validate({"tokens": tokens, "place": "end"}))
        for make in (lambda step=step: aim_of(step, data), lambda step=step: Poison(step, data, 0)(0, torch.arange(9))):
            with pytest.raises(ValueError, match=problem) if problem else contextlib.nullcontext():
                make()
