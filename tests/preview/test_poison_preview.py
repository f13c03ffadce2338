"""The preview of poison: right counts and sizes, pictures of what changes, the same facts for machines."""

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import tomli_w
import torch
from rich.console import Console
from torch import Tensor

from fedpoison import cli, data_attack, dataset
from fedpoison.config.config import parse
from fedpoison.config.sweep import load
from fedpoison.data import Dataset
from fedpoison.preview import detection as poison_detection
from fedpoison.preview import figure as poison_figure
from fedpoison.preview import poison
from fedpoison.preview.poison import Poisoned, Poisoning, poisonings
from fedpoison.preview.table import pictures, tables, token_window
from fedpoison.runs.world import build

BADNETS = {"name": "badnets", "target": 3, "size": 2}
FLIP = {"name": "label_flip", "source": 5, "target": 7}


def table(**changes: Any) -> dict[str, Any]:
    return {
        "name": "t",
        "rounds": 2,
        "data": "digits",
        "model": {"name": "mlp", "hidden": [16]},
        "clients": {"count": 6},
        "threat": {"malicious": 2, "data": BADNETS},
        **changes,
    }


def one(**changes: Any) -> Poisoning:
    (found,) = poisonings(load(table(**changes)))
    return found


@cache
def usual() -> Poisoning:
    return one()


def told(found: Poisoning) -> str:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for part in tables(found):
        console.print(part)
    return console.export_text()


@dataset(licence="none")
def letters() -> Dataset:
    """Tokens of three classes."""
    tokens, labels = torch.arange(1200).reshape(60, 20) * 7 % 50, torch.arange(60) % 3
    return Dataset(tokens, labels, tokens[:12], labels[:12], n_classes=3, vocabulary=50)


