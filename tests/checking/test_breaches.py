"""What a user's function or setting gets wrong is said in a sentence that names it."""

import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from torch import nn

import fedpoison
from fedpoison.clients.training import Plan, Task
from fedpoison.common import parallel
from fedpoison.common.errors import ConfigError
from fedpoison.config.config import parse
from fedpoison.config.sweep import load
from fedpoison.defences.rows import Rows
from fedpoison.models.vector import check_net
from fedpoison.runs import records
from fedpoison.runs.running import Job
from fedpoison.runs.simulation import simulate
from fedpoison.runs.world import build
from fedpoison.types import Norms, Update, Updates, Weights

FUNCTIONS = '''
import torch
from fedpoison import aggregator, update_attack
from fedpoison.types import Weights

@update_attack()
def scribbler(benign, n_malicious):
    """Changes what it is shown."""
    benign *= 0
    return benign[:1].repeat(n_malicious, 1)

@update_attack()
def forgetful(own, state):
    """Has memory and does not return it."""
    return own

@update_attack()
def nothing(own):
    """Returns nothing."""

@update_attack()
def curious(benign, defend, n_malicious):
    """Asks for a verdict on more updates than there are clients."""
    defend(benign.repeat(5, 1))
    return benign[:n_malicious].clone()

@aggregator()
def amnesiac(norms, state) -> Weights:
    """Has memory and does not return it."""
    return torch.ones_like(norms) / len(norms)
'''


def table(**changes: Any) -> dict[str, Any]:
    base = {"name": "breach", "rounds": 1, "data": {"name": "digits"}, "model": "logistic", "clients": {"count": 6}}
    return {**base, **changes}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("scribbler", "scribbler changed in place what it was shown"),
        ("forgetful", r"forgetful asks for state and must return \(result, state\), not Tensor"),
        ("nothing", r"nothing must return a tensor \[n_malicious, d\], not NoneType"),
        (
            "curious",
            r"curious fails with .* takes the updates \[n, d\] of all n = 6 clients, not \(20, 650\)",
        ),
    ],
)
def test_an_attack_that_breaks_its_contract_fails_its_run(name: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(FUNCTIONS)
    threat = {"malicious": 2, "knows": ["all", "defence"], "update": f"{tmp_path / 'user.py'}:{name}"}
    with pytest.raises(fedpoison.runs.running.RunError, match=sentence):
        fedpoison.run(table(threat=threat), out=tmp_path)


def test_a_rule_with_memory_must_return_it(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(FUNCTIONS)
    with pytest.raises(fedpoison.runs.running.RunError, match="amnesiac asks for state and must return"):
        fedpoison.run(table(defence={"aggregator": f"{tmp_path / 'user.py'}:amnesiac"}), out=tmp_path)


def test_a_net_that_cannot_take_one_sample_is_refused() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False))
    with pytest.raises(ValueError, match="cannot take a batch of one sample"):
        check_net(net, (4,), 3)


def test_more_malicious_clients_than_clients_are_refused_for_every_rule() -> None:
    with pytest.raises(ConfigError, match="f = 7 is more than the n = 6 clients"):
        parse(table(defence={"f": 7}))


def test_multi_krum_cannot_keep_more_than_there_are() -> None:
    with pytest.raises(ConfigError, match="multi_krum needs m is None or m <= n: n = 6, f = 0, m = 7"):
        parse(table(defence={"aggregator": {"name": "multi_krum", "m": 7}}))


def test_a_rule_must_not_change_what_it_is_shown() -> None:
    @fedpoison.aggregator()
    def wiper(updates: Updates) -> Update:
        """Wipes the updates."""
        return updates.zero_()[0]

    with pytest.raises(ValueError, match="wiper changed in place what it was shown"):
        fedpoison.aggregate(wiper, torch.ones(3, 4))


def test_a_coordinate_wise_rule_of_a_user_has_blocks_of_its_own() -> None:
    @fedpoison.aggregator(coordinatewise=True)
    def sorter(updates: Updates) -> Update:
        """Sorts its block where it stands."""
        updates.numpy().sort(axis=0)
        return updates[0]

    matrix = torch.tensor([[3.0, 1.0], [2.0, 5.0]])
    assert fedpoison.aggregate(sorter, matrix).update.tolist() == [2, 1]
    assert matrix.tolist() == [[3, 1], [2, 5]]


def test_a_reference_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"previous must be a vector of 4 numbers, not \(1,\)"):
        Rows(torch.ones(3, 4), torch.ones(3), torch.ones(3), {"previous": torch.ones(1)})


def test_an_aggregate_that_is_no_vector_of_numbers_is_refused() -> None:
    @fedpoison.aggregator()
    def counts(updates: Updates) -> Update:
        """Counts signs."""
        return updates.sign().sum(dim=0).long()

    with pytest.raises(ValueError, match=r"counts must return 4 floating-point numbers, not \(4,\) of torch.int64"):
        fedpoison.aggregate(counts, torch.ones(3, 4))


def test_weights_must_sum_to_one() -> None:
    @fedpoison.aggregator()
    def generous(n: int) -> Weights:
        """Credits everybody with one."""
        return torch.ones(n)

    with pytest.raises(ValueError, match=r"generous must return 3 weights that sum to 1: \(3,\), 3"):
        fedpoison.aggregate(generous, torch.ones(3, 4))


def test_an_attack_that_cannot_happen_is_refused() -> None:
    attack = {"data": "label_flip"}
    with pytest.raises(ConfigError, match=r"threat.share = 0.01 of 6 clients is nobody"):
        parse(table(threat={"share": 0.01, **attack}))
    with pytest.raises(ConfigError, match="the attack starts in round 2, after the last, 1"):
        parse(table(threat={"malicious": 1, "schedule": {"start": 2}, **attack}))


