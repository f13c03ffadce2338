"""What scripts/bench computes beside its clocks: the work it hands out, the comparison, ratios, exponents, bars."""

import argparse
import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from fedpoison.clients.training import Local, batches
from fedpoison.common.seeding import Stream

BENCHMARKS = Path(__file__).parents[2] / "scripts" / "benchmarks"
sys.path.append(str(BENCHMARKS))

import aggregators  # noqa: E402
import scale  # noqa: E402
import startup  # noqa: E402
import training  # noqa: E402
import turns  # noqa: E402


def module(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, BENCHMARKS / path)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def work_options(**changed: object) -> argparse.Namespace:
    return argparse.Namespace(**{"net": "mlp", "clients": 3, "samples": 10, "steps": None, "rounds": 2, **changed})


def test_work_is_read_as_it_was_written(tmp_path):
    local = Local(batch_size=4, lr=0.05, epochs=1)
    training.write_work(tmp_path, work_options(), local)
    work = module("contenders/training/work.py").Work(str(tmp_path))
    for client in range(3):
        made = work.batches(2, client)
        wanted = list(batches(Stream(0, "batches", 2, client), 10, local))
        assert sorted(np.concatenate(made)) == list(range(10))
        assert np.array_equal(np.concatenate(made), np.concatenate(wanted))
    assert [len(part) for part in work.shard(2)] == [10, 10]


def test_nets_of_the_work_share_no_memory(tmp_path):
    training.write_work(tmp_path, work_options(), Local(batch_size=4, lr=0.05))
    work = module("contenders/training/work.py").Work(str(tmp_path))
    first = work.params.copy()
    one, other = work.module(), work.module()
    with torch.no_grad():
        one[1].weight.add_(1)
    assert np.array_equal(work.params, first)
    assert np.array_equal(torch.nn.utils.parameters_to_vector(other.parameters()).detach().numpy(), first)


def test_operations_of_a_round_by_hand(tmp_path):
    local = Local(batch_size=4, lr=0.05, steps=1)
    flops = training.write_work(tmp_path, work_options(steps=1), local)
    assert flops == 2 * 3 * 4 * (2 * 784 * 200 + 3 * 200 * 10)


def test_summary_leaves_out_the_first_round():
    slow_start = {"began": 0.0, "ended": [9.0, 10.0, 12.0], "cpu": [5.0, 6.0, 7.0], "uses": "1 thread"}
    made = training.summary([slow_start, {**slow_start, "began": 2.0}])
    assert (made["seconds"], made["cpu_seconds"], made["first_round_after"]) == (1.5, 1.0, 8.0)


def test_training_bars_are_ratios_to_ours_or_not_measured():
    found = {"fedpoison": {"seconds": 2.0, "cpu_seconds": 3.0}, "flower": {"seconds": 30.0, "cpu_seconds": 6.0}}
    flower, pfl, peak = training.bars_of(found, work_options(), least=1.0)
    assert (flower.reached, flower.passed) == (15.0, True)
    assert (pfl.reached, pfl.passed) == (None, None)
    assert (peak.reached, peak.passed) == (0.5, False)
    assert training.bars_of(found, work_options(net="cnn"), least=1.0)[0].reached == 2.0


def test_missing_library_says_why_and_the_others_go_on(tmp_path, monkeypatch):
    (tmp_path / ".venvs").mkdir()
    (tmp_path / ".venvs" / "pfl.failed").write_text("pfl==0.6.0 cannot be installed: no network\n")
    monkeypatch.setattr(turns, "ROOT", tmp_path)
    programs = {name: training.PROGRAMS[name] for name in ("pfl", "byzfl")}
    found, why = turns.take_turns(programs, tmp_path, 2, lambda name, turn: pytest.fail(f"{name} took a turn"))
    assert found == {"pfl": [], "byzfl": []}
    assert why["pfl"] == "pfl==0.6.0 cannot be installed: no network"
    assert "scripts/bench" in why["byzfl"]


