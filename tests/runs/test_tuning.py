"""Tuning: an equal budget a rule, other seeds, validation data only, and settings that can be run again."""

from pathlib import Path
from typing import Any

import pytest
import tomli_w
from making import put_records

import fedpoison
from fedpoison import cli
from fedpoison.common.errors import ConfigError
from fedpoison.config.sweep import load
from fedpoison.runs.files import RunFiles
from fedpoison.runs.running import Job
from fedpoison.runs.tuning import load_tuning

TABLE: dict[str, Any] = {
    "name": "tuned",
    "seeds": [0, 1],
    "rounds": 2,
    "data": {"name": "digits", "validation": 0.1},
    "model": "logistic",
    "clients": {"count": 6, "local": {"steps": 3}},
    "threat": {"malicious": 1},
    "sweep": {
        "defence.aggregator.name": ["mean", "centered_clipping"],
        "threat.update": ["ipm", {"name": "gaussian", "std": 0.1}],
    },
    "tune": {
        "budget": 3,
        "seeds": [7],
        "options": {"clients.local.lr": [1e-5, 0.05], "centered_clipping.tau": [0.1, 1.0, 10.0]},
    },
}


def file(folder: Path, **changes: Any) -> Path:
    path = folder / "e.toml"
    path.write_text(tomli_w.dumps({**TABLE, **changes}))
    return path


def test_each_rule_has_the_budget_or_its_whole_grid(tmp_path: Path) -> None:
    tuning = load_tuning(file(tmp_path))
    assert [dict(s) for s in tuning.settings["mean"]] == [{"clients.local.lr": 1e-5}, {"clients.local.lr": 0.05}]
    drawn = [tuple(setting.items()) for setting in tuning.settings["centered_clipping"]]
    assert len(set(drawn)) == 3
    assert {key for setting in drawn for key, _ in setting} == {"clients.local.lr", "defence.aggregator.tau"}
    again = load_tuning(file(tmp_path)).settings
    assert again == tuning.settings
    other = [load_tuning(file(tmp_path, tune={**TABLE["tune"], "seeds": [s]})).settings for s in range(20, 26)]
    assert any(settings["centered_clipping"] != tuning.settings["centered_clipping"] for settings in other)
    trials = tuning.trials()
    assert len(trials.runs) == 2 * 2 + 2 * 3  # settings by attacks, one seed
    assert {run.seed for run in trials.runs} == {7}
    fewer = load_tuning(file(tmp_path), {"tune.budget": 1})
    assert {len(settings) for settings in fewer.settings.values()} == {1}


def test_the_setting_with_the_best_validation_is_taken_and_the_test_set_never_seen(tmp_path: Path) -> None:
    tuning = load_tuning(file(tmp_path))
    job = Job(tuning.trials(), tmp_path)
    job.start()
    before = [tried.best for tried in tuning.choose(job)]
    assert all(setting["clients.local.lr"] == 0.05 for setting, _ in before if len(setting) == 1)
    for rounds in tmp_path.rglob("rounds.jsonl"):  # another test accuracy changes nothing
        records = RunFiles(rounds.parent).records()
        for number, record in enumerate(records):
            record["accuracy"] = 1.0 - record["accuracy"] + number
        put_records(rounds.parent, records)
    assert [tried.best for tried in tuning.choose(job)] == before
    for rounds in tmp_path.rglob("rounds.jsonl"):  # another validation accuracy does
        records = RunFiles(rounds.parent).records()
        for record in records:
            record["validation_accuracy"] = 1.0 - record["validation_accuracy"]
        put_records(rounds.parent, records)
    assert [tried.best for tried in tuning.choose(job)] != before


