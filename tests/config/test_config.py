"""What a TOML may say, what is refused and how, and which runs share a folder."""

import tomllib
from dataclasses import replace
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from fedpoison.common.errors import ConfigError
from fedpoison.config.config import Config, parse
from fedpoison.config.sweep import put
from fedpoison.config.toml import read_toml
from fedpoison.contract.lookup import entries

MINIMAL = {"name": "t", "rounds": 3, "data": {"name": "digits"}}

RICH: dict[str, Any] = {
    "name": "rich",
    "seed": 1,
    "rounds": 9,
    "evaluate_every": 2,
    "workers": 1,
    "data": {"name": "digits", "partition": {"name": "dirichlet", "alpha": 0.5, "min_samples": 2}},
    "model": {"name": "mlp", "hidden": [16]},
    "clients": {
        "count": 12,
        "per_round": 10,
        "local": {"epochs": 2, "batch_size": 16, "lr": 0.1, "momentum": 0.5, "weight_decay": 0.01},
    },
    "server": {"lr": 0.5},
    "threat": {
        "malicious": 2,
        "data": {"name": "label_flip", "source": 5, "target": 7, "share": 0.5},
        "update": {"name": "ipm", "epsilon": 0.2},
        "schedule": {"start": 2, "end": 8, "every": 2},
    },
    "defence": {
        "f": 2,
        "pre": [{"name": "clipping", "threshold": 2.0}, "nnm"],
        "aggregator": {"name": "centered_clipping", "tau": 0.3, "iterations": 2},
    },
    "engine": "batched",
}


def table(base: dict[str, Any] = MINIMAL, **changes: Any) -> dict[str, Any]:
    """The tables with dotted keys set; `__` stands for a dot."""
    made = tomllib.loads(tomli_w.dumps(base))
    for key, value in changes.items():
        put(made, key.replace("__", "."), value)
    return made


def config(**changes: Any) -> Config:
    return parse(table(**changes))