def _word(images: Tensor, labels: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    written = images.clone()
    written[:, 10:12] = torch.tensor([8, 9])
    return written, torch.where(labels == 0, -1, 0)


@data_attack(aim=_word, goal="backdoor", samples=("tokens",))
def word(images: Tensor, labels: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Write two tokens and label as 0."""
    return _word(images, labels, n_classes)[0], torch.zeros_like(labels)


def _shift(images: Tensor, labels: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    return images, torch.full_like(labels, -1)


@data_attack(aim=_shift, goal="availability", samples=("rows",))
def shift(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Add 2 to the third feature of every other sample, and take 1 from the fifth of the first."""
    images = images.clone()
    images[::2, 2] += 2
    images[0, 4] -= 1
    return images, labels


def token_table() -> dict[str, Any]:
    here = str(Path(__file__).resolve())
    return table(data=f"{here}:letters", model="lstm", threat={"malicious": 2, "data": f"{here}:word"})


def row_table() -> dict[str, Any]:
    return table(data="breast_cancer", threat={"malicious": 2, "data": f"{Path(__file__).resolve()}:shift"})


# The facts


def test_the_counts_are_those_of_what_attackers_train_on() -> None:
    found = usual()
    world, _ = build(parse(table()))
    assert found.attacked == tuple(sorted(world.threats[0].fixed_ids))
    said = found.describe()
    for told_of in said["clients"]:
        clean, bad = (world.federation.shard(told_of["client"], poisoned) for poisoned in (False, True))
        before, after = clean.labels[clean.index], bad.labels[bad.index]
        changed = (clean.images[clean.index] != bad.images[bad.index]).flatten(1).any(dim=1)
        assert told_of["samples"] == len(before)
        assert told_of["changed"] == int(changed.sum()) > 0
        assert told_of["relabelled"] == int((before != after).sum()) > 0
        assert told_of["labels_before"] == torch.bincount(before, minlength=10).tolist()
        assert told_of["labels_after"] == torch.bincount(after, minlength=10).tolist()
    assert said["attack"] == "badnets (target = 3, size = 2)"
    assert (said["goal"], said["actor"], said["draw"], said["round"]) == ("backdoor", "client", "fixed", None)
    assert said["triggered"]
    assert said["aimed_at"] == int((world.federation.dataset.test_labels != 3).sum())
    json.dumps(said, allow_nan=False)


@pytest.mark.parametrize("stamp", ["after_augmentation", "before_augmentation"])
def test_pictures_are_shown_as_training_sees_them(stamp: str) -> None:
    data, threat = {"name": "digits", "augment": {"flip": True, "crop": 1}}, {"malicious": 2, "data": BADNETS}
    found, plain = one(data=data, threat={**threat, "stamp": stamp}), usual()
    p, q = found.clients[0], plain.clients[0]
    assert torch.equal(p.images, q.images)  # what is counted
    clean, seen = p.shown(torch.arange(len(p.labels)))
    assert not torch.equal(clean, p.clean)
    at, corner = slice(5, 7), (seen != clean)[:, 0, 5:7, 5:7]
    marked = (seen != clean).flatten(1).any(dim=1)
    assert not (marked & ~p.changed).any()
    if stamp == "after_augmentation":
        assert found.sight == "crop = 1, flip = True, then the trigger"
        assert (seen[p.changed][:, :, at, at] == 1).all()
        assert int((seen != clean).sum()) == int(corner.sum())
    else:
        assert found.sight == "the trigger, then crop = 1, flip = True"
        assert int((seen != clean).sum()) > int(corner.sum())
    assert found.sight in told(found)
    assert found.describe()["sight"] == found.sight
    assert plain.describe()["sight"] == ""


def test_each_way_to_augment_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = {
        "data.augment": [{"flip": True}, {"crop": 1}],
        "threat.stamp": ["after_augmentation", "before_augmentation"],
    }
    drawn: list[Poisoning] = []
    monkeypatch.setattr(poison_figure, "draw", lambda blocks: drawn.extend(blocks) or plt.figure())
    poison_figure.save(poisonings(load(table(sweep=sweep))), tmp_path / "p.svg")
    assert len({p.sight for p in drawn}) == len(drawn) == 4


def test_sizes_are_norms_of_the_change_over_changed_samples() -> None:
    clean = torch.full((4, 1, 2, 2), 0.5)
    images = clean.clone()
    images[1, 0, 0] = torch.tensor([0.5 + 0.3, 0.5 - 0.4])
    images[3, 0, 1, 1] = 1.0
    labels = torch.tensor([0, 1, 2, 3])
    p = Poisoned(0, clean, images, labels, labels)
    size = replace(usual(), clients=(p,)).sizes
    assert size["l_inf_mean"] == pytest.approx(0.45)
    assert size["l_inf_max"] == pytest.approx(0.5)
    assert size["l2_mean"] == pytest.approx(0.5)
    assert size["l2_max"] == pytest.approx(0.5)
    assert size["psnr_mean"] == pytest.approx(10 * math.log10(1 / (0.25 / 4)))
    assert size["tokens_mean"] is None


def test_examples_are_changed_samples_of_many_labels() -> None:
    labels = torch.tensor([0, 0, 0, 1, 2, 2, 3])
    images = torch.zeros(7, 2)
    images[[0, 1, 2, 4, 5, 6]] = 1
    p = Poisoned(0, torch.zeros(7, 2), images, labels, torch.full_like(labels, 3))
    assert p.examples(4).tolist() == [0, 4, 6, 1]
    same = Poisoned(0, images, images, labels, torch.where(labels == 0, 1, labels))
    assert same.examples(6).tolist() == [0, 1, 2]


def test_each_different_attack_is_there_once() -> None:
    sweep = {
        "threat.data": [BADNETS, FLIP],
        "threat.malicious": [0, 1, 2],
        "defence.aggregator.name": ["mean", "median"],
    }
    found = poisonings(load({**table(sweep=sweep), "seeds": [4, 5]}))
    assert [(p.label, len(p.attacked)) for p in found] == [
        ("badnets (target = 3, size = 2)", 1),
        ("badnets (target = 3, size = 2)", 2),
        ("label_flip (source = 5, target = 7)", 1),
        ("label_flip (source = 5, target = 7)", 2),
    ]
    assert poisonings(load(table(threat={"malicious": 2, "update": "ipm"}))) == []


@pytest.mark.parametrize("draw", ["per_round", "per_cohort"])
def test_attackers_drawn_anew_are_those_of_the_first_round_that_has_any(draw: str) -> None:
    schedule = {"start": 2}
    threat = {"malicious": 2, "draw": draw, "data": FLIP, "schedule": schedule}
    changes: dict[str, Any] = {"rounds": 9, "threat": threat, "clients": {"count": 6, "per_round": 3}}
    found, (world, _) = one(**changes), build(parse(table(**changes)))
    assert found.round is not None
    cohort = world.federation.cohort(found.round, 3)
    assert list(found.attacked) == cohort[world.threats[0].among(cohort, 0, found.round)].tolist()
    assert all(not world.threats[0].among(world.federation.cohort(r, 3), 0, r).any() for r in range(1, found.round))
    assert "drawn anew each round" in told(found)


def test_an_outsider_is_called_one_and_what_nobody_trains_on_is_said() -> None:
    assert "an outsider, at clients" in told(one(threat={"malicious": 2, "actor": "data", "data": FLIP}))
    unused = one(threat={"malicious": 2, "data": FLIP, "update": "ipm"})
    assert any("nobody trains on this" in remark for remark in unused.remarks)
    assert not one(threat={"malicious": 2, "data": FLIP, "update": "model_replacement"}).remarks


def test_of_many_attacked_clients_some_are_crafted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poison, "_CRAFTED", 2)
    found = one(threat={"malicious": 4, "data": FLIP})
    assert len(found.attacked) == 4
    assert [p.client for p in found.clients] == list(found.attacked[:2])
    assert "of the 4 attacked clients the first 2 were crafted" in told(found)
    left = sum(len(p.labels) for p in found.clients) + 2 * len(found.clients[0].labels)  # 6 clients of 239 or 240
    assert found.detections[0].samples == pytest.approx(left, abs=4)


# What detectors find


def test_detectors_are_tried_on_raw_values_and_on_a_nets_features() -> None:
    found = usual()
    raw, net = found.detections
    assert (raw.features, net.features) == ("raw values", "mlp trained on these for 5 epochs")
    assert raw.samples == 1437
    assert raw.poisoned == sum(int((p.changed | p.flipped).sum()) for p in found.clients)
    assert set(raw.auroc) == {"knn_disagreement", "spectral_signatures", "activation_clustering"}
    flips = one(threat={"malicious": 2, "data": FLIP}).detections[0].auroc["knn_disagreement"]
    assert flips is not None
    assert flips > 0.95  # fives called sevens lie among fives
    assert one().detections == found.detections


def test_what_would_take_too_long_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poison_detection, "_OPERATIONS", 1e6)
    found = one()
    assert [d.features for d in found.detections] == ["raw values"]
    assert "no features of a net: training one takes too long for a preview" in told(found)


