"""What makes a run another than the one that was asked for is said wherever runs are read."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import tomli_w
from matplotlib.figure import Figure

import fedpoison
from fedpoison import cli
from fedpoison.report.figures import plot
from fedpoison.report.pivot import pivot
from fedpoison.runs.files import RunFiles
from fedpoison.runs.frame import Runs
from fedpoison.runs.happened import happened

NOT_FINITE = "no update is left (all not finite)"
DIVERGED = f"2 of 2 rounds were skipped in 4 of 4 runs: {NOT_FINITE}; is the learning rate too large?"


@pytest.fixture(scope="module")
def diverged(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Two rules with their clean runs, in which every update of every round is NaN or infinite."""
    out = tmp_path_factory.mktemp("diverged")
    return fedpoison.run(
        {
            "name": "d",
            "rounds": 2,
            "paired_clean": True,
            "data": {"name": "digits"},
            "model": {"name": "mlp", "hidden": [8]},
            "clients": {"count": 5, "local": {"steps": 2, "lr": 1e20}},
            "threat": {"malicious": 1, "data": "label_flip"},
            "sweep": {"defence.aggregator.name": ["mean", "median"]},
            "workers": 1,
        },
        out=out,
    )


def event(what: str, detail: str, *clients: int) -> dict[str, Any]:
    return {"what": what, "clients": list(clients), "detail": detail}