def problems(given: dict[str, Any], folder: Path | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(given, folder)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def the_problem(**changes: Any) -> str:
    (only,) = problems(table(**changes))
    return only


# Defaults


def test_name_data_and_rounds_are_enough() -> None:
    made = config()
    assert (made.seed, made.evaluate_every, made.workers) == (0, 1, None)
    assert made.data.partition.step[0].name == "iid"
    assert (made.model.name, made.model.options) == ("mlp", {"hidden": [200]})
    assert (made.clients.count, made.clients.cohort) == (20, 20)
    local = made.clients.local
    assert (local.epochs, local.steps, local.batch_size, local.lr) == (1, None, 32, 0.05)
    assert (local.momentum, local.weight_decay, made.server.lr) == (0.0, 0.0, 1.0)
    assert (made.malicious, made.attack, made.threat.knows, made.threat.draw) == (0, "none", ["all"], "fixed")
    assert (made.defence.rule, made.f, made.engine.name) == ("mean", 0, "batched")


def test_a_component_is_a_name_or_a_table() -> None:
    assert config(model="logistic").hash == config(model={"name": "logistic"}).hash
    assert config(defence={"pre": ["nnm"]}).hash == config(defence={"pre": [{"name": "nnm"}]}).hash
    assert config(threat={"knows": "all"}).threat == config(threat={"knows": ["all"]}).threat


def test_a_step_s_own_f_is_written_down_and_read_again() -> None:
    made = config(defence={"f": 4, "aggregator": {"name": "trimmed_mean", "f": 2}, "pre": [{"name": "nnm", "f": 1}]})
    assert made.table()["defence"]["aggregator"] == {"name": "trimmed_mean", "f": 2}
    assert parse(made.table()).hash == made.hash
    assert made.hash != config(defence={"f": 4, "aggregator": "trimmed_mean", "pre": [{"name": "nnm", "f": 1}]}).hash
    assert config(defence={"aggregator": "trimmed_mean"}).table()["defence"]["aggregator"] == {"name": "trimmed_mean"}


def test_names_of_chains_and_attacks() -> None:
    made = config(
        threat={"malicious": 2, "data": {"name": "badnets"}, "update": "alie"},
        defence={"pre": ["clipping", "nnm"], "aggregator": "krum"},
    )
    assert (made.defence.rule, made.attack) == ("clipping+nnm+krum", "badnets+alie")
    assert config(threat={"malicious": 2, "update": "alie"}).attack == "alie"
    assert config(threat={"malicious": 0, "update": "alie"}).attack == "none"


# Refusals

BAD = [
    ("name", "", "name"),
    ("name", "a/b", "name"),
    ("name", "..", "name"),
    ("name", ".", "name"),
    ("name", 3, "name"),
    ("seed", -1, "seed"),
    ("seed", 1.5, "seed"),
    ("seed", True, "seed"),
    ("rounds", 0, "rounds"),
    ("rounds", "3", "rounds"),
    ("rounds", 3.0, "rounds"),
    ("evaluate_every", 0, "evaluate_every"),
    ("workers", 0, "workers"),
    ("colour", "red", "colour: there is no such key"),
    ("data", {}, "data.name is missing"),
    ("data", 3, "data"),
    ("data.name", 3, "data"),
    ("data.name", "digit", "'digit'; did you mean 'digits'?"),
    ("data.folder", "x", "digits has no option 'folder'"),
    ("data.partition", "idd", "'idd'; did you mean 'iid'? the partitions are classes_per_client, dirichlet"),
    ("data.partition", {"name": "dirichlet", "alpha": "x"}, "dirichlet.alpha = 'x'"),
    ("data.partition", {"alpha": 1.0}, "a name is needed, or a table with one"),
    ("model", "mpl", "'mpl'; did you mean 'mlp'? the models are cnn, cnn_dropout, logistic, lstm, mlp"),
    ("model", 3, "model"),
    ("model", {"name": "mlp", "hidden": 200}, "mlp.hidden = 200"),
    ("model", {"name": "mlp", "hidden": [2.0]}, "mlp.hidden = [2.0]"),
    ("model", {"name": "mlp", "hidden": [True]}, "mlp.hidden = [True]"),
    ("model", {"name": "mlp", "hidden": [date(1979, 5, 27)]}, "mlp.hidden = "),
    ("model", {"name": "logistic", "hidden": [2]}, "logistic has no option 'hidden'; it has no options"),
    ("clients.count", 0, "clients.count"),
    ("clients.count", 2.0, "clients.count"),
    ("clients.per_round", 0, "clients.per_round"),
    ("clients.per_round", 21, "clients: per_round = 21 is more than the 20 clients there are"),
    ("clients.per_rounds", 2, "clients.per_rounds: there is no such key"),
    ("clients.local.epochs", 0, "clients.local.epochs"),
    ("clients.local.steps", 0, "clients.local.steps"),
    ("clients.local", {"epochs": 1, "steps": 2}, "clients.local: epochs = 1 and steps = 2 are alternatives"),
    ("clients.local.batch_size", 0, "clients.local.batch_size"),
    ("clients.local.lr", 0, "clients.local.lr"),
    ("clients.local.lr", float("nan"), "clients.local.lr"),
    ("clients.local.lr", float("inf"), "clients.local.lr"),
    ("clients.local.momentum", 1.0, "clients.local.momentum"),
    ("clients.local.momentum", -0.1, "clients.local.momentum"),
    ("clients.local.weight_decay", -0.1, "clients.local.weight_decay"),
    ("clients.local.weight_decay", float("inf"), "clients.local.weight_decay"),
    ("clients.local.learning_rate", 0.1, "clients.local.learning_rate: there is no such key"),
    ("server.lr", 0, "server.lr"),
    ("server.lr", -1.0, "server.lr"),
    ("server.lr", float("inf"), "server.lr"),
    ("server.lr", "fast", "server.lr"),
    ("server.nesterov", 0.9, "server.nesterov: there is no such key"),
    ("threat", {"malicious": -1, "update": "ipm"}, "threat.malicious"),
    ("threat", {"malicious": 1.5, "update": "ipm"}, "threat.malicious"),
    ("threat", {"share": -0.1, "update": "ipm"}, "threat.share"),
    ("threat", {"share": 1.1, "update": "ipm"}, "threat.share"),
    ("threat", {"share": float("nan"), "update": "ipm"}, "threat.share"),
    ("threat", {"malicious": 4, "share": 0.2, "update": "ipm"}, "malicious = 4 and share = 0.2 are alternatives"),
    ("threat", {"malicious": 0, "share": 0.0}, "malicious = 0 and share = 0.0 are alternatives"),
    ("threat", {"malicious": 4}, "threat: there are malicious clients but no attack"),
    ("threat", {"share": 0.2}, "threat: there are malicious clients but no attack"),
    ("threat", {"malicious": 21, "update": "ipm"}, "threat.malicious = 21 of 20 clients"),
    ("threat.draw", "sometimes", "threat.draw"),
    ("threat.knows", "everything", "threat.knows"),
    ("threat", {"malicious": 2, "update": "alie", "knows": []}, "alie asks for benign updates"),
    ("threat", {"malicious": 2, "update": "alie", "knows": ["defence"]}, "alie asks for benign updates"),
    ("threat.update", "ipn", "'ipn'; did you mean 'ipm'? the update_attacks are"),
    ("threat.data", "ipm", "there is no data_attack 'ipm'; the data_attacks are adversarial_poisoning, badnets, "),
    ("threat.data", {"name": "label_flip", "source": 1.5}, "label_flip.source = 1.5"),
    ("threat.schedule.start", 0, "threat.schedule.start"),
    ("threat.schedule.end", 0, "threat.schedule.end"),
    ("threat.schedule.every", 0, "threat.schedule.every"),
    ("threat.schedule", {"start": 3, "end": 2}, "the attack would end in round 2, before it starts in round 3"),
    ("threat.schedule.until", 2, "threat.schedule.until: there is no such key"),
    ("threat.malicous", 2, "threat.malicous: there is no such key"),
    ("defence.aggregators", "mean", "defence.aggregators: there is no such key"),
    ("defence.aggregator", "crum", "'crum'; did you mean 'krum'? the aggregators are "),
    ("defence.aggregator", {"tau": 1.0}, "a name is needed, or a table with one"),
    ("defence.aggregator", {"name": "krum", "m": 1}, "krum has no option 'm'; it has no options"),
    ("defence.pre", ["nmn"], "'nmn'; did you mean 'nnm'? the preaggregators are arc, bucketing, "),
    ("defence.pre", "nnm", "defence.pre"),
    ("engine", "bached", "'bached'; did you mean 'batched'? the engines are batched, flower, ray, sequential"),
    ("engine", {"name": "batched", "stack": 1.5}, "batched.stack = 1.5"),
]


@pytest.mark.parametrize(("key", "value", "sentence"), BAD, ids=lambda v: str(v)[:40])
def test_what_is_wrong_is_refused_with_its_place(key: str, value: Any, sentence: str) -> None:
    problem = the_problem(**{key.replace(".", "__"): value})
    assert sentence in problem
    assert problem.startswith(key.split(".")[0])
    assert "Value error" not in problem


@pytest.mark.parametrize("missing", ["name", "rounds", "data"])
def test_what_has_no_default_must_be_given(missing: str) -> None:
    assert problems({k: v for k, v in MINIMAL.items() if k != missing}) == [f"{missing}: is missing"]


@pytest.mark.parametrize("f", [-1, 1.5, False, "maybe"])
def test_a_wrong_f_is_one_sentence_about_defence_f(f: Any) -> None:
    problem = the_problem(defence={"f": f})
    assert problem.startswith("defence.f:")
    assert repr(f) in problem


def test_all_that_is_wrong_is_said_at_once() -> None:
    places = {
        "name": "a/b",
        "seed": -1,
        "rounds": 0,
        "data.name": "digit",
        "model": "mpl",
        "clients.count": 0,
        "clients.local": {"epochs": 1, "steps": 1},
        "server.lr": 0.0,
        "threat.schedule.every": 0,
        "defence.aggregator": "crum",
        "engine": "bached",
        "workers": 0,
        "colour": "red",
    }
    found = problems(table(**{key.replace(".", "__"): value for key, value in places.items()}))
    assert len(found) == len(places)
    for key in places:
        assert any(problem.startswith(key.removesuffix(".name")) for problem in found), key


def test_an_option_typo_lists_the_known_ones() -> None:
    problem = the_problem(defence={"aggregator": {"name": "centered_clipping", "tua": 1.0}})
    assert problem == (
        "defence.aggregator: centered_clipping has no option 'tua'; did you mean 'tau'? the options are iterations, tau"
    )


def test_every_wrong_option_of_a_component_is_named() -> None:
    problem = the_problem(defence={"aggregator": {"name": "centered_clipping", "tau": "x", "iterations": 1.5, "a": 1}})
    for part in ("centered_clipping.tau = 'x': ", "centered_clipping.iterations = 1.5: ", "no option 'a'"):
        assert part in problem


def test_an_unknown_name_lists_the_choices() -> None:
    problem = the_problem(defence={"aggregator": "zzz"})
    assert "there is no aggregator 'zzz'; the aggregators are alignins, " in problem
    assert "did you mean" not in problem


def test_a_problem_is_said_once() -> None:
    assert ConfigError(["a", "b", "a"]).problems == ["a", "b"]


# (n, f)


def test_the_bound_is_quoted_with_n_and_f() -> None:
    problem = the_problem(
        clients={"count": 7}, threat={"malicious": 3, "update": "ipm"}, defence={"aggregator": "krum"}
    )
    assert problem == "krum needs n > 2*f + 2: n = 7, f = 3"


def test_the_bound_is_one_more_than_what_is_refused() -> None:
    refused, taken = (config_of_krum(n, 3) for n in (8, 9))
    assert problems(refused) == ["krum needs n > 2*f + 2: n = 8, f = 3"]
    assert parse(taken).f == 3


def config_of_krum(n: int, f: int) -> dict[str, Any]:
    return table(clients={"count": n}, defence={"f": f, "aggregator": "krum"})


def test_the_bound_counts_the_cohort() -> None:
    problem = the_problem(clients={"count": 100, "per_round": 7}, defence={"f": 3, "aggregator": "krum"})
    assert problem == "krum needs n > 2*f + 2: n = 7, f = 3"


def test_the_bound_counts_the_rows_after_bucketing() -> None:
    chain = {"f": 4, "pre": [{"name": "bucketing", "s": 2}], "aggregator": "krum"}
    assert the_problem(clients={"count": 20}, defence=chain) == "krum needs n > 2*f + 2: n = 10, f = 4"
    assert the_problem(clients={"count": 20}, defence={**chain, "pre": ["bucketing"] * 2, "f": 2}) == (
        "krum needs n > 2*f + 2: n = 5, f = 2"
    )
    assert config(clients={"count": 21}, defence=chain).f == 4  # 11 rows, the last bucket smaller


def test_every_bound_that_is_broken_is_named() -> None:
    problem = the_problem(clients={"count": 6}, defence={"f": 3, "pre": ["nnm"], "aggregator": "trimmed_mean"})
    assert problem == "nnm needs n > 2*f: n = 6, f = 3; trimmed_mean needs n > 2*f: n = 6, f = 3"


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        ({"name": "bucketing", "s": 0}, "bucketing.s = 0: "),
        ({"name": "clipping", "threshold": 0.0}, "clipping.threshold = 0.0: "),
    ],
)
def test_an_option_out_of_its_range_is_refused(step: dict[str, Any], sentence: str) -> None:
    assert sentence in the_problem(defence={"pre": [step]})