@pytest.mark.parametrize("metric", ["loss", "balanced_accuracy"])
def test_settings_can_be_chosen_by_another_metric(metric: str, tmp_path: Path) -> None:
    tuning = load_tuning(file(tmp_path), {"tune.metric": metric})
    job = Job(tuning.trials(), tmp_path)
    job.start()
    (mean,) = [tried for tried in tuning.choose(job) if tried.rule == "mean"]
    scores = [score for _, score in mean.scores if score is not None]
    assert len(scores) == 2
    assert mean.best[1] == (min if metric == "loss" else max)(scores)
    last = {run.hash: job.folder(run).records()[-1] for run in job.configs if run.defence.rule == "mean"}
    assert sum(scores) / 2 == pytest.approx(sum(record[f"validation_{metric}"] for record in last.values()) / len(last))


def test_a_metric_of_two_classes_needs_two(tmp_path: Path) -> None:
    load_tuning(file(tmp_path), {"tune.metric": "loss"}).check()
    with pytest.raises(ConfigError, match=r"tune\.metric: auc is for two classes, and digits has 10"):
        load_tuning(file(tmp_path), {"tune.metric": "auc"}).check()
    load_tuning(file(tmp_path, data={"name": "breast_cancer", "validation": 0.1}), {"tune.metric": "auc"}).check()


def test_the_score_is_the_mean_over_attacks_and_seeds(tmp_path: Path) -> None:
    tuning = load_tuning(file(tmp_path, tune={**TABLE["tune"], "seeds": [7, 8]}))
    job = Job(tuning.trials(), tmp_path)
    job.start()
    (mean,) = [tried for tried in tuning.choose(job) if tried.rule == "mean"]
    for setting, score in mean.scores:
        runs = [
            c for c in job.configs if c.defence.rule == "mean" and c.clients.local.lr == setting["clients.local.lr"]
        ]
        assert len(runs) == 4
        last = [job.folder(run).records()[-1]["validation_accuracy"] for run in runs]
        assert score == pytest.approx(sum(last) / 4)


def test_the_command_tunes_runs_and_writes_what_can_be_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = file(tmp_path), tmp_path / "out"
    assert cli.main(["tune", str(path), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "10 runs to tune with, on seeds [7]" in said
    assert "accuracy in the last round" in said
    assert "the round of the best validation accuracy" in said
    again = load(out / "tuned" / "tuned.toml")
    assert len(again.runs) == 2 * 2 * 2
    assert all((out / "tuned" / run.hash / "model.safetensors").is_file() for run in again.runs)
    chosen = {(run.defence.rule, run.clients.local.lr) for run in again.runs}
    assert ("mean", 0.05) in chosen
    assert len(chosen) == 2
    assert {run.defence.rule for run in load(out / "tuned" / "tuned.toml", only=["mean"]).runs} == {"mean"}
    before = {p: p.stat().st_mtime_ns for p in out.rglob("rounds.jsonl")}
    assert cli.main(["tune", str(path), "--out", str(out)]) == 0
    tuned = fedpoison.tune(path, out=out)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("rounds.jsonl")} == before
    assert tuned.file == out / "tuned" / "tuned.toml"
    assert sorted(run.folder.path.name for run in tuned.runs.runs) == sorted(run.hash for run in again.runs)
    assert {(one.rule, one.best[0]["clients.local.lr"]) for one in tuned.tried} == chosen
    with pytest.raises(ConfigError, match=r"tune\.budget"):
        fedpoison.tune(path, {"tune.budget": 0}, out)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tune": {}}, "tune.budget: Field required"),
        ({"tune": {**TABLE["tune"], "budget": 0}}, "tune.budget: Input should be greater than or equal to 1"),
        ({"tune": {**TABLE["tune"], "seeds": [0, 7]}}, r"tune.seeds: \[0\] are seeds of the experiment too"),
        ({"data": "digits"}, "set data.validation"),
        (
            {"tune": {**TABLE["tune"], "metric": "auk"}},
            r"tune\.metric: there is no metric 'auk'; did you mean 'auc'\? there are accuracy, loss",
        ),
        ({"tune": {**TABLE["tune"], "options": {"clients.local.lr": []}}}, "at least one value is needed"),
        ({"tune": {**TABLE["tune"], "options": {"clients.lr": [1.0]}}}, "clients.lr: there is no such key"),
    ],
)
def test_what_cannot_be_tuned_is_refused(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_tuning(file(tmp_path, **changes))