def written(folder: Path, rounds: Sequence[Sequence[dict[str, Any]]], **record: Any) -> RunFiles:
    """A run's folder with these events in its rounds."""
    folder.mkdir()
    (folder / "config.toml").write_text(tomli_w.dumps({"name": "w"}))
    (folder / "run.json").write_text(json.dumps({"rule": "mean", "attack": record.pop("attack", "alie")}))
    plain = {"malicious": [1, 2], "skipped": False, **record}
    records = [{"round": number, **plain, "events": events} for number, events in enumerate(rounds, start=1)]
    (folder / "rounds.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return RunFiles(folder)


def test_a_federation_that_diverges_has_no_damage(diverged: Runs) -> None:
    with pytest.warns(UserWarning, match=r"^2 of 2 rounds were skipped in 4 of 4 runs"):
        frame = diverged.frame()
    assert frame["damage"].is_null().all()
    assert frame["clean_accuracy"].is_not_null().all()
    made = pivot(diverged, ["rule"], ["attack"], ["damage"])
    assert {cell.text(False) for line in made.cells for cell in line} == {"–"}


def test_every_command_that_reads_runs_says_so(
    diverged: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = str(diverged.folders[0].path.parent)
    for command in (["show", results], ["table", results], ["plot", results, "--out", str(tmp_path / "f.png")]):
        assert not cli.main(command)
        said = capsys.readouterr()
        assert f"note: {DIVERGED}\n" in (said.err if command[0] == "plot" else said.out)
    cli.main(["show", str(diverged.folders[0].path)])
    assert f"note: {DIVERGED.replace(' in 4 of 4 runs', '')}\n" in capsys.readouterr().out
    cli.main(["show", results, "--json"])
    assert [run["remarks"] for run in json.loads(capsys.readouterr().out)] == [
        [DIVERGED.replace(" in 4 of 4 runs", "")]
    ] * 4
    for form in ("markdown", "latex"):
        cli.main(["table", results, "--format", form])
        assert DIVERGED in capsys.readouterr().out
    for form in ("csv", "json"):  # a machine reads what is printed
        cli.main(["table", results, "--format", form])
        said = capsys.readouterr()
        assert "skipped" not in said.out
        assert "2 of 2 rounds were skipped in 4 of 4 runs" in said.err


def test_a_figure_has_the_remarks_below_all_else(
    diverged: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(plt, "close", drawn.append)
    plot(diverged, tmp_path / "figure.png", ["accuracy", "damage"])
    (figure,) = drawn
    (text,) = figure.texts
    assert " ".join(text.get_text().split()) == DIVERGED
    figure.draw_without_rendering()  # at the figure's own resolution, not the file's
    box, (legend,) = text.get_window_extent(), figure.legends
    assert box.y0 >= 0
    assert box.width <= figure.bbox.width
    lowest = min(part.get_tightbbox().y0 for part in (*figure.axes, legend))
    assert box.y1 < lowest


def test_rounds_and_runs_are_counted(tmp_path: Path) -> None:
    skip, said = event("skipped", "mda needs n > 2*f"), event("attack", "it is the mean")
    one = written(tmp_path / "one", [[skip], [skip, said], []])
    other = written(tmp_path / "other", [[skip], []])
    quiet = written(tmp_path / "quiet", [[event("late", "will arrive in round 2", 1)], []])
    assert happened([one, other, quiet]) == [
        "1 to 2 of 2 to 3 rounds were skipped in 2 of 3 runs: mda needs n > 2*f",
        "1 of 3 rounds in 1 of 3 runs: it is the mean",
    ]
    assert happened([one])[1] == "1 of 3 rounds: it is the mean"
    ruined = written(tmp_path / "ruined", [[event("not_finite", f"{k} of 9 test samples")] for k in (3, 4)])
    wrong = "outputs of the model are not finite for some samples, which count as wrong"
    assert happened([ruined]) == [f"2 of 2 rounds: {wrong}"]
    assert happened([quiet]) == []


def test_what_an_attack_says_with_other_numbers_each_round_is_said_once(tmp_path: Path) -> None:
    told = ["tailored: gamma = 0.5 moves 7", "tailored: gamma = -2e-3 moves 7", "tailored: gamma = 1.25 moves 7"]
    one, other = ([event("attack", text)] for text in told[:2])
    found = happened([written(tmp_path / "a", [one, other]), written(tmp_path / "b", [[event("attack", told[2])], []])])
    assert found == ["1 to 2 of 2 rounds in 2 of 2 runs: tailored: gamma = -2e-3 to 1.25 moves 7"]
    (same,) = happened([written(tmp_path / "c", [one, one])])
    assert same == f"2 of 2 rounds: {told[0]}"


def test_attackers_who_were_all_set_aside_are_told_from_others(tmp_path: Path) -> None:
    all_of_them = [event("set_aside", "not finite", 1, 2, 5)]
    one_of_them = [event("set_aside", "not finite", 1, 5)]
    found = happened([written(tmp_path / "w", [all_of_them, one_of_them])])
    assert found == ["1 of 2 rounds: what the attackers sent was set aside (not finite)"]


def test_an_attack_that_changed_nothing_has_no_damage(tmp_path: Path) -> None:
    in_vain = {"malicious": 1, "data": {"name": "label_flip", "share": 0.0}}
    table = {"name": "v", "rounds": 2, "data": "digits", "model": "logistic", "paired_clean": True}
    with pytest.warns(UserWarning, match=r"^label_flip changes no sample of the malicious clients: \d \(seed 0\)"):
        runs = fedpoison.run({**table, "clients": {"count": 3}, "threat": in_vain}, out=tmp_path)
    said = "2 of 2 rounds in 1 of 2 runs: label_flip changes no sample of any of its clients"
    with pytest.warns(UserWarning, match=said):
        frame = runs.frame()
    damage = dict(frame.select("attack", "damage").rows())
    assert damage == {"label_flip": None, "none": 0.0}


def test_an_attack_in_which_nobody_took_part_is_none(tmp_path: Path) -> None:
    folders = [
        written(tmp_path / "never", [[], []], malicious=[]),
        written(tmp_path / "clean", [[], []], malicious=[], attack="none"),
    ]
    assert happened(folders) == ["2 of 2 rounds in 1 of 2 runs: alie: no malicious client took part"]


def test_a_threshold_that_clips_nobody_or_everybody_all_run_is_said(tmp_path: Path) -> None:
    """What is on another scale than the updates makes of a rule the mean, or a mean of directions."""
    mostly = [event("defence", "clipping: threshold = 1 clips nobody")]
    skipped = written(tmp_path / "skipped", [mostly, mostly, []])
    assert happened([skipped]) == []
    table = {"name": "c", "rounds": 2, "data": "digits", "model": "logistic", "clients": {"count": 3}, "workers": 1}
    chosen = [
        {"aggregator": {"name": "centered_clipping", "tau": 1e5, "iterations": 2}},
        {"aggregator": {"name": "norm_clipping", "threshold": 1e-5}},
        {"pre": [{"name": "clipping", "threshold": 1e5}]},
        {"pre": ["clipping"], "aggregator": "norm_clipping"},
        {"aggregator": "centered_clipping"},
    ]
    runs = fedpoison.run({**table, "sweep": {"defence": chosen}}, out=tmp_path)
    with pytest.warns(UserWarning, match="clips nobody"):
        runs.frame()
    assert happened(runs.folders) == [
        "2 of 2 rounds in 1 of 5 runs: centered_clipping: tau = 100000 clips nobody",
        "2 of 2 rounds in 1 of 5 runs: norm_clipping: threshold = 1e-05 clips everybody",
        "2 of 2 rounds in 1 of 5 runs: clipping: threshold = 100000 clips nobody",
    ]