def test_a_bound_on_an_option_is_quoted_with_its_value(tmp_path: Path) -> None:
    write_rule(tmp_path, "f: int, *, m: int = 3", needs='needs="n > m * f"')
    (problem,) = problems(table(defence={"f": 7, "aggregator": "rule.py:mine"}), tmp_path)
    assert problem == "mine needs n > m * f: n = 20, f = 7, m = 3"


def test_a_chain_told_the_truth_is_held_to_the_expected_attackers() -> None:
    threat = {"malicious": 3, "update": "ipm"}
    problem = the_problem(clients={"count": 7}, threat=threat, defence={"f": "true", "aggregator": "krum"})
    assert problem == "krum needs n > 2*f + 2: n = 7, f = 3"
    made = config(clients={"count": 9}, threat=threat, defence={"f": "true", "aggregator": "krum"})
    assert made.f is None
    assert made.table()["defence"]["f"] == "true"


@pytest.mark.parametrize(
    ("count", "per_round", "malicious", "expected"),
    [(40, 10, 10, 3), (40, 10, 9, 2), (20, 20, 4, 4), (1000, 10, 49, 0), (1000, 10, 50, 1)],
)
def test_f_is_the_attackers_in_an_expected_cohort_rounded_half_up(
    count: int, per_round: int, malicious: int, expected: int
) -> None:
    made = config(clients={"count": count, "per_round": per_round}, threat={"malicious": malicious, "update": "ipm"})
    assert (made.f, made.malicious) == (expected, malicious)