def test_all_clients_attacked_leaves_nothing_to_tell_apart() -> None:
    found = one(threat={"malicious": 6, "data": "label_flip"})
    assert found.detections == ()
    assert "not both clean and poisoned" in told(found)


# Tables and pictures


def test_features_of_rows_are_named_with_their_change() -> None:
    found = poisonings(load(row_table()))[0]
    lines = [line.split("│") for line in told(found).splitlines() if line.count("│") == 5]
    rows = {cells[1].strip(): [cell.strip() for cell in cells[2:5]] for cells in lines}
    assert rows["2"] == [str(sum(len(p.labels[::2]) for p in found.clients)), "+2.000", "2.000"]
    assert rows["4"] == ["2", "-1.000", "1.000"]
    assert found.sizes["psnr_mean"] is None
    assert found.sizes["l2_max"] == pytest.approx(5**0.5)
    assert found.aim is None


def test_tokens_are_shown_with_what_changed_marked() -> None:
    found = poisonings(load(token_table()))[0]
    assert found.sizes["tokens_max"] == 2
    assert found.sizes["l2_mean"] is None
    text = told(found)
    assert "[8]" in text
    assert found.detections[0].features == "counts of tokens"
    before, after = torch.arange(20), torch.arange(20)
    after[10] = 0
    assert token_window(before, after, 8) == slice(8, 16)
    assert token_window(before, before, 8) == slice(0, 8)


