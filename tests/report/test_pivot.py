"""Tables of any rows by any columns: right figures, nothing averaged that differs, readable formats."""

import csv
import io
import json
import math
import statistics
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from fedpoison import cli
from fedpoison.common.errors import ConfigError
from fedpoison.common.schedule import Schedule
from fedpoison.config.sweep import load
from fedpoison.measures.metrics import METRICS
from fedpoison.report.formats import latex, markdown, text
from fedpoison.report.pivot import Cell, pivot
from fedpoison.report.rounds import at_round
from fedpoison.runs.frame import Runs, durability
from fedpoison.runs.running import Job

TABLE: dict[str, Any] = {
    "name": "p",
    "seeds": [0, 1, 2],
    "rounds": 3,
    "data": {"name": "digits", "validation": 0.1},
    "model": "logistic",
    "clients": {"count": 6, "local": {"steps": 1}},
    "threat": {"malicious": 1, "data": {"name": "label_flip"}},
    "sweep": {"defence.aggregator.name": ["mean", "median"], "clients.local.lr": [0.1, 0.2]},
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pivot")
    Job(load(TABLE), folder).start()
    return folder / "p"


def values(results: Path, rule: str, lr: float, metric: str = "accuracy", round: int = 3) -> list[float]:
    found = {}
    for folder in Runs.read([results]).folders:
        config, labels = folder.described()
        if labels["rule"] == rule and config["clients"]["local"]["lr"] == lr:
            found[config["seed"]] = folder.records()[round - 1][metric]
    return [found[seed] for seed in sorted(found)]


def test_a_cell_is_the_mean_over_seeds_with_students_interval(results: Path) -> None:
    made = pivot(Runs.read([results]), ["rule"], ["clients.local.lr"], ["accuracy"])
    assert made.rows == [("mean",), ("median",)]
    assert made.columns == [("0.1",), ("0.2",)]
    for row, cells in zip(made.rows, made.cells, strict=True):
        for column, cell in zip(made.columns, cells, strict=True):
            expected = values(results, row[0], float(column[0]))
            assert cell.values == tuple(expected)
            half = 4.302652729911275 * statistics.stdev(expected) / math.sqrt(3)  # t(.975, 2)
            assert cell.half_width == pytest.approx(half)
            assert cell.text(False) == f"{statistics.fmean(expected):.3f}±{half:.3f}"
            assert all(f"{value:.3f}" in cell.text(True) for value in expected)


def test_one_seed_has_no_interval_and_none_a_dash() -> None:
    assert Cell((0.5,)).text(True) == "0.500"
    assert Cell(()).text(False) == "–"


def test_a_round_can_be_chosen(results: Path) -> None:
    runs = Runs.read([results])
    made = pivot(runs, ["rule", "clients.local.lr"], [], ["accuracy"], at="1")
    for row, (cell,) in zip(made.rows, made.cells, strict=True):
        assert cell.values == tuple(values(results, row[0], float(row[1]), round=1))
    with pytest.raises(ConfigError, match="no run has a round 9"):
        pivot(runs, ["rule"], ["clients.local.lr"], at="9")
    with pytest.raises(ConfigError, match=r"--at takes last, best, .* last5 or a round's number, not 'first'"):
        pivot(runs, ["rule"], ["clients.local.lr"], at="first")


def test_the_best_round_is_that_of_the_best_validation(results: Path) -> None:
    made = pivot(Runs.read([results]), ["rule", "clients.local.lr"], [], ["accuracy"], at="best")
    for row, (cell,) in zip(made.rows, made.cells, strict=True):
        by_round = [
            (
                values(results, row[0], float(row[1]), "validation_accuracy", r),
                values(results, row[0], float(row[1]), round=r),
            )
            for r in (1, 2, 3)
        ]
        expected = [max(((v[i], -r, t[i]) for r, (v, t) in enumerate(by_round)))[2] for i in range(3)]
        assert cell.values == tuple(expected)


def test_the_best_round_can_be_that_of_another_metric(results: Path) -> None:
    made = pivot(Runs.read([results]), ["rule", "clients.local.lr"], [], ["accuracy"], at="best_loss")
    for row, (cell,) in zip(made.rows, made.cells, strict=True):
        rounds = [values(results, row[0], float(row[1]), "validation_loss", r) for r in (1, 2, 3)]
        accuracies = [values(results, row[0], float(row[1]), "accuracy", r) for r in (1, 2, 3)]
        lowest = [min(range(3), key=lambda i, seed=seed: rounds[i][seed]) for seed in range(3)]
        assert cell.values == tuple(accuracies[i][seed] for seed, i in enumerate(lowest))
    assert made.note.startswith("accuracy in the round of the best validation loss")
    with pytest.raises(ConfigError, match=r"set data\.validation and data of two classes"):
        pivot(Runs.read([results]), ["rule"], ["clients.local.lr"], at="best_auc")


def test_the_mean_of_the_last_evaluations(results: Path) -> None:
    runs = Runs.read([results])
    for metric in ("accuracy", "detection_false_positive_rate", "damage"):
        assert metric in runs.frame().columns
    made = pivot(runs, ["rule", "clients.local.lr"], [], ["accuracy"], at="last2")
    for row, (cell,) in zip(made.rows, made.cells, strict=True):
        two, three = (values(results, row[0], float(row[1]), round=r) for r in (2, 3))
        assert cell.values == pytest.approx([(a + b) / 2 for a, b in zip(two, three, strict=True)])
    assert made.note.startswith("accuracy as the mean of the last 2 evaluations")
    last = pivot(runs, ["rule", "clients.local.lr"], [], at="last1")
    assert last.cells == pivot(runs, ["rule", "clients.local.lr"], []).cells
    with pytest.raises(ConfigError, match="--at last5 is the mean of 5 evaluations, and a run has 3"):
        pivot(runs, ["rule"], ["clients.local.lr"], at="last5")


def frame_of(*accuracies: float | None, loss: float | None = 1.0) -> pl.DataFrame:
    """A run's rounds, of which some were not evaluated; in the last one the loss is as given, in others 1."""
    rows = [
        {"run": "a", "seed": 0, "rule": "mean", "round": i, **dict.fromkeys(METRICS), "accuracy": a, "loss": a and 1.0}
        for i, a in enumerate(accuracies, 1)
    ]
    rows[-1]["loss"] = loss
    return pl.DataFrame(rows, schema_overrides=dict.fromkeys(METRICS, pl.Float64))


def test_last_counts_evaluations_not_rounds_and_hides_nothing() -> None:
    (row,) = at_round(frame_of(0.1, None, 0.2, None, 0.5, None), "last2").rows(named=True)
    assert row["accuracy"] == pytest.approx(0.35)
    assert row["rule"] == "mean"
    (row,) = at_round(frame_of(0.1, 0.2, loss=None), "last2").rows(named=True)
    assert row["accuracy"] == pytest.approx(0.15)
    assert row["loss"] is None  # of which one evaluation had none


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("recall", "called detection_recall now; the model's own is rare_recall"),
        ("precision", "precision is of the detection of attackers, and called detection_precision now"),
        ("f1", "called detection_f1 now; the model's own is rare_f1"),
        ("auroc", "called detection_auroc now; the model's own is auc"),
        ("false_positive_rate", "called detection_false_positive_rate now"),
        ("damage_accuracy", "damage_accuracy is called damage"),
    ],
)
def test_a_name_of_before_is_answered_with_the_new_one(
    name: str, sentence: str, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["table", str(results), "--metric", name]) == 2
    assert sentence in capsys.readouterr().err
    assert cli.main(["plot", str(results), "--metric", name]) == 2
    assert sentence in capsys.readouterr().err