def test_attackers_drawn_per_round_count_within_the_cohort() -> None:
    clients, threat = {"count": 100, "per_round": 10}, {"draw": "per_cohort", "update": "ipm"}
    assert config(clients=clients, threat={**threat, "malicious": 3}).f == 3
    assert config(clients=clients, threat={**threat, "share": 0.25}).malicious == 3
    assert the_problem(clients=clients, threat={**threat, "malicious": 11}) == "threat.malicious = 11 of 10 clients"


@pytest.mark.parametrize(
    ("share", "clients", "malicious"),
    [(0.29, 100, 29), (0.57, 100, 57), (0.285, 100, 29), (0.25, 10, 3), (0.24, 10, 2), (0.05, 10, 1), (1.0, 7, 7)],
)
def test_a_share_is_rounded_half_up(share: float, clients: int, malicious: int) -> None:
    made = config(clients={"count": clients}, threat={"share": share, "update": "sign_flip"})
    assert made.malicious == malicious


# The table that is kept

KEPT = {
    "minimal": table(),
    "rich": table(RICH),
    "told the truth": table(RICH, defence__f="true"),
    "f by default": table(RICH, defence={"aggregator": "krum"}),
    "steps": table(RICH, clients__local={"steps": 3}),
    "share": table(RICH, threat={"share": 0.2, "update": "alie", "knows": ["colluders", "defence"]}),
    "lists and unions": table(RICH, threat__data={"name": "label_flip", "source": [1, 2], "target": "random"}),
}