@pytest.mark.parametrize(
    ("needs", "sentence"),
    [("n > 2f", "'n > 2f' is no condition"), ("n > g", "speaks of g; known are n, f")],
)
def test_a_bound_is_read_when_a_rule_is_registered(needs: str, sentence: str) -> None:
    def rule(norms: Norms) -> Weights:
        """A rule."""
        return norms

    with pytest.raises(TypeError, match=sentence):
        fedpoison.aggregator(needs=needs)(rule)


@pytest.mark.parametrize(
    ("kappa", "sentence"),
    [
        ("f/(n - 2f)", r"kappa = 'f/\(n - 2f\)' is no bound"),
        ("kappa + 1", "speaks of kappa; known are n, f, comb$"),  # nothing follows a rule
    ],
)
def test_a_robustness_is_read_when_a_rule_is_registered(kappa: str, sentence: str) -> None:
    def rule(norms: Norms) -> Weights:
        """A rule."""
        return norms

    with pytest.raises(TypeError, match=sentence):
        fedpoison.aggregator(kappa=kappa)(rule)


def test_a_file_with_postponed_annotations_works(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text(
        "from __future__ import annotations\nimport torch\nfrom fedpoison import aggregator\n"
        "from fedpoison.types import Weights\n\n\n@aggregator()\ndef late(n, *, first: int = 0) -> Weights:\n"
        "    'The first one.'\n    return torch.eye(n)[first]\n"
    )
    frame = fedpoison.run(table(defence={"aggregator": f"{tmp_path}/late.py:late"}), out=tmp_path).frame()
    assert frame["rule"].to_list() == ["late.py:late"]


def test_a_resolved_configuration_runs_again_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "user.py").write_text(FUNCTIONS.replace("return torch.ones_like", "return {}, torch.ones_like"))
    (tmp_path / "t.toml").write_text(
        'name = "t"\nrounds = 1\nmodel = "logistic"\ndata = "digits"\nclients.count = 4\nthreat.malicious = 1\n'
        'threat.update = "user.py:forgetful"\n'
    )
    config = load(tmp_path / "t.toml").runs[0]
    (tmp_path / "resolved.toml").write_text(tomli_w.dumps(config.table()))
    monkeypatch.chdir("/")
    assert load(tmp_path / "resolved.toml").runs[0].hash == config.hash


def test_a_run_taken_up_elsewhere_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse(table(rounds=3))

    def stop(record: dict[str, Any]) -> None:
        if record["round"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(config, tmp_path, stop)
    monkeypatch.setattr(records, "environment", lambda: {**environment, "torch": "9.9"})
    environment = json.loads((tmp_path / "breach" / config.hash / "environment.json").read_text())
    events = [record["events"] for record in simulate(config, tmp_path).records()]
    assert [len(e) for e in events] == [0, 1, 0]
    assert events[1][0]["detail"] == f"torch 9.9 instead of {environment['torch']}"


@pytest.mark.parametrize("word", ["state", "rng", "previous", "params", "layers", "base", "probe"])
def test_a_coordinate_wise_rule_has_neither_memory_nor_luck(word: str) -> None:
    code = f"def lucky(updates, {word}) -> Update:\n    'A rule.'"
    names: dict[str, Any] = {"Update": Update}
    exec(code, names)
    with pytest.raises(
        TypeError, match="asks for none of base, layers, params, previous, probe, rng, root_update, say, state"
    ):
        fedpoison.aggregator(coordinatewise=True)(names["lucky"])


def test_nobody_chooses_the_precision_of_an_aggregate_but_the_majority() -> None:
    rows = [torch.ones(6, dtype=torch.float64), *(torch.ones(6) for _ in range(6))]
    assert fedpoison.aggregate("mean", rows).update.dtype == torch.float32
    with pytest.raises(ValueError, match="float32 or float64, not torch"):
        fedpoison.aggregate("median", torch.ones(3, 4, dtype=torch.bfloat16))
    assert not fedpoison.aggregate("mean", torch.ones(3, 4, requires_grad=True)).update.requires_grad


def test_no_option_is_nan() -> None:
    with pytest.raises(ConfigError, match=r"ipm.epsilon = nan: a number is needed"):
        parse(table(threat={"malicious": 1, "update": {"name": "ipm", "epsilon": float("nan")}}))


def test_what_one_should_know_is_said_before_the_start(tmp_path: Path) -> None:
    threat = {"malicious": 2, "data": "label_flip", "update": "alie"}
    clients = {"count": 6, "per_round": 3}
    notes = Job(load(table(threat=threat, clients=clients, defence={"f": 1})), tmp_path).warnings()
    assert notes == [
        # two of six in a draw of three: 1 · 4 of 20 triples
        "with 2 of 6 clients malicious, a cohort of 3 has more than f = 1 of them in 20.0% of rounds",
        "alie does not use what attackers train, so label_flip only says what is measured",
        "alie: z = 0 for n = 3, 1 malicious, so 0 is used and all send the honest mean; set z to choose one",
    ]


@pytest.mark.parametrize("engine", ["sequential", "batched"])
def test_a_batch_beyond_every_shard_is_the_whole_shard(engine: str) -> None:
    updates = []
    for size in (240, 100_000):
        world, state = build(parse(table(engine=engine, clients={"count": 6, "local": {"batch_size": size}})))
        with parallel.using(2):
            updates.append(world.engine.train(state.params, Plan(0, 1, tuple(Task(i) for i in range(6)))).updates)
    assert world.federation.largest == 240
    assert torch.equal(*updates)
