"""The preview of a partition: right counts, a table that fits, a picture."""

import json
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import tomli_w
import torch

from fedpoison import cli
from fedpoison.config.sweep import load
from fedpoison.preview.split import Split, draw, save, splits
from fedpoison.runs.world import build


def table(**changes: Any) -> dict[str, Any]:
    return {
        "name": "t",
        "rounds": 1,
        "data": {"name": "digits", "validation": 37},
        "model": "logistic",
        "clients": {"count": 6, "held_out": 0.1},
        "threat": {"malicious": 2, "update": "ipm"},
        **changes,
    }


def test_counts_are_those_that_clients_train_on() -> None:
    experiment = load(table())
    (split,) = splits(experiment)
    world, _ = build(experiment.runs[0])
    for client in range(6):
        labels = world.federation.dataset.train_labels[world.federation.shard(client).index]
        assert split.counts[client].tolist() == torch.bincount(labels, minlength=10).tolist()
    held = sum(len(world.federation.held_out(i)) for i in range(6))
    assert int(split.counts.sum()) + held + 37 == 1437
    assert split.malicious == world.threats[0].fixed_ids
    assert split.title == "iid: digits, 2 malicious"


def test_each_different_split_is_shown_once() -> None:
    sweep = {
        "data.partition": ["iid", {"name": "dirichlet", "alpha": 3.0}],
        "defence.aggregator.name": ["mean", "median"],
    }
    found = splits(load({**table(sweep=sweep), "seeds": [4, 5]}))
    assert [split.title for split in found] == [
        "iid: digits, 2 malicious",
        "dirichlet (alpha = 3.0): digits, 2 malicious",
    ]


@pytest.mark.parametrize("clients", [6, 60])
def test_the_bars_have_the_counts(clients: int) -> None:
    (split,) = splits(load(table(clients={"count": clients})))
    (ax,) = [ax for ax in draw([split]).axes if ax.patches]
    widths = torch.tensor([bar.get_width() for bar in ax.patches]).reshape(10, clients).T
    assert torch.equal(widths.long(), split.counts)
    (marks,) = ax.lines
    assert sorted(marks.get_ydata()) == sorted(split.malicious)


@pytest.mark.parametrize(("panels", "clients"), [(1, 20), (2, 100), (3, 5), (4, 20), (5, 5), (9, 5), (20, 5)])
def test_no_panel_gives_way_to_another(panels: int, clients: int) -> None:
    counts, malicious = torch.full((clients, 2), 750), frozenset(range(clients))
    long = "mine.py:hospitals (wards = [1, 2, 3], min_samples = 5): digits, 2 malicious"
    titles = ["iid: digits", long, "dirichlet (alpha = 0.1): digits, 2 malicious"]
    found = [Split(titles[i % 3], counts, torch.zeros(clients), malicious) for i in range(panels)]
    with plt.style.context(str(files("fedpoison.report") / "paper.mplstyle")):
        figure = draw(found)
        figure.draw_without_rendering()
        boxes = [ax.get_tightbbox() for ax in figure.axes] + [figure.legends[0].get_window_extent()]
        heights = {ax.get_window_extent().height / figure.dpi for ax in figure.axes}
        plt.close(figure)
    assert len(boxes) == panels + 1
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 for box in boxes)
    assert min(heights) == pytest.approx(max(heights))
    assert min(heights) > 1


def test_the_command_prints_a_table_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "e.toml"
    file.write_text(tomli_w.dumps(table()))
    out = tmp_path / "p.png"
    assert cli.main(["preview", str(file), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "malicious" in said
    assert "samples a client: 210" in said
    assert out.stat().st_size > 10_000
    assert cli.main(["preview", str(file), "--json", "--set", "clients.count=3"]) == 0
    (split,) = json.loads(capsys.readouterr().out)
    assert len(split["counts"]) == 3
    assert cli.main(["preview", str(file), "--out", str(tmp_path / "p.gif")]) == 2
    assert "figures are saved as" in capsys.readouterr().err
    assert cli.main(["preview", str(file), "--set", "clients.count=9999"]) == 2


def test_of_many_clients_the_extremes_are_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "e.toml"
    file.write_text(tomli_w.dumps(table(clients={"count": 100}, threat={})))
    assert cli.main(["preview", str(file), "--out", str(tmp_path / "p.svg")]) == 0
    said = capsys.readouterr().out
    assert "of 100 clients the smallest, middle and largest are shown" in said
    assert said.count("│") < 16 * 15


def test_a_picture_can_have_many_classes(tmp_path: Path) -> None:
    (split,) = splits(load(table()))
    many = split.__class__("many", torch.randint(0, 9, (12, 62)), torch.zeros(12), frozenset({3}))
    assert save([many], tmp_path / "many.png").is_file()