@pytest.mark.parametrize("given", KEPT.values(), ids=KEPT)
def test_the_table_gives_the_same_configuration_again(given: dict[str, Any]) -> None:
    for made in (parse(given), parse(given).clean()):
        again = parse(tomllib.loads(tomli_w.dumps(made.table())))
        assert again.table() == made.table()
        assert again.hash == made.hash
        assert again.labels() == made.labels()


@pytest.mark.parametrize("default", ["float = 1", "tuple[float, float] = (0.0, 1.0)", "list[int] = [1]"])
def test_the_table_gives_a_users_defaults_again(default: str, tmp_path: Path) -> None:
    write_rule(tmp_path, f"*, option: {default}")
    made = parse(table(defence={"aggregator": "rule.py:mine"}), tmp_path)
    again = parse(tomllib.loads(tomli_w.dumps(made.table())), tmp_path)
    assert again.hash == made.hash


def test_the_table_leaves_out_what_is_none() -> None:
    assert "workers" not in config().table()
    assert config().table()["defence"]["f"] == 0
    assert config().table()["threat"]["schedule"] == {"start": 1, "every": 1}


# Which runs share a folder

CHANGES: list[tuple[str, Any]] = [
    ("seed", 2),
    ("rounds", 10),
    ("evaluate_every", 1),
    ("data.name", "fashion_mnist_mini"),
    ("data.partition", "iid"),
    ("data.partition.alpha", 0.6),
    ("data.partition.min_samples", 1),
    ("model", "logistic"),
    ("model.hidden", [17]),
    ("model.hidden", [16, 16]),
    ("clients.count", 13),
    ("clients.per_round", 9),
    ("clients.local", {"steps": 2, "batch_size": 16, "lr": 0.1, "momentum": 0.5, "weight_decay": 0.01}),
    ("clients.local.epochs", 3),
    ("clients.local.batch_size", 17),
    ("clients.local.lr", 0.11),
    ("clients.local.momentum", 0.0),
    ("clients.local.weight_decay", 0.0),
    ("server.lr", 1.0),
    ("threat", {}),
    ("threat.malicious", 1),
    ("threat.malicious", 0),
    ("threat.draw", "per_cohort"),
    ("threat.knows", ["colluders"]),
    ("threat.data", "badnets"),
    ("threat.data.source", 6),
    ("threat.data.source", [5]),
    ("threat.data.target", 8),
    ("threat.data.target", "random"),
    ("threat.data.share", 0.6),
    ("threat.update", "alie"),
    ("threat.update.epsilon", 0.3),
    ("threat.schedule.start", 4),
    ("threat.schedule.end", 9),
    ("threat.schedule.every", 3),
    ("defence.f", 1),
    ("defence.f", "true"),
    ("defence.pre", []),
    ("defence.pre", ["nnm"]),
    ("defence.pre", ["nnm", {"name": "clipping", "threshold": 2.0}]),
    ("defence.pre", [{"name": "clipping", "threshold": 2.1}, "nnm"]),
    ("defence.aggregator", "mean"),
    ("defence.aggregator.tau", 0.4),
    ("defence.aggregator.iterations", 3),
    ("defence.pre", ["nnm", {"name": "clipping", "threshold": 2.0}, {"name": "nnm", "f": 1}]),
    ("engine", "sequential"),
    ("engine", {"name": "batched", "stack": 3}),
    ("engine", {"name": "batched", "device": "cuda"}),
]


