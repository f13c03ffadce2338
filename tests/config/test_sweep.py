"""From one TOML to its runs: products, seeds, overrides, duplicates, paired clean runs."""

import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fedpoison.common.errors import ConfigError
from fedpoison.config.choice import parse_assignment
from fedpoison.config.sweep import Experiment, cells, load, put

ROOT = Path(__file__).parents[2]


def table(**changes: Any) -> dict[str, Any]:
    return {"name": "t", "rounds": 3, "data": {"name": "digits"}, "model": "logistic", **changes}


def problems(source: Any, overrides: dict[str, Any] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(source, overrides)
    return caught.value.problems


def load_or_refusal(source: Any, overrides: dict[str, Any] | None = None) -> Experiment | ConfigError:
    try:
        return load(source, overrides)
    except ConfigError as error:
        return error


def rules(experiment: Experiment) -> list[str]:
    return [run.defence.rule for run in experiment.runs]


# The product


def test_a_table_without_sweep_is_one_run() -> None:
    made = load(table())
    assert (made.name, made.folder, len(made.runs), made.clean) == ("t", Path(), 1, ())
    assert made.runs[0].seed == 0


def test_sweep_spans_the_product_of_its_keys() -> None:
    made = load(
        table(sweep={"defence.aggregator": ["mean", "median"], "server.lr": [0.5, 1.0], "clients.local.lr": [0.1]})
    )
    spanned = [(r.defence.rule, r.server.lr, r.clients.local.lr) for r in made.runs]
    assert spanned == [("mean", 0.5, 0.1), ("mean", 1.0, 0.1), ("median", 0.5, 0.1), ("median", 1.0, 0.1)]


def test_sweep_takes_whole_tables() -> None:
    threats = [{"malicious": 0}, {"malicious": 4, "update": {"name": "ipm", "epsilon": 0.3}}, {"update": "alie"}]
    made = load(table(threat={"share": 0.1, "data": "badnets"}, sweep={"threat": threats}))
    assert [run.attack for run in made.runs] == ["none", "ipm"]  # the third has nobody, like the first
    assert made.runs[1].threat.share is None


def test_sweep_fills_whole_tables_in() -> None:
    made = load(
        table(sweep={"threat": [{"update": "ipm"}, {"update": "alie"}], "threat.malicious": [1, 2]}),
    )
    assert [(run.attack, run.malicious) for run in made.runs] == [("ipm", 1), ("ipm", 2), ("alie", 1), ("alie", 2)]


def test_sweep_over_an_option_of_a_component_that_is_given_by_its_name() -> None:
    made = load(table(defence={"aggregator": "centered_clipping"}, sweep={"defence.aggregator.tau": [0.1, 1]}))
    assert [run.defence.aggregator.options["tau"] for run in made.runs] == [0.1, 1.0]


def test_cells_share_nothing() -> None:
    given = table(clients={"local": {"lr": 0.1}}, sweep={"threat": [{"update": "ipm"}], "threat.malicious": [1, 2]})
    before = copy.deepcopy(given)
    (_, first), (_, second) = cells(given)
    assert (first["threat"]["malicious"], second["threat"]["malicious"]) == (1, 2)
    first["clients"]["local"]["lr"] = 9.0
    assert second["clients"]["local"]["lr"] == 0.1
    assert given == before
    assert "sweep" not in first


@pytest.mark.parametrize("axis", [[], "mean", 3, {"a": 1}])
def test_an_axis_is_a_list_with_a_value(axis: Any) -> None:
    (problem,) = problems(table(sweep={"defence.aggregator": axis}))
    assert problem == (
        "sweep.defence.aggregator: a list with at least one value is needed (a dotted key stands in quotes), "
        f"not {axis!r}"
    )


def test_sweep_is_a_table() -> None:
    assert problems(table(sweep=[1])) == ["sweep: a table of lists, or an array of such tables, is needed, not [1]"]


def test_all_bad_axes_are_named() -> None:
    assert len(problems(table(sweep={"rounds": 3, "server.lr": [], "model": ["mlp"]}))) == 2


def test_seeds_that_are_swept_are_not_lost() -> None:
    made = load_or_refusal(table(sweep={"seed": [1, 2]}))
    assert isinstance(made, ConfigError) or [run.seed for run in made.runs] == [1, 2]


def test_swept_seeds_and_seeds_are_alternatives() -> None:
    (problem,) = problems(table(seeds=[5], sweep={"seed": [1, 2]}))
    assert "seeds" in problem


# put


def test_put_makes_the_tables_on_the_way() -> None:
    made: dict[str, Any] = {}
    put(made, "a.b.c", 1)
    put(made, "a.d", [2])
    put(made, "e", {"f": 3})
    assert made == {"a": {"b": {"c": 1}, "d": [2]}, "e": {"f": 3}}


def test_put_turns_a_name_into_a_table() -> None:
    made = {"defence": {"aggregator": "krum"}}
    put(made, "defence.aggregator.tau", 0.1)
    assert made == {"defence": {"aggregator": {"name": "krum", "tau": 0.1}}}


def test_put_replaces_a_value_of_any_kind() -> None:
    made = {"a": {"b": 1}, "c": "x"}
    put(made, "a", "y")
    put(made, "c", {"d": 1})
    assert made == {"a": "y", "c": {"d": 1}}


def test_put_of_another_name_drops_the_options_of_the_one_before() -> None:
    made: dict[str, Any] = {"defence": {"f": 1, "aggregator": {"name": "centered_clipping", "tau": 0.1}}}
    put(made, "defence.aggregator.name", "centered_clipping")
    assert made["defence"]["aggregator"] == {"name": "centered_clipping", "tau": 0.1}
    put(made, "defence.aggregator.name", "krum")
    assert made == {"defence": {"f": 1, "aggregator": {"name": "krum"}}}


def test_put_of_another_data_set_keeps_the_partition() -> None:
    made: dict[str, Any] = {"data": {"name": "fashion_mnist", "folder": "a", "partition": "iid"}}
    put(made, "data.name", "digits")
    assert made == {"data": {"name": "digits", "partition": "iid"}}


@pytest.mark.parametrize("value", [3, [1], True])
def test_put_refuses_a_key_of_what_has_no_keys(value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        put({"a": {"b": value}}, "a.b.c", 1)
    assert caught.value.problems == [f"a.b.c: b is {value!r}, which has no keys"]


# Overrides


def test_overrides_change_the_tables_before_they_are_checked() -> None:
    made = load(table(rounds=0), {"rounds": 5, "defence.aggregator.name": "median", "clients.local.lr": 1})
    assert (made.runs[0].rounds, rules(made), made.runs[0].clients.local.lr) == (5, ["median"], 1.0)


def test_overrides_reach_seeds_and_pairing() -> None:
    made = load(
        table(seeds=[0], threat={"malicious": 2, "update": "ipm"}),
        {"seeds": [3, 4], "paired_clean": True, "name": "other"},
    )
    assert ([run.seed for run in made.runs], len(made.clean), made.name) == ([3, 4], 2, "other")


def test_overrides_leave_what_was_given_alone() -> None:
    source, overrides = table(), {"defence": {"f": 1}, "defence.aggregator": "median"}
    kept = copy.deepcopy((source, overrides))
    load(source, overrides)
    assert (source, overrides) == kept


@pytest.mark.parametrize(
    ("axis", "override"),
    [
        ({"defence.aggregator": ["mean", "median"]}, {"defence.aggregator": "krum"}),
        ({"defence.aggregator": ["mean", "median"]}, {"defence.aggregator.name": "krum"}),
        ({"defence.aggregator": [{"name": "centered_clipping", "tau": 0.1}]}, {"defence.aggregator.name": "krum"}),
        ({"defence.aggregator.name": ["mean", "median"]}, {"defence.aggregator": "krum"}),
        ({"defence": [{"aggregator": "mean"}, {"aggregator": "median"}]}, {"defence.aggregator": "krum"}),
        ({"defence.aggregator": ["mean", "median"]}, {"sweep": {"defence.aggregator": ["krum"]}}),
    ],
)
def test_an_override_is_set_in_every_cell(axis: dict[str, Any], override: dict[str, Any]) -> None:
    assert rules(load(table(sweep=axis), override)) == ["krum"]


@pytest.mark.parametrize("given", [("name", "tau"), ("tau", "name")])
def test_no_assignment_is_lost_whatever_their_order(given: tuple[str, str]) -> None:
    values = {"name": "centered_clipping", "tau": 0.3}
    overridden = load_or_refusal(table(), {f"defence.aggregator.{key}": values[key] for key in given})
    swept = load_or_refusal(table(sweep={f"defence.aggregator.{key}": [values[key]] for key in given}))
    for made in (overridden, swept):
        if isinstance(made, Experiment):
            (run,) = made.runs
            assert (run.defence.rule, run.defence.aggregator.options["tau"]) == ("centered_clipping", 0.3)


def test_a_configuration_is_a_source_too() -> None:
    (run,) = load(table(seed=3, threat={"malicious": 2, "update": "ipm"})).runs
    assert [again.table() for again in load(run).runs] == [run.table()]
    assert [again.seed for again in load(run, {"seed": 4}).runs] == [4]


def test_an_unknown_override_is_refused() -> None:
    instead = "there is no such key; did you mean 'aggregator'? the keys are aggregator, base, client, f, monitors, pre"
    assert problems(table(), {"defence.agregator": "krum"}) == [f"defence.agregator: {instead}"]
    assert problems(table(), {"rounds.x": 3}) == ["rounds.x: rounds is 3, which has no keys"]


# Seeds


def test_seeds_repeat_every_cell() -> None:
    made = load(table(seeds=[5, 3], sweep={"defence.aggregator": ["mean", "median"]}))
    repeated = [(run.defence.rule, run.seed) for run in made.runs]
    assert repeated == [("mean", 5), ("mean", 3), ("median", 5), ("median", 3)]


def test_seed_alone_is_one_run() -> None:
    assert [run.seed for run in load(table(seed=7)).runs] == [7]


def test_seed_and_seeds_are_alternatives() -> None:
    assert problems(table(seed=1, seeds=[2])) == ["seed = 1 and seeds = [2] are alternatives; give one"]
    assert problems(table(seeds=[2]), {"seed": 1}) == ["seed = 1 and seeds = [2] are alternatives; give one"]


@pytest.mark.parametrize("seeds", [[], 3, "0", [1, 1], {"a": 1}])
def test_seeds_are_different_numbers(seeds: Any) -> None:
    assert problems(table(seeds=seeds)) == [f"seeds: a list of different numbers is needed, not {seeds!r}"]


@pytest.mark.parametrize("seed", [-1, 1.5, "1", True])
def test_each_seed_is_checked(seed: Any) -> None:
    (problem,) = problems(table(seeds=[0, seed]))
    assert problem.startswith("seed: ")
    assert repr(seed) in problem


@pytest.mark.parametrize("paired", [1, "yes", [True]])
def test_pairing_is_true_or_false(paired: Any) -> None:
    assert problems(table(paired_clean=paired)) == [f"paired_clean: true or false, not {paired!r}"]


def test_wrong_seeds_and_pairing_are_said_at_once() -> None:
    assert len(problems(table(seeds=[], paired_clean=1))) == 2


# Duplicates


def test_cells_that_are_the_same_run_are_made_once() -> None:
    made = load(
        table(
            sweep={
                "defence.aggregator": ["mean", {"name": "mean"}, {"name": "mean", "weighting": "uniform"}, "median"],
                "workers": [1, 2],
            }
        )
    )
    assert rules(made) == ["mean", "median"]


def test_without_attackers_the_attack_makes_no_difference() -> None:
    made = load(table(threat={"update": "ipm"}, sweep={"threat.malicious": [0, 1], "threat.update.epsilon": [0.1, 1]}))
    assert [run.attack for run in made.runs] == ["none", "ipm", "ipm"]


# Paired clean runs


def attacked(**changes: Any) -> dict[str, Any]:
    return table(threat={"malicious": 2, "update": "ipm"}, paired_clean=True, **changes)


def test_a_clean_run_is_shared_by_all_cells_that_differ_in_the_attack_alone() -> None:
    made = load(
        attacked(
            seeds=[0, 1],
            sweep={
                "threat.update": ["ipm", "alie", "sign_flip"],
                "threat.schedule.start": [1, 2],
                "defence.aggregator": ["mean", "median"],
            },
        )
    )
    assert (len(made.runs), len(made.clean)) == (24, 4)
    assert {(c.defence.rule, c.seed, c.attack) for c in made.clean} == {
        ("mean", 0, "none"),
        ("mean", 1, "none"),
        ("median", 0, "none"),
        ("median", 1, "none"),
    }
    assert {run.labels()["clean"] for run in made.runs} == {c.hash for c in made.clean}


def test_a_clean_run_is_not_shared_where_the_defence_is_told_another_f() -> None:
    made = load(attacked(defence={"aggregator": "trimmed_mean"}, sweep={"threat.malicious": [2, 3]}))
    assert sorted(c.f or 0 for c in made.clean) == [2, 3]


def test_a_clean_run_measures_what_the_data_attack_aims_at() -> None:
    flips = [{"name": "label_flip", "source": s, "target": 7} for s in (1, 2)]
    made = load(table(threat={"malicious": 2}, paired_clean=True, sweep={"threat.data": flips}))
    aims = [c.threat.data.options["source"] for c in made.clean if c.threat.data]
    assert aims == [1, 2]


def test_a_clean_run_that_is_asked_for_anyway_is_made_once() -> None:
    made = load(attacked(defence={"f": 2}, sweep={"threat.malicious": [0, 2]}))
    assert [run.attack for run in made.runs] == ["none", "ipm"]
    assert made.clean == ()
    assert made.runs[1].labels()["clean"] == made.runs[0].hash


def test_no_clean_runs_unless_asked_for_or_without_attackers() -> None:
    assert load({**attacked(), "paired_clean": False}).clean == ()
    assert load(table(paired_clean=True)).clean == ()


# What is wrong


def test_the_errors_of_all_cells_are_gathered_and_said_once() -> None:
    found = problems(
        table(
            clients={"count": 7},
            seeds=[0, 1, 2],
            server={"lr": -1.0},
            sweep={"defence.aggregator": ["mean", "crum", {"name": "median", "k": 1}]},
        )
    )
    assert len(found) == 3
    assert sum("'crum'" in problem for problem in found) == 1
    assert sum("median has no option 'k'" in problem for problem in found) == 1
    assert sum(problem.startswith("server.lr") for problem in found) == 1


def test_one_cell_that_does_not_fit_refuses_the_experiment() -> None:
    found = problems(
        table(
            clients={"count": 7},
            threat={"update": "ipm"},
            seeds=[0, 1],
            sweep={"defence.aggregator": ["mean", "krum", "trimmed_mean"], "threat.malicious": [2, 3, 4]},
        )
    )
    assert found == [
        "krum needs n > 2*f + 2: n = 7, f = 3",
        "krum needs n > 2*f + 2: n = 7, f = 4",
        "trimmed_mean needs n > 2*f: n = 7, f = 4",
    ]


# Files


def test_a_file_is_read_and_its_folder_kept(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text('name = "x"\nrounds = 2\n[data]\nname = "digits"\n[sweep]\n"server.lr" = [1, 2]\n')
    made = load(tmp_path / "x.toml")
    assert (made.name, made.folder, len(made.runs)) == ("x", tmp_path, 2)
    assert load(str(tmp_path / "x.toml")).runs == made.runs


@pytest.mark.parametrize(
    "path",
    sorted(p for p in (ROOT / "experiments").rglob("*.toml") if p.name != "pyproject.toml"),
    ids=lambda p: p.stem,
)
def test_every_experiment_can_be_loaded(path: Path) -> None:
    made = load(path)
    given = tomllib.loads(path.read_text())
    assert made.name == given["name"]
    assert len(made.runs) >= len(given.get("seeds", [0]))


# key=value


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("a=1", "a", 1),
        ("a.b.c=-2", "a.b.c", -2),
        ("a=1.5", "a", 1.5),
        ("a=1e-3", "a", 0.001),
        ("a=true", "a", True),
        ("a=false", "a", False),
        ("a='true'", "a", "true"),
        ('a="x y"', "a", "x y"),
        ("a=krum", "a", "krum"),
        ("a=my rule.py:mine", "a", "my rule.py:mine"),
        ("a=[1, 2]", "a", [1, 2]),
        ('a=["mean", "krum"]', "a", ["mean", "krum"]),
        ('a={ name = "krum", m = 3 }', "a", {"name": "krum", "m": 3}),
        ("a=[{ x = 1 }, {}]", "a", [{"x": 1}, {}]),
        (" a = 1 ", "a", 1),
        ("a=b=c", "a", "b=c"),
        ("a=", "a", ""),
        ("a=[1, 2", "a", "[1, 2"),
    ],
)
def test_a_value_is_toml_or_a_string(text: str, key: str, value: Any) -> None:
    parsed = parse_assignment(text)
    assert parsed == (key, value)
    assert type(parsed[1]) is type(value)


@pytest.mark.parametrize("text", ["a", "", "=1", " =1", "rounds 3"])
def test_an_assignment_has_a_key_and_an_equals_sign(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_assignment(text)
    assert caught.value.problems == [f"--set takes key=value, not {text!r}"]