def test_a_run_is_shown_with_what_is_measured_of_its_model(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = min(results.glob("*/run.json")).parent
    last = json.loads((folder / "rounds.jsonl").read_text().splitlines()[-1])
    assert cli.main(["show", str(folder)]) == 0
    said = capsys.readouterr().out
    assert f"balanced_accuracy {last['balanced_accuracy']:.4f}" in said
    assert "auc" not in said.split("round 3:")[1]  # of ten classes


def test_best_needs_validation(tmp_path: Path) -> None:
    Job(load({**TABLE, "data": "digits", "seeds": [0], "sweep": {}}), tmp_path).start()
    with pytest.raises(ConfigError, match=r"set data\.validation"):
        pivot(Runs.read([tmp_path]), ["rule"], [], at="best")


def test_nothing_but_seeds_is_averaged(results: Path) -> None:
    runs = Runs.read([results])
    with pytest.raises(ConfigError, match=r"runs that differ in clients\.local\.lr would share a cell"):
        pivot(runs, ["rule"], ["attack"])
    with pytest.raises(
        ConfigError, match=r"there is no key 'clients\.lr' in which these runs differ; did you mean .*there are"
    ):
        pivot(runs, ["clients.lr"], [])
    with pytest.raises(ConfigError, match="there is no metric 'asr2'"):
        pivot(runs, ["rule"], ["clients.local.lr"], ["asr2"])
    with pytest.raises(ConfigError, match="these runs have no asr"):
        pivot(runs, ["rule"], ["clients.local.lr"], ["asr"])


def test_a_key_in_which_runs_agree_is_a_key_too(results: Path) -> None:
    made = pivot(Runs.read([results]), ["rule", "clients.local.lr"], ["clients.count"], ["accuracy"])
    assert made.columns == [("6",)]


def test_formats(results: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def said(*more: str) -> str:
        keys = ["--rows", "rule", "--cols", "clients.local.lr", "--metric", "accuracy"]
        assert cli.main(["table", str(results), *keys, *more]) == 0
        return capsys.readouterr().out

    mean = f"{statistics.fmean(values(results, 'mean', 0.1)):.3f}±"
    markdown = said("--format", "markdown").splitlines()
    assert {line.index("|", 2) for line in markdown[:4]} == {markdown[0].index("|", 2)}
    assert markdown[1].endswith("-: |")
    assert any(line.startswith("| mean ") and mean in line for line in markdown)
    latex = said("--format", "latex")
    assert r"\begin{tabular}{lrr}" in latex
    assert r"\midrule" in latex
    assert mean.replace("±", r"$\pm$") in latex
    rows = list(csv.DictReader(io.StringIO(said("--format", "csv"))))
    assert len(rows) == 4
    assert float(rows[0]["mean"]) == pytest.approx(statistics.fmean(map(float, rows[0]["values"].split())))
    assert {row["seeds"] for row in json.loads(said("--format", "json"))} == {3}
    assert mean in said()
    said("--format", "latex", "--out", str(tmp_path / "deep" / "t.tex"))
    assert (tmp_path / "deep" / "t.tex").read_text() == latex
    said("--out", str(tmp_path / "t.txt"))
    assert mean in (tmp_path / "t.txt").read_text()


def test_special_letters_do_not_break_latex_or_markdown() -> None:
    assert r"a\_b \& 50\% & 1 \\" in latex(["k", "v"], [["a_b & 50%", "1"]], 1, ["note"])
    assert r"x \| y" in markdown(["k", "v"], [["x | y", "1"]], 1)


def test_the_usual_table_is_rules_by_attacks_and_what_else_tells_runs_apart(results: Path) -> None:
    made = pivot(Runs.read([results]))
    assert made.row_keys == ("rule", "clients.local.lr")
    assert made.rows == [("mean", "0.1"), ("mean", "0.2"), ("median", "0.1"), ("median", "0.2")]
    assert made.columns[:2] == [("label_flip", "accuracy"), ("label_flip", "attack success")]
    assert made.cells[0][0].values == tuple(values(results, "mean", 0.1))
    alone = pivot(Runs.read([results], ["clients.local.lr=0.2"]))
    assert alone.rows == [("mean",), ("median",)]
    assert alone.cells[1][0].values == tuple(values(results, "median", 0.2))


SHARES: dict[str, Any] = {
    **{key: value for key, value in TABLE.items() if key != "threat"},
    "name": "s",
    "seeds": [0, 1],
    "rounds": 1,
    "sweep": {
        "defence.aggregator.name": ["mean", "median"],
        "threat.share": [0.0, 0.2, 0.4],
        "threat": [{"data": "label_flip"}, {"update": "sign_flip"}, {"update": {"name": "ipm", "epsilon": 2.0}}],
    },
}


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("shares")
    Job(load(SHARES), folder).start()
    return Runs.read([folder])


def of(runs: Runs, **wanted: Any) -> dict[int, Any]:
    """The last accuracy of the runs that have these values, by seed."""
    frame = runs.rows()
    for key, value in wanted.items():
        frame = frame.filter(pl.col(key.replace("_", ".")) == value)
    return dict(frame.select("seed", "accuracy").rows())


def test_a_share_of_0_is_the_origin_of_each_attack(shares: Runs) -> None:
    made = pivot(shares, ["rule", "threat.share"], ["attack"], ["accuracy"])
    assert made.columns == [("ipm",), ("label_flip",), ("sign_flip",)]
    assert made.rows == [(rule, share) for rule in ("mean", "median") for share in ("0.0", "0.2", "0.4")]
    for (rule, share), cells in zip(made.rows, made.cells, strict=True):
        for (attack,), cell in zip(made.columns, cells, strict=True):
            if share == "0.0":
                part, name = ("data", "label_flip") if attack == "label_flip" else ("update", "ipm")
                expected = of(shares, attack="none", rule=rule, **{f"threat_{part}_name": name})
            else:
                expected = of(shares, attack=attack, rule=rule, threat_share=float(share))
            assert cell.values == tuple(expected[seed] for seed in (0, 1))


def test_success_at_a_share_of_0_is_of_the_attack_that_was_measured(shares: Runs) -> None:
    made = pivot(shares, ["rule", "threat.share"], ["attack"], ["attack_success"])
    origin = dict(zip((column for (column,) in made.columns), made.cells[0], strict=True))
    assert len(origin["label_flip"].values) == 2
    assert origin["ipm"].values == origin["sign_flip"].values == ()


def test_the_usual_table_of_a_sweep_over_shares(shares: Runs) -> None:
    made = pivot(shares)
    assert made.row_keys == ("rule", "threat.share")
    assert made.columns == [
        ("ipm", "accuracy"),
        ("label_flip", "accuracy"),
        ("label_flip", "attack success"),
        ("sign_flip", "accuracy"),
    ]


def test_clean_runs_are_left_out_where_they_would_share_a_cell(tmp_path: Path) -> None:
    threats = [{"malicious": 1, "data": "label_flip"}, {"malicious": 1, "data": {"name": "badnets", "size": 2}}]
    sweep = {"threat": threats}
    Job(load({**TABLE, "name": "c", "seeds": [0], "rounds": 1, "paired_clean": True, "sweep": sweep}), tmp_path).start()
    for made in (pivot(Runs.read([tmp_path]), ["rule"], ["attack"], ["accuracy"]), pivot(Runs.read([tmp_path]))):
        assert {column[0] for column in made.columns} == {"badnets", "label_flip"}


def test_metrics_are_known_by_the_names_that_tables_show(results: Path) -> None:
    runs = Runs.read([results])
    made = [
        pivot(runs, ["rule", "clients.local.lr"], [], [name]).cells
        for name in ("attack_success", "attack success", "Attack-Success")
    ]
    assert made[0] == made[1] == made[2]
    with pytest.raises(
        ConfigError, match=r"there is no metric 'attack sucess'; did you mean 'attack_success'\? there are"
    ):
        pivot(runs, ["rule", "clients.local.lr"], [], ["attack sucess"])


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_no_number_is_cut_at_any_width(width: int) -> None:
    heads = [
        "rule",
        "threat.share",
        *(f"badnets+model_replacement, {metric}" for metric in ("accuracy", "attack success")),
    ]
    heads += [f"{attack}, accuracy" for attack in ("alie", "ipm", "label_flip")]
    body = [["nnm+centered_clipping", "0.2", *(f"0.{i}{j}4±0.123" for j in range(5))] for i in range(3)]
    console = Console(width=width, file=io.StringIO(), record=True)
    made = text(heads, body, 2, width)
    console.print(*made, sep="\n")
    said = console.export_text()
    assert max(map(len, said.splitlines())) <= width
    if width > 60:  # else it is broken, for no number may be
        assert said.count("nnm+centered_clipping") == 3 * len(made)
    for number in (cell for line in body for cell in line[2:]):
        assert f" {number} " in said
    assert (len(made) == 1) == (width > 150)


def record(round: int, success: float | None) -> dict[str, Any]:
    return {"round": round, "asr": success, "target_success": None}


@pytest.mark.parametrize(
    ("successes", "schedule", "expected"),
    [
        ([0.0, 0.9, 0.9, 0.8, 0.4, 0.1], {"end": 3}, (1, False)),
        ([0.0, 0.9, 0.9, 0.4, 0.8, 0.1], {"end": 3}, (2, False)),  # the last round above, not the first below
        ([0.0, 0.9, 0.9, 0.5, 0.5, 0.1], {"end": 3}, (0, False)),  # .5 is not above .5
        ([0.0, 0.9, 0.9, 0.8, 0.7, 0.6], {"end": 3}, (3, True)),
        ([0.0, 0.9, 0.9, None, 0.7, None], {"end": 3}, (2, True)),  # the last that was evaluated
        ([0.0, 0.9, 0.9, 0.8, 0.4, 0.1], {"at": [2]}, (2, False)),
        ([0.0, 0.9, 0.9, 0.8, 0.4, 0.1], {"end": 4, "every": 2}, (1, False)),  # rounds 1 and 3
        ([0.0, 0.2, 0.4, 0.3, 0.2, 0.1], {"end": 3}, (None, False)),  # never succeeded
        ([0.0, 0.9, 0.9, 0.8, 0.9, 0.9], {}, (None, False)),  # never ends
        ([0.0, 0.9, 0.9, 0.8, 0.9, 0.9], {"end": 6}, (None, False)),  # ends with the run
        ([0.9, 0.1, 0.1, 0.1, 0.1, 0.1], {"start": 2, "end": 3}, (None, False)),  # was high before it began
        ([None] * 6, {"end": 3}, (None, False)),
    ],
)
def test_durability_counts_rounds_from_the_attacks_last(
    successes: list[float | None], schedule: dict[str, Any], expected: tuple[int | None, bool]
) -> None:
    records = [record(round, success) for round, success in enumerate(successes, start=1)]
    assert durability(records, Schedule(**schedule)) == expected
    assert durability(records, None) == (None, False)


def test_a_mean_of_which_a_part_is_a_lower_bound_is_one() -> None:
    cell = Cell((2.0, 4.0), (False, True))
    assert cell.text(False) == "≥3.000"
    assert cell.text(True) == "≥3.000 (2.000 ≥4.000)"
    assert cell.half_width is None
    assert Cell((2.0, 4.0), (False, False)).text(True).startswith("3.000±")


def test_durability_is_a_column_of_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    badnets = {"name": "badnets", "size": 2, "target": 3}
    threat = {"malicious": 3, "data": badnets, "schedule": {"start": 1, "end": 4}}
    clients = {"count": 4, "local": {"epochs": 3, "lr": 0.5}}
    made = {**TABLE, "name": "d", "seeds": [0], "rounds": 6, "threat": threat, "clients": clients, "sweep": {}}
    Job(load(made), tmp_path).start()
    runs = Runs.read([tmp_path])
    (row,) = runs.summary().rows(named=True)
    frame = runs.frame().sort("round")
    above = [r for r, success in zip(frame["round"], frame["attack_success"], strict=True) if success > 0.5]
    assert 4 in above
    assert row["durability"] == max(above) - 4
    assert row["outlasts"] == (max(above) == 6)
    assert cli.main(["table", str(tmp_path), "--metric", "durability"]) == 0
    said = capsys.readouterr().out
    assert f"{'≥' * row['outlasts']}{row['durability']:.3f}" in said
    assert "durability: rounds after the attack's last one" in said
    assert "last round" not in said
    both = ["table", str(tmp_path), "--metric", "accuracy", "--metric", "durability", "--format", "json"]
    assert cli.main(both) == 0
    lines = json.loads(capsys.readouterr().out)
    assert [line["at_least"] for line in lines] == [False, row["outlasts"]]
    assert cli.main(["table", str(tmp_path), "--metric", "durable"]) == 2
    assert "durability" in capsys.readouterr().err