@pytest.mark.parametrize(("key", "value"), CHANGES, ids=lambda v: str(v)[:30])
def test_the_hash_changes_with_what_can_change_a_result(key: str, value: Any) -> None:
    assert parse(table(RICH, **{key.replace(".", "__"): value})).hash != parse(table(RICH)).hash


def test_the_hash_changes_where_a_partition_was_revised(monkeypatch: pytest.MonkeyPatch) -> None:
    before, known = parse(table(RICH)), entries("partition")
    name = before.data.partition.name
    monkeypatch.setitem(known, name, replace(known[name], revision=known[name].revision + 1))
    after = parse(table(RICH))
    assert after.hash != before.hash
    assert after.table() == before.table()


def test_no_two_changes_have_the_same_hash() -> None:
    made = [parse(table(RICH, **{key.replace(".", "__"): value})).hash for key, value in CHANGES]
    assert len(set(made)) == len(made)


def test_no_two_settings_have_the_same_hash() -> None:
    """A product in which values wander between keys: 1 and 2 stand in many places."""
    axes: dict[str, list[Any]] = {
        "rounds": [2, 3],
        "clients.count": [12, 21],
        "clients.local.epochs": [1, 2],
        "threat.malicious": [1, 2],
        "threat.schedule": [{"start": 1}, {"start": 2}, {"start": 1, "every": 2}, {"start": 1, "end": 2}],
        "defence.f": [1, 2],
    }
    settings = list(product(*axes.values()))
    made = {
        parse(table(RICH, **dict(zip((key.replace(".", "__") for key in axes), values, strict=True)))).hash
        for values in settings
    }
    assert len(made) == len(settings)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "another"),
        ("workers", 3),
        ("defence.pre", [{"name": "clipping", "threshold": 2}, {"name": "nnm"}]),
        ("server", {"lr": 0.5}),
        ("threat.knows", "all"),
    ],
    ids=str,
)
def test_the_hash_does_not_change_with_what_cannot_change_a_result(key: str, value: Any) -> None:
    assert parse(table(RICH, **{key.replace(".", "__"): value})).hash == parse(table(RICH)).hash


def test_the_hash_does_not_change_where_a_default_is_written_out() -> None:
    spelled = config(defence={"f": 0, "aggregator": {"name": "mean", "weighting": "uniform"}}, seed=0)
    assert spelled.hash == config().hash


def test_the_hash_does_not_change_with_the_datas_folder() -> None:
    here, there, nowhere = ({"name": "fashion_mnist", "folder": place} for place in ("a", "b", "/usr/share"))
    assert config(data=here).hash == config(data=there).hash == config(data=nowhere).hash
    assert config(data=here).table()["data"]["folder"] == "a"