@pytest.mark.parametrize("colour", [True, False])
def test_pictures_in_the_terminal_have_the_pixels(colour: bool) -> None:
    found = one(threat={"malicious": 2, "data": {**BADNETS, "value": 0.0}})
    kind: Any = "truecolor" if colour else None
    console = Console(width=120, color_system=kind, force_terminal=colour, file=open("/dev/null", "w"))  # noqa: SIM115
    _, drawn = list(pictures(found, console))[:2]
    p = found.clients[0]
    place = int(p.examples(1)[0])
    lines = drawn.plain.splitlines()
    assert len([line for line in lines if line.strip()]) <= 4  # 8 pixels high, two a line
    if colour:
        styles = [span.style for span in drawn.spans]
        first = [round(255 * float(p.clean[place, 0, row, 0])) for row in (0, 1)]
        assert (styles[0].color.name, styles[0].bgcolor.name) == tuple(f"#{3 * f'{v:02x}'}" for v in first)
        names = [style.color.name for style in styles]
        assert any(name.endswith("ff") and not name.startswith("#ff") for name in names)  # what is darker is blue
    else:
        assert set(drawn.plain) <= set(" ░▒▓█\n")
    assert list(pictures(one(threat={"malicious": 2, "data": FLIP}), console)) == []


def images(figure: Any) -> list[Any]:
    return [ax.images[0] for ax in figure.axes if ax.images and ax.get_label() != "<colorbar>"]


def test_the_picture_shows_clean_poisoned_difference_and_test_samples() -> None:
    found = usual()
    shown = images(poison_figure.draw([found]))
    p = found.clients[0]
    places = p.examples(6)
    assert len(shown) == 24
    clean, poisoned, change = (
        torch.stack([torch.tensor(image.get_array().tolist()) for image in shown[i : i + 6]]) for i in (0, 6, 12)
    )
    assert torch.allclose(clean, p.clean[places, 0].double().float())
    assert torch.allclose(poisoned, p.images[places, 0])
    assert torch.allclose(change, poisoned - clean, atol=1e-6)
    limits = {image.get_clim() for image in shown[12:18]}
    (limit,) = limits  # one scale, symmetric
    assert limit == (-limit[1], limit[1])
    assert limit[1] == pytest.approx(float(change.abs().max()))


def test_of_colours_the_channel_that_changes_most_is_shown() -> None:
    change = torch.zeros(1, 3, 1, 2)
    change[0, :, 0, 0] = torch.tensor([0.1, -0.6, 0.2])
    assert poison_figure._largest(change).flatten().tolist() == pytest.approx([-0.6, 0])


@pytest.mark.parametrize("made", [row_table(), token_table(), table(threat={"malicious": 2, "data": FLIP})])
def test_rows_tokens_and_flips_have_pictures(made: dict[str, Any], tmp_path: Path) -> None:
    drawn = poison_figure.save(poisonings(load(made)), tmp_path / "p.png")
    assert drawn is not None
    assert drawn.stat().st_size > 10_000


def test_many_attacks_stand_two_abreast_each_once() -> None:
    attacks = [BADNETS, FLIP, "label_flip", {**BADNETS, "target": 1}]
    found = poisonings(load(table(sweep={"threat.data": attacks, "threat.malicious": [1, 2]})))
    assert len(found) == 8
    figure = poison_figure.draw(found[::2])
    assert len(figure.subfigs) == 4
    assert len(images(figure)) == 24 + 24 + 6 + 6
    assert figure.get_figwidth() < 12


def test_the_command_says_it_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "e.toml", tmp_path / "p.svg"
    file.write_text(tomli_w.dumps(table()))
    assert cli.main(["preview", str(file), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert said.endswith(f"{out}\n{tmp_path / 'p-poison.svg'}\n")
    assert (tmp_path / "p-poison.svg").stat().st_size > 10_000
    assert "badnets (target = 3, size = 2)" in said
    assert "knn disagreement" in said
    assert "▒" not in said
    assert cli.main(["preview", str(file), "--out", str(out), "--terminal"]) == 0
    assert "▒" in capsys.readouterr().out
    assert cli.main(["preview", str(file), "--json"]) == 0
    (split,) = json.loads(capsys.readouterr().out)
    (attack,) = split["poison"]
    assert attack["attacked"] == split["malicious"]
    assert attack["options"]["target"] == 3
    assert [c["labels_before"] for c in attack["clients"]] == [split["counts"][i] for i in split["malicious"]]
    file.write_text(tomli_w.dumps(table(threat={"malicious": 2, "update": "ipm"})))
    (tmp_path / "p-poison.svg").unlink()
    assert cli.main(["preview", str(file), "--out", str(out)]) == 0
    assert capsys.readouterr().out.endswith(f"{out}\n")
    assert not (tmp_path / "p-poison.svg").exists()
    assert cli.main(["preview", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["poison"] == []