def test_program_that_fails_gives_its_last_line(tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("import nothing_of_this_name")
    monkeypatch.setattr(turns, "CONTENDERS", tmp_path)
    with pytest.raises(turns.TurnError, match="No module named 'nothing_of_this_name'"):
        turns.Program("broken.py").run(tmp_path)


def rules_options(**changed: object) -> argparse.Namespace:
    rules = ["median", "trimmed_mean", "krum", "bulyan"]
    return argparse.Namespace(**{"n": 11, "d": 400, "few": 50, "f": 2, "rules": rules, **changed})


@pytest.mark.exhaustive
def test_libraries_get_the_same_rows_and_agree(tmp_path):
    given = rules_options()
    aggregators.write_task(tmp_path, given)
    turned, why, outputs = aggregators.take_all(["fedpoison", "torch", "numpy"], tmp_path, 1)
    found = aggregators.found_in(turned, outputs, given.rules)
    assert why == {}
    assert {name: row["note"] for name, row in found["krum"].items()} == {"fedpoison": "", "torch": ""}
    assert all(row["difference"] < 1e-5 for rule in found.values() for row in rule.values())
    assert outputs["fedpoison"]["bulyan"].shape == (50,)
    assert set(found["trimmed_mean"]) == {"fedpoison", "torch", "numpy"}


def test_rows_hold_f_that_lie_apart(tmp_path):
    aggregators.write_task(tmp_path, rules_options(n=20, f=4, d=2000))
    rows = np.load(tmp_path / "matrix.npy")
    apart = rows.mean(axis=1) - np.median(rows.mean(axis=1)) > 0.5
    assert rows.shape == (20, 2000)
    assert apart.sum() == 4
    assert json.loads((tmp_path / "task.json").read_text())["columns"] == {
        "median": 2000,
        "trimmed_mean": 2000,
        "krum": 2000,
        "bulyan": 50,
    }


def test_known_difference_is_named_and_another_is_not():
    turn = {"uses": "1 thread", "rules": {"krum": {"seconds": 1.0, "cpu_seconds": 1.0}}}
    ours, theirs = np.zeros(3), np.full(3, 0.5)
    outputs = {"fedpoison": {"krum": ours}, "byzfl": {"krum": theirs}, "flower": {"krum": theirs}}
    row = aggregators.found_in({name: [turn] for name in outputs}, outputs, ["krum"])["krum"]
    assert "n − f − 1" in row["byzfl"]["note"]
    assert row["flower"]["note"] == aggregators.UNEXPLAINED
    assert row["flower"]["difference"] == 0.5


def test_rule_bars_are_against_the_best_library_not_the_best_line():
    seconds = {"fedpoison": 0.1, "flower": 2.0, "byzfl": 4.0, "numpy": 0.05}
    found = {"median": {name: {"seconds": value} for name, value in seconds.items()}}
    median, trimmed, *_ = aggregators.bars_of(found)
    assert median.reached == pytest.approx(20)
    assert trimmed.passed is None


def test_import_beyond_torch_is_paired():
    turned = {startup.TORCH: [1.0, 5.0, 2.0], startup.WHOLE: [1.4, 5.3, 2.2]}
    rows = {name: [{"seconds": x, "cpu_seconds": x} for x in values] for name, values in turned.items()}
    assert startup.beyond_torch(startup.summary(rows)) == pytest.approx(0.3)
    assert startup.beyond_torch({}) is None


def test_exponent_of_a_power_and_of_a_constant():
    sizes = [10.0, 100.0, 1000.0]
    assert scale.exponent(sizes, [3 * size**1.5 for size in sizes]) == pytest.approx(1.5)
    assert scale.exponent(sizes, [7.0, 7.0, 7.0]) == pytest.approx(0)
    assert scale.exponent([10.0], [1.0]) is None
    assert scale.exponent(sizes, [0.0, 1.0, 2.0]) is None


def test_scale_fits_all_points_and_the_last_two_apart():
    points = tuple(scale.Point(n, n, 6, 32, 2) for n in (10, 100, 1000))
    costs = {
        "seconds": (1.0, 1.0, 100.0),
        "cpu_seconds": (1.0, 10.0, 100.0),
        "rise": (2.0, 2.0, 2.0),
        "peak": (9, 9, 9),
    }
    found = {point: {key: value[i] for key, value in costs.items()} for i, point in enumerate(points)}
    told = scale.report(scale.Line("cohort", points, ""), found)
    assert told["exponents"]["seconds"] == {"all": pytest.approx(1.0), "end": pytest.approx(2.0)}
    assert told["exponents"]["rise"]["all"] == pytest.approx(0)
    assert [row["size"] for row in told["points"]] == [10, 100, 1000]


def test_memory_bar_compares_what_a_client_adds():
    def line(against: str, *rises: int) -> dict[str, object]:
        return {"against": against, "points": [{"size": 10 + 90 * i, "rise": rise} for i, rise in enumerate(rises)]}

    (bar,) = scale.bars_of([line("cohort", 500, 9500), line("population", 500, 950)])
    assert bar.reached == pytest.approx(20)
    (bar,) = scale.bars_of([line("cohort", 500, 9500), line("population", 500, 400)])
    assert bar.reached == pytest.approx(100)
    (bar,) = scale.bars_of([line("cohort", 500, 9500), line("population", 500)])
    assert bar.passed is None


def test_scale_counts_parameters_as_torch_does():
    net = torch.nn.Sequential(torch.nn.Linear(784, 37), torch.nn.Linear(37, 10))
    assert scale.Point(1, 1, 1, 37, 1).parameters == sum(p.numel() for p in net.parameters())


def test_scale_varies_one_size_at_a_time():
    given = argparse.Namespace(samples=6, hidden=32, clients=[10, 100, 1000], hiddens=[8, 16])
    lines = {line.against: line for line in scale.lines_of(given, cores=3)}
    assert [line.at(point) for line in [lines["cores"]] for point in line.points] == [1, 2, 3]
    assert {point.per_round for point in lines["population"].points} == {100}
    assert [point.per_round for point in lines["cohort"].points] == [10, 100, 1000]
    for line in lines.values():
        assert len({(p.samples, p.hidden) for p in line.points}) == (2 if line.against == "parameters" else 1)


def test_summary_of_all_takes_only_what_was_measured_now(tmp_path):
    bars = [turns.Bar("a", 2.0, 3.0), turns.Bar("b", 0.5, None, "%")]
    given = argparse.Namespace(out=tmp_path, repeats=2)
    turns.write("one", given, {}, bars)
    everything, written = module("all.py"), tmp_path / "one.json"
    assert everything.bars_in(written, since=os.path.getmtime(written) - 1) == bars
    assert everything.bars_in(written, since=os.path.getmtime(written) + 1) == []
    assert everything.bars_in(tmp_path / "none.json", since=0) == []


@pytest.mark.parametrize(("value", "unit", "text"), [(12.34, "×", "12 ×"), (1.234, "×", "1.2 ×"), (0.5, "%", "50%")])
def test_figures_are_shown_with_the_digits_that_say_something(value, unit, text):
    assert turns.shown(value, unit) == text