def test_the_hash_of_a_run_without_attackers_does_not_know_the_attack() -> None:
    quiet = {"malicious": 0, "update": "ipm", "schedule": {"start": 2}}
    assert config(threat=quiet).hash == config().hash


def test_the_hash_is_twelve_digits() -> None:
    assert len(config().hash) == 12
    assert int(config().hash, 16) >= 0


# The clean twin


def test_the_clean_run_keeps_all_but_the_attack() -> None:
    attacked = parse(table(RICH))
    clean = attacked.clean()
    assert (clean.malicious, clean.attack, clean.f) == (0, "none", attacked.f)
    assert clean.threat.data == attacked.threat.data  # what it aims at is measured on the clean model too
    assert clean.defence.rule == attacked.defence.rule
    assert attacked.labels()["clean"] == clean.hash != attacked.hash
    assert clean.labels()["clean"] is None
    assert attacked.labels()["schedule"] == {"start": 2, "end": 8, "every": 2, "at": None}
    assert clean.labels()["schedule"] is None


def test_the_clean_run_of_a_defence_that_is_told_the_truth_is_told_the_expected_f() -> None:
    assert parse(table(RICH, defence__f="true")).clean().f == 2


# Users' files


def write_rule(folder: Path, options: str = "", body: str = "return updates.mean(dim=0)", needs: str = "") -> None:
    (folder / "rule.py").write_text(
        "from typing import Literal\n\n"
        "from fedpoison import aggregator\n"
        "from fedpoison.types import Update, Updates\n\n\n"
        f"@aggregator({needs})\n"
        f"def mine(updates: Updates, {options}) -> Update:\n"
        '    """A rule of one\'s own."""\n'
        f"    {body}\n"
    )


def test_the_hash_changes_with_a_users_file_and_not_with_where_it_lies(tmp_path: Path) -> None:
    given = table(defence={"aggregator": "rule.py:mine"})
    write_rule(tmp_path)
    before = parse(given, tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_rule(elsewhere)
    assert parse(given, elsewhere).hash == before.hash
    write_rule(tmp_path, body="return 2 * updates.mean(dim=0)")
    assert parse(given, tmp_path).hash != before.hash
    assert before.defence.rule.endswith(".py:mine")


def test_the_labels_have_a_digest_of_each_file_of_the_users(tmp_path: Path) -> None:
    write_rule(tmp_path)
    (tmp_path / "own.csv").write_text("a,label\n1,x\n2,y\n")
    (tmp_path / "start.safetensors").write_bytes(b"a model")
    own = {"aggregator": "rule.py:mine", "pre": ["nnm", "pre.py:same"]}
    write_preaggregator(tmp_path)
    given = table(defence=own, warm_start={"file": "start.safetensors"})
    given["data"] = {"name": "csv", "file": str(tmp_path / "own.csv")}
    digests = parse(given, tmp_path).labels()["digests"]
    files = {"defence.aggregator": "rule.py", "defence.pre.1": "pre.py", "data.file": "own.csv"}
    assert digests.keys() == {*files, "warm_start.file"}
    assert all(len(digest) == 16 for digest in digests.values())
    for key, name in files.items():
        before = (tmp_path / name).read_text()
        (tmp_path / name).write_text(f"{before}\n")
        changed = parse(given, tmp_path).labels()["digests"]
        assert {k for k in digests if changed[k] != digests[k]} == {key}
        (tmp_path / name).write_text(before)
    assert config().labels()["digests"] == {}


def write_preaggregator(folder: Path) -> None:
    (folder / "pre.py").write_text(
        "import torch\n\nfrom fedpoison import preaggregator\nfrom fedpoison.types import Mixing\n\n\n"
        '@preaggregator()\ndef same(n: int) -> Mixing:\n    """Change nothing."""\n    return torch.eye(n)\n'
    )


def test_the_hash_changes_with_a_users_options(tmp_path: Path) -> None:
    write_rule(tmp_path, "*, a: float = 1.0, b: float = 1.0")
    chosen = [{}, {"a": 2.0}, {"b": 2.0}, {"a": 2.0, "b": 2.0}]
    made = [parse(table(defence={"aggregator": {"name": "rule.py:mine", **c}}), tmp_path).hash for c in chosen]
    assert len(set(made)) == 4


def test_the_hash_knows_which_engine_of_a_users_file_and_its_options(tmp_path: Path) -> None:
    (tmp_path / "engines.py").write_text(
        "from fedpoison.contract.registry import engine\n\n\n"
        "@engine()\ndef one(model, federation, local, *, scale: float = 1.0):\n"
        '    """An engine."""\n\n\n'
        "@engine()\ndef two(model, federation, local):\n"
        '    """Another."""\n'
    )
    chosen = [{"name": "engines.py:one"}, {"name": "engines.py:one", "scale": 2.0}, {"name": "engines.py:two"}]
    made = [parse(table(engine=c), tmp_path).hash for c in chosen]
    assert len({*made, config().hash}) == 4


def test_a_users_data_set_may_have_no_place(tmp_path: Path) -> None:
    (tmp_path / "sets.py").write_text(
        "from fedpoison import dataset\n\n\n"
        '@dataset(licence="MIT", places=("folder",))\n'
        "def mine(*, folder: str | None = None):\n"
        '    """A data set that knows where it lies unless told."""\n'
    )
    made = [parse(table(data={"name": "sets.py:mine", **c}), tmp_path).hash for c in ({}, {"folder": "a"})]
    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nowhere.py:mine", "there is no file "),
        ("rule.py:yours", "rule.py has no aggregator 'yours'; it has ['mine']"),
        ("broken.py:mine", "cannot be imported: SyntaxError"),
        ("no.such.package:mine", "cannot import no.such.package"),
    ],
)
def test_a_users_rule_that_is_not_there_is_refused(name: str, sentence: str, tmp_path: Path) -> None:
    write_rule(tmp_path)
    (tmp_path / "broken.py").write_text("def (")
    (problem,) = problems(table(defence={"aggregator": name}), tmp_path)
    assert problem.startswith("defence.aggregator: ")
    assert sentence in problem


