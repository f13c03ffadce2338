"""Data attacks: who is relabelled, what is stamped, what the attacker is measured by, and what is refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedpoison import data_attack
from fedpoison.attacks.data.badnets import badnets, stamp
from fedpoison.attacks.data.label_flip import label_flip
from fedpoison.attacks.data.targeted_flip import targeted_flip
from fedpoison.attacks.poisoning import Poison
from fedpoison.clients.federation import Federation
from fedpoison.config.config import parse
from fedpoison.contract.lookup import find
from fedpoison.data import Dataset
from fedpoison.data.digits import digits
from fedpoison.round import play
from fedpoison.runs.world import build

LABELS = torch.arange(10).repeat(20)
LABEL_FLIP, BADNETS = find("data_attack", "label_flip"), find("data_attack", "badnets")


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int, *shape: int) -> Tensor:
    return 0.9 * torch.rand(count, *(shape or (1, 6, 6)), generator=rng(7))  # below 0.9, so a stamp of 1 shows


def flip(labels: Tensor, n_classes: int = 10, seed: int = 0, **options: Any) -> Tensor:
    return label_flip(pictures(len(labels)), labels, n_classes, rng(seed), **options)[1]


def refusal(entry: Any, options: dict[str, Any], n_classes: int = 10) -> str:
    """What is said against the options: by their types and ranges, or in view of the classes."""
    try:
        return "; ".join(entry.check(n_classes, **entry.validate(options)))
    except ValueError as error:
        return str(error)


def aim(entry: Any, images: Tensor, labels: Tensor, n_classes: int = 10, **given_options: Any) -> tuple[Tensor, Tensor]:
    return entry.aim(images, labels, n_classes, **entry.validate(given_options))


# Label flip


def test_label_flip_flips_just_the_source() -> None:
    images = pictures(200)
    before, labels = images.clone(), LABELS.clone()
    presented, flipped = label_flip(images, labels, 10, rng(), source=5, target=7)
    assert torch.equal(flipped, torch.where(LABELS == 5, 7, LABELS))
    assert torch.equal(presented, before)
    assert torch.equal(images, before)
    assert torch.equal(labels, LABELS)


FORMS: list[tuple[Any, Any]] = [
    (5, 7),
    (0, 9),
    ([1, 2], 0),
    ([3, 4], 4),
    ("all", 3),
    (5, "C-1-y"),
    ([0, 9], "C-1-y"),
    ("all", "C-1-y"),
]


def wish(label: int, source: Any, target: Any, n_classes: int) -> int:
    """The label that the attacker wants, by the definition."""
    sources = range(n_classes) if source == "all" else [source] if isinstance(source, int) else source
    if label not in sources:
        return label
    return n_classes - 1 - label if target == "C-1-y" else target


@pytest.mark.parametrize(("source", "target"), FORMS)
@pytest.mark.parametrize("n_classes", [10, 11])
def test_every_form_of_label_flip_equals_its_definition(source: Any, target: Any, n_classes: int) -> None:
    labels = torch.arange(n_classes).repeat(3)
    expected = [wish(label, source, target, n_classes) for label in labels.tolist()]
    assert flip(labels, n_classes, source=source, target=target).tolist() == expected


@pytest.mark.parametrize("source", ["all", 4, [1, 4]])
def test_a_random_label_is_another_one_and_all_others_come_up_alike(source: Any) -> None:
    labels = torch.arange(6).repeat(900)
    flipped = flip(labels, 6, source=source, target="random")
    attacked = torch.isin(labels, torch.arange(6) if source == "all" else torch.tensor(source))
    assert torch.equal(flipped[~attacked], labels[~attacked])
    assert (flipped[attacked] != labels[attacked]).all()
    for label in labels[attacked].unique().tolist():
        counts = flipped[labels == label].bincount(minlength=6)
        others = counts[torch.arange(6) != label]
        assert others.sum() == 900
        assert ((others - 180).abs() < 60).all()  # five standard deviations


SHARES = [(0.29, 100, 29), (0.5, 5, 3), (0.5, 1, 1), (0.1, 5, 1), (0.09, 5, 0), (0.0, 9, 0), (1.0, 9, 9), (0.7, 10, 7)]


@pytest.mark.parametrize(("share", "attacked", "count"), SHARES)
@pytest.mark.parametrize("target", [1, "C-1-y", "random"])
def test_a_share_of_the_attacked_is_flipped_halves_up(share: float, attacked: int, count: int, target: Any) -> None:
    labels = torch.cat([torch.zeros(attacked, dtype=torch.int64), torch.ones(50, dtype=torch.int64)])
    flipped = flip(labels, 3, source=0, target=target, share=share)
    assert int((flipped != labels).sum()) == count
    assert torch.equal(flipped[attacked:], labels[attacked:])


def test_the_share_is_of_samples_that_can_be_flipped() -> None:
    labels = torch.tensor([3] * 60 + [0] * 40)  # of "all", those of class 3 have the target label already
    assert int((flip(labels, target=3, share=0.5) != labels).sum()) == 20


def test_a_class_that_is_its_own_mirror_takes_no_part_in_the_share() -> None:
    labels = torch.tensor([1] * 60 + [0] * 20 + [2] * 20)  # of 3 classes, 1 mirrors itself
    assert int((flip(labels, 3, target="C-1-y", share=0.5) != labels).sum()) == 20


def test_who_is_flipped_is_drawn_and_the_same_for_a_stream() -> None:
    labels = torch.zeros(100, dtype=torch.int64)
    first, again, other = (flip(labels, source=0, target=1, share=0.5, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert 10 < int(first[:50].sum()) < 40  # not simply the first half


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=40),
    source=st.one_of(st.just("all"), st.integers(0, 5), st.lists(st.integers(0, 5), min_size=1, max_size=4)),
    target=st.one_of(st.integers(0, 5), st.sampled_from(["C-1-y", "random"])),
    share=st.floats(0, 1),
)
def test_label_flip_changes_nothing_else(labels: list[int], source: Any, target: Any, share: float) -> None:
    given_labels, images = torch.tensor(labels), pictures(len(labels))
    before = images.clone()
    presented, flipped = label_flip(images, given_labels, 6, rng(), source=source, target=target, share=share)
    assert torch.equal(presented, before)
    assert given_labels.tolist() == labels
    for old, new in zip(labels, flipped.tolist(), strict=True):
        if target == "random":
            attacked = source == "all" or old in (source if isinstance(source, list) else [source])
            assert 0 <= new < 6
            assert new == old or attacked
        else:
            assert new in (old, wish(old, source, target, 6))


@pytest.mark.parametrize(("source", "target"), FORMS)
@pytest.mark.parametrize("n_classes", [10, 11])
def test_label_flip_is_measured_on_attacked_samples_of_another_class(source: Any, target: Any, n_classes: int) -> None:
    labels = torch.arange(n_classes).repeat(2)
    images = pictures(len(labels))
    presented, wanted = aim(LABEL_FLIP, images, labels, n_classes, source=source, target=target, share=0.1)
    wishes = [wish(label, source, target, n_classes) for label in labels.tolist()]
    assert wanted.tolist() == [-1 if new == old else new for old, new in zip(labels.tolist(), wishes, strict=True)]
    assert torch.equal(presented, images)
    assert torch.equal(labels, torch.arange(n_classes).repeat(2))


def test_random_labels_aim_at_nothing() -> None:
    assert (aim(LABEL_FLIP, pictures(200), LABELS, target="random")[1] == -1).all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"source": 10}, "label_flip: there is no class 10, the classes are 0 to 9"),
        ({"source": -1}, "there is no class -1"),
        ({"source": [3, 12]}, "there is no class 12"),
        ({"target": 10}, "there is no class 10"),
        ({"target": -1}, "there is no class -1"),
        ({"share": -0.1}, "label_flip.share = -0.1: "),
        ({"share": 1.5}, "label_flip.share = 1.5: "),
        ({"share": float("nan")}, "label_flip.share = nan: "),
    ],
)
def test_label_flip_refuses_what_cannot_be(options: dict[str, Any], sentence: str) -> None:
    assert sentence in refusal(LABEL_FLIP, options)
    assert ";" not in refusal(LABEL_FLIP, options)


@pytest.mark.parametrize(
    ("source", "target", "n_classes"), [(5, 5, 10), ([5], 5, 10), ([], "C-1-y", 10), (1, "C-1-y", 3)]
)
def test_label_flip_refuses_options_under_which_nothing_would_be_flipped(
    source: Any, target: Any, n_classes: int
) -> None:
    assert "nothing would be flipped" in refusal(LABEL_FLIP, {"source": source, "target": target}, n_classes)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"source": 0, "target": 9, "share": 0.0},
        {"source": [0, 9], "target": "random", "share": 1},
        {"source": [4, 5], "target": 5},
    ],
)
def test_label_flip_takes_what_can_be(options: dict[str, Any]) -> None:
    assert refusal(LABEL_FLIP, options) == ""


@pytest.mark.parametrize(
    ("entry", "options", "sentence"),
    [
        (LABEL_FLIP, {"source": "some"}, "label_flip.source = 'some'"),
        (LABEL_FLIP, {"target": 2.5}, "label_flip.target = 2.5"),
        (LABEL_FLIP, {"source": True}, "label_flip.source = True"),
        (LABEL_FLIP, {"share": "half"}, "label_flip.share = 'half'"),
        (LABEL_FLIP, {"sources": 1}, "label_flip has no option 'sources'; did you mean 'source'"),
        (BADNETS, {"position": "middle"}, "badnets.position = 'middle'"),
        (BADNETS, {"position": [1.5, 2]}, r"badnets.position = \[1.5, 2\]"),
        (BADNETS, {"size": 2.0}, "badnets.size = 2.0"),
        (BADNETS, {"target": [0]}, r"badnets.target = \[0\]"),
    ],
)
def test_ill_typed_options_are_refused(entry: Any, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        entry.validate(options)


# Targeted flip


def test_targeted_flip_flips_the_nearest_of_the_source() -> None:
    images, victims = pictures(200), pictures(1, 1, 6, 6) / 2
    labels = LABELS.clone()
    same, flipped = targeted_flip(images, labels, victims, source=5, target=7, share=0.25)
    assert same is images
    assert torch.equal(labels, LABELS)
    changed_ones = (flipped != LABELS).nonzero().flatten().tolist()
    distance = {i: float((images[i] - victims[0]).square().sum()) for i in (LABELS == 5).nonzero().flatten().tolist()}
    assert sorted(changed_ones) == sorted(sorted(distance, key=distance.__getitem__)[:5])  # a quarter of twenty
    assert set(flipped[changed_ones].tolist()) == {7}
    assert torch.equal(targeted_flip(images, LABELS, victims, source=5, target=7, share=0.0)[1], LABELS)


def test_a_targeted_flip_gets_its_victims_and_spares_the_rest() -> None:
    taken, accuracy = {0: 0.0, 10: 0.0}, {0: 0.0, 10: 0.0}
    for victim in range(6):
        data = {"name": "targeted_flip", "source": 9, "target": 8, "victim": victim, "share": 0.3}
        for malicious in taken:
            threat = {"malicious": malicious, "data": data}
            local = {"epochs": 3, "lr": 0.2}
            table = {"name": "t", "rounds": 5, "data": "digits", "clients": {"count": 10, "local": local}}
            world, state = build(parse({**table, "evaluate_every": 5, "threat": threat}))
            for _ in range(5):
                state, record = play(state, world)
            taken[malicious] += record["target_success"]
            accuracy[malicious] += record["accuracy"] / 6
    assert taken[10] >= taken[0] + 3
    assert accuracy[10] > accuracy[0] - 0.08  # of the tenth of all samples that are of the source class


# BadNets


def changed(before: Tensor, after: Tensor) -> Tensor:
    """Which samples differ."""
    return (before != after).flatten(1).any(dim=1)


def test_badnets_stamps_and_relabels() -> None:
    images, labels = pictures(200), LABELS.clone()
    before = images.clone()
    poisoned, relabelled = badnets(images, labels, rng(), target=4, share=0.29)
    assert torch.equal(images, before)
    assert torch.equal(labels, LABELS)
    hit = changed(images, poisoned)
    assert int(hit.sum()) == 52  # 0.29 of the 180 others is 52.2
    assert torch.equal(relabelled, torch.where(hit, 4, LABELS))
    assert (LABELS[hit] != 4).all()
    expected = images[hit].clone()
    expected[:, :, 2:5, 2:5] = 1.0
    assert torch.equal(poisoned[hit], expected)


@pytest.mark.parametrize(("share", "others", "count"), SHARES)
def test_badnets_poisons_a_share_of_the_others_halves_up(share: float, others: int, count: int) -> None:
    labels = torch.tensor([1] * others + [0] * 30)
    poisoned, relabelled = badnets(pictures(others + 30), labels, rng(), share=share)
    assert int((relabelled != labels).sum()) == count
    assert torch.equal(changed(pictures(others + 30), poisoned), relabelled != labels)


def test_who_is_stamped_is_drawn_and_the_same_for_a_stream() -> None:
    labels = torch.ones(100, dtype=torch.int64)
    first, again, other = (badnets(pictures(100), labels, rng(seed))[1] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert 10 < int(first[:50].sum()) < 40


def test_badnets_leaves_a_shard_of_the_target_class_alone() -> None:
    images, labels = pictures(5), torch.full((5,), 3)
    poisoned, relabelled = badnets(images, labels, rng(), target=3, share=1.0)
    assert torch.equal(poisoned, images)
    assert torch.equal(relabelled, labels)


@pytest.mark.parametrize(
    ("position", "row", "column"),
    [
        ("top_left", 1, 1),
        ("top_right", 1, 6),
        ("bottom_left", 3, 1),
        ("bottom_right", 3, 6),
        ([0, 0], 0, 0),
        ([2, 5], 2, 5),
        ([4, 7], 4, 7),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_square_lies_where_it_was_asked_for(position: Any, row: int, column: int, channels: int) -> None:
    images = pictures(4, channels, 6, 9)
    before = images.clone()
    stamped = stamp(images, position, 2, 0.25)
    square = torch.zeros(6, 9, dtype=torch.bool)
    square[row : row + 2, column : column + 2] = True
    assert (stamped[:, :, square] == 0.25).all()
    assert torch.equal(stamped[:, :, ~square], before[:, :, ~square])
    assert torch.equal(images, before)


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_the_square_has_the_asked_size_and_value(size: int, value: float) -> None:
    images = 0.1 + pictures(3) / 10
    stamped = stamp(images, "bottom_right", size, value)
    assert ((stamped == value).sum(dim=(1, 2, 3)) == size * size).all()
    assert ((stamped == images).sum(dim=(1, 2, 3)) == 36 - size * size).all()


@pytest.mark.parametrize(
    ("shape", "position", "size"),
    [
        ((1, 6, 6), "top_left", 6),
        ((1, 6, 6), "bottom_right", 6),
        ((1, 6, 6), "bottom_left", 7),
        ((1, 6, 9), [5, 0], 2),
        ((1, 6, 9), [0, 8], 2),
        ((3, 6, 9), [-1, 0], 2),
        ((3, 6, 9), [0, -1], 2),
        ((30,), "bottom_right", 1),
        ((30,), [0, 0], 1),
    ],
)
def test_a_square_that_does_not_fit_is_refused(shape: tuple[int, ...], position: Any, size: int) -> None:
    with pytest.raises(
        ValueError, match=rf"the trigger, a square of {size} pixels at row .*, does not fit into images of"
    ):
        stamp(pictures(2, *shape), position, size, 1.0)


@pytest.mark.parametrize(("position", "row", "column"), [("bottom_right", 3, 5), ("top_left", 1, 1), ([4, 6], 4, 6)])
def test_a_pattern_shows_the_picture_where_it_is_negative(position: Any, row: int, column: int) -> None:
    images, labels, drawn = pictures(4, 3, 6, 9), torch.tensor([1, 2, 0, 1]), [[1.0, -1.0, 0.0], [-0.5, 0.25, -9.0]]
    expected = images.clone()
    for i, line in enumerate(drawn):
        for j, value in enumerate(line):
            if value >= 0:
                expected[:, :, row + i, column + j] = value
    options = {"target": 0, "share": 1.0, "position": position, "pattern": drawn}
    presented, wanted = aim(BADNETS, images, labels, 3, **options)
    assert torch.equal(presented, expected)
    assert wanted.tolist() == [0, 0, -1, 0]
    poisoned, relabelled = badnets(images, labels, rng(), **options)
    assert torch.equal(poisoned, torch.where((labels == 0)[:, None, None, None], images, expected))
    assert (relabelled == 0).all()


def test_a_pattern_of_one_value_is_the_square() -> None:
    images = pictures(3)
    assert torch.equal(stamp(images, "bottom_right", 3, 1.0, [[1.0] * 3] * 3), stamp(images, "bottom_right", 3, 1.0))


def test_a_pattern_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="a pattern of 1 x 6 pixels at row 4, column -1, does not fit into images of"):
        stamp(pictures(2), "bottom_right", 3, 1.0, [[1.0] * 6])


def test_a_square_may_fill_the_image() -> None:
    assert (stamp(pictures(2), [0, 0], 6, 1.0) == 1).all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"target": 10}, "badnets: there is no class 10, the classes are 0 to 9"),
        ({"target": -1}, "there is no class -1"),
        ({"share": 1.01}, "badnets.share = 1.01: "),
        ({"share": float("nan")}, "badnets.share = nan: "),
        ({"size": 0}, "badnets.size = 0: "),
        ({"value": 2.0}, "badnets.value = 2.0: "),
        ({"value": float("nan")}, "badnets.value = nan: "),
        ({"position": [1, 2, 3]}, r"position is a corner or [row, column], it is [1, 2, 3]"),
        ({"position": []}, "it is []"),
        ({"pattern": []}, "pattern is rows of one length, it is []"),
        ({"pattern": [[]]}, "pattern is rows of one length, it is [[]]"),
        ({"pattern": [[1, 1], [1]]}, "pattern is rows of one length"),
        ({"pattern": [[0.5, 1.5]]}, "a pixel of pattern is up to 1, or negative to let through"),
        ({"pattern": [[float("nan")]]}, "a pixel of pattern is up to 1"),
    ],
)
def test_badnets_refuses_what_cannot_be(options: dict[str, Any], sentence: str) -> None:
    assert sentence in refusal(BADNETS, options)
    assert ";" not in refusal(BADNETS, options)


def test_badnets_is_measured_on_stamped_samples_of_other_classes() -> None:
    images, labels = pictures(200), LABELS.clone()
    before = images.clone()
    presented, wanted = aim(BADNETS, images, labels, target=4, share=0.1, size=2, value=0.95, position="top_left")
    assert torch.equal(wanted, torch.where(LABELS == 4, -1, 4))
    assert torch.equal(presented, stamp(before, "top_left", 2, 0.95))
    assert torch.equal(images, before)
    assert torch.equal(labels, LABELS)


@pytest.mark.parametrize(
    ("attack", "sentence"),
    [
        ({"name": "label_flip", "source": 10, "target": 3}, "there is no class 10"),
        ({"name": "badnets", "share": 2.0}, r"threat\.data: badnets\.share = 2\.0: "),
        ({"name": "hidden_trigger", "position": [1]}, r"hidden_trigger: position is a corner or \[row, column\]"),
        ({"name": "targeted_flip", "victim": 99}, "victim = 99 counts test samples of class 1 from 0"),
        ({"name": "sig", "f": 4.0}, "is 0 in all of 8 columns"),
        (
            {"name": "wanet", "field_seed": 2**64},
            r"wanet\.field_seed = 18446744073709551616: Input should be less than",
        ),
        ({"name": "badnets", "size": 9}, r"does not fit into images of shape \(1, 8, 8\)"),
    ],
)
def test_a_run_is_refused_before_its_first_round(attack: dict[str, Any], sentence: str) -> None:
    table = {"name": "t", "rounds": 1, "data": {"name": "digits"}, "threat": {"malicious": 1, "data": attack}}
    with pytest.raises(ValueError, match=sentence):
        build(parse(table))


# In a federation


def poisoned_by(attack: Any, clients: int = 5, seed: int = 1, **options: Any) -> Federation:
    entry = find("data_attack", attack)
    poison = Poison((entry, entry.validate(options)), digits(), seed)
    return Federation(digits(), (find("partition", "iid"), {}), clients, seed, poison)


def test_a_shard_is_poisoned_the_same_each_time_and_each_client_by_a_stream_of_its_own() -> None:
    first, again, other = (poisoned_by("badnets", seed=seed, share=0.3) for seed in (1, 1, 2))
    again.shard(4, poisoned=True)  # in another order
    for client in (0, 3):
        shard, clean = first.shard(client, poisoned=True), first.shard(client)
        assert torch.equal(shard.images[shard.index], again.shard(client, poisoned=True).images)
        assert torch.equal(shard.labels[shard.index], again.shard(client, poisoned=True).labels)
        assert len(shard) == len(clean)
        others = int((clean.labels[clean.index] != 0).sum())
        assert int(changed(clean.images[clean.index], shard.images[shard.index]).sum()) == round(0.3 * others)
    assert not torch.equal(first.shard(0, poisoned=True).images, other.shard(0, poisoned=True).images)
    assert torch.equal(digits().train_images, first.dataset.train_images)

    labels = torch.zeros(40, dtype=torch.int64)
    same = Dataset(torch.rand(40, 3), labels, torch.rand(2, 3), labels[:2], 2)
    flipping = (LABEL_FLIP, LABEL_FLIP.validate({"source": 0, "target": 1, "share": 0.5}))
    alike = Federation(same, (find("partition", "iid"), {}), 2, 1, Poison(flipping, same, 1))
    assert not torch.equal(alike.shard(0, poisoned=True).labels, alike.shard(1, poisoned=True).labels)


def returning(make: Callable[[Tensor, Tensor], Any]) -> Callable[..., Any]:
    @data_attack(aim=lambda images, labels, n_classes: (images, labels), goal="availability")
    def hostile(images, labels):  # type: ignore[no-untyped-def]
        """Return what cannot be trained on."""
        return make(images, labels)

    return hostile


@pytest.mark.parametrize(
    "make",
    [
        lambda images, labels: (images[1:], labels[1:]),
        lambda images, labels: (images, labels[:, None]),
        lambda images, labels: (images.flatten(1), labels),
        lambda images, labels: (images, labels + 1),
        lambda images, labels: (images, labels - 1),
        lambda images, labels: (images, labels.double()),
        lambda images, labels: (images.double(), labels),
        lambda images, labels: (images.to(torch.uint8), labels),
    ],
    ids=["fewer", "columns", "flat", "label-10", "label-minus-1", "float-labels", "float64-images", "bytes"],
)
def test_what_a_data_attack_returns_is_checked(make: Callable[[Tensor, Tensor], Any]) -> None:
    with pytest.raises(ValueError, match="hostile returned"):
        poisoned_by(returning(make)).shard(2, poisoned=True)