@pytest.mark.parametrize("default", ["int = None", "list[int] = ['a']", "Literal['a'] = 'b'"])
def test_a_users_default_that_is_not_of_its_type_is_refused_with_its_name(default: str, tmp_path: Path) -> None:
    write_rule(tmp_path, f"*, option: {default}")
    (problem,) = problems(table(defence={"aggregator": "rule.py:mine"}), tmp_path)
    assert problem.startswith("defence.aggregator: ")
    assert "mine" in problem
    assert "option" in problem


# Reading


def test_a_file_that_cannot_be_read_is_refused_with_its_name(tmp_path: Path) -> None:
    broken, binary = tmp_path / "broken.toml", tmp_path / "binary.toml"
    broken.write_text("rounds = = 3")
    binary.write_bytes(b"\xff\xfe\x00")
    for path, sentence in (
        (tmp_path / "nowhere.toml", "No such file"),
        (tmp_path, "Is a directory"),
        (broken, "is not TOML"),
        (binary, "is not TOML"),
    ):
        with pytest.raises(ConfigError) as caught:
            read_toml(path)
        (problem,) = caught.value.problems
        assert problem.startswith(str(path))
        assert sentence in problem


@pytest.mark.parametrize(
    ("place", "meant"),
    [
        ("rond", "did you mean 'rounds'? the keys are clients, data, defence, "),
        ("client.count", "did you mean 'clients'? "),
        ("clients.cuont", "did you mean 'count'? the keys are count, dropout, "),
        ("clients.local.learning_rate", "the keys are batch_size, betas, "),
        ("server.rates.warmpu", "did you mean 'warmup'? "),
        ("epochs", "did you mean 'clients.local.epochs'?"),
        ("clients.steps", "did you mean 'clients.local.steps'?"),
        ("aggregator", "did you mean 'defence.aggregator'?"),
        ("colour", "the keys are clients, "),
        ("swep", "did you mean 'sweep'? "),
    ],
)
def test_an_unknown_key_is_answered_with_what_may_have_been_meant(place: str, meant: str) -> None:
    problem = the_problem(**{place.replace(".", "__"): 3})
    assert problem.startswith(place.split(".")[0])
    assert problem.partition(": there is no such key; ")[2].startswith(meant)
