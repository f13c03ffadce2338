"""Several groups of attackers in one federation."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fedpoison import craft
from fedpoison.clients.training import Plan, Task
from fedpoison.common import parallel
from fedpoison.common.errors import ConfigError
from fedpoison.config.config import Config, parse
from fedpoison.config.sweep import load
from fedpoison.contract.vocabulary import Record
from fedpoison.preview.poison import poisonings
from fedpoison.round import State, World, play
from fedpoison.runs.foreseen import foreseen
from fedpoison.runs.simulation import simulate
from fedpoison.runs.world import build

FLIP = {"malicious": 2, "data": {"name": "label_flip", "source": 1, "target": 7}}
ALIE = {"malicious": 3, "update": {"name": "alie", "z": 1.5}}
DRILLED = {"clients": [0], "data": {"name": "badnets", "target": 2}, "training": "neurotoxin", "schedule": {"start": 2}}
TABLE: dict[str, Any] = {
    "name": "groups",
    "rounds": 3,
    "data": {"name": "digits"},
    "model": "logistic",
    "clients": {"count": 10},
}


def config(*groups: dict[str, Any], **changes: Any) -> Config:
    return parse({**TABLE, "threat": {"groups": [*groups]}, **changes})


def played(made: Config, count: int = 1) -> tuple[World, State, list[Record]]:
    records = []
    with parallel.using(2):
        world, state = build(made)
        for _ in range(count):
            state, record = play(state, world)
            records.append(record)
    return world, state, records


def members(world: World) -> list[set[int]]:
    return [{*threat.fixed_ids} for threat in world.threats]


def test_one_group_is_a_threat() -> None:
    alone, short = config(ALIE), parse({**TABLE, "threat": ALIE})
    assert alone == short
    assert alone.hash == short.hash
    assert "groups" not in alone.table()["threat"]
    assert config() == parse(TABLE)


def test_what_arrives_is_what_each_group_makes_beside_the_honest() -> None:
    made = config(FLIP, ALIE)
    world, state, (record,) = played(made)
    flipping, crafting = members(world)
    assert record["malicious"] == sorted(flipping | crafting)
    start = build(made)[1].params
    with parallel.using(2):
        trained = world.engine.train(
            start, Plan(0, 1, tuple(Task(i, i in flipping) for i in range(10) if i not in crafting))
        ).updates
    senders = [i for i in range(10) if i not in crafting]
    benign = trained[torch.tensor([i not in flipping for i in senders])]
    crafted = craft("alie", benign=benign, n_malicious=3, n=8, z=1.5)
    assert isinstance(crafted, Tensor)
    mean = torch.cat([trained, crafted]).double().mean(dim=0)
    torch.testing.assert_close(state.previous.double(), mean, rtol=1e-5, atol=1e-7)


PRYING = """
import torch
from fedpoison import update_attack

SEEN = []

@update_attack()
def prying(own, benign, n, n_malicious, state, defend, rng, *, shape: int = 0):
    "Note what is seen; one number for each of so many coordinates, if it is not all of them."
    turns = state.get("turns", torch.zeros(())) + 1
    verdict = defend(torch.cat([benign, own]))
    SEEN.append((n, n_malicious, own.shape[0], benign.shape[0], int(turns), float(torch.rand((), generator=rng))))
    assert verdict.weights.shape == (n,)
    return own[:, : shape or None], {"turns": turns}
"""


def test_each_group_sees_the_honest_and_itself_and_has_a_memory_and_draws_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(PRYING)
    own = {"update": "own.py:prying", "knows": ["all", "defence"]}
    groups = [{**own, "malicious": 2, "data": {"name": "badnets"}}, {**own, "malicious": 1}]
    world, state, _ = played(parse({**TABLE, "threat": {"groups": groups}}, tmp_path), 2)
    assert world.threats[0].update is not None
    seen = world.threats[0].update[0].function.__globals__["SEEN"]
    assert [each[:5] for each in seen] == [(9, 2, 2, 7, 1), (8, 1, 1, 7, 1), (9, 2, 2, 7, 2), (8, 1, 1, 7, 2)]
    assert len({each[5] for each in seen}) == 4
    assert float(state.memory_of("attack")["turns"]) == float(state.memory_of("attack/1")["turns"]) == 2


def test_attackers_who_see_only_each_other_see_their_own_group_as_it_would_behave(tmp_path: Path) -> None:
    text = PRYING.replace("torch.cat([benign, own])", "torch.zeros(n, own.shape[1])")
    (tmp_path / "own.py").write_text(text.replace("benign.shape[0]", "float((own - benign).abs().max())"))
    own = {"update": "own.py:prying", "knows": ["colluders", "defence"]}
    groups = [{**own, "malicious": 2}, {**own, "malicious": 3, "data": {"name": "badnets"}}]
    world, _, _ = played(parse({**TABLE, "threat": {"groups": groups}}, tmp_path))
    assert world.threats[0].update is not None
    (first, second) = world.threats[0].update[0].function.__globals__["SEEN"]
    assert first[:4] == (7, 2, 2, 0)  # it trains as the honest do
    assert second[:3] == (8, 3, 3)
    assert second[3] > 0  # one on poison, the other not


def test_what_one_group_sends_that_is_no_update_is_set_aside_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(PRYING)
    odd = {"malicious": 1, "update": {"name": "own.py:prying", "shape": 3}, "knows": ["all", "defence"]}
    made = parse({**TABLE, "threat": {"groups": [FLIP, odd, ALIE]}}, tmp_path)
    world, _, (record,) = played(made)
    (strange,) = members(world)[1]
    assert [tuple(e["clients"]) for e in record["events"] if e["what"] == "set_aside"] == [(strange,)]
    assert [round(w, 6) for w in record["weights"]] == [0 if i == strange else round(1 / 9, 6) for i in range(10)]


def test_groups_are_at_different_clients_and_nested_over_their_number() -> None:
    found = []
    for count in (1, 2, 4):
        world, _ = build(config({**FLIP, "malicious": count}, ALIE, {**FLIP, "clients": [3, 9], "malicious": None}))
        first, second, named = members(world)
        assert named == {3, 9}
        assert [len(first), len(second)] == [count, 3]
        assert not first & second | (first | second) & named
        found.append((first, first | second))
    assert found[0][0] < found[1][0] < found[2][0]
    assert found[0][1] < found[1][1] < found[2][1]


def test_a_record_says_of_each_group_how_it_fared() -> None:
    made = config(DRILLED, FLIP, ALIE, defence={"f": 3, "aggregator": "multi_krum"})
    _, _, (first, second) = played(made, 2)
    assert [group["clients"] for group in first["groups"]] == [0, 2, 3]
    for record in (first, second):
        backdoor, flip, alie = record["groups"]
        assert (backdoor["asr"], flip["target_success"]) == (record["asr"], record["target_success"])
        assert backdoor["asr_untriggered"] is not None
        assert "asr" not in alie
        found = [g["detection_recall"] * g["clients"] for g in record["groups"] if g["clients"]]
        assert sum(found) == pytest.approx(record["detection"]["recall"] * len(record["malicious"]))
        weight = sum(group["weight"] for group in record["groups"])
        assert weight == pytest.approx(record["detection"]["malicious_weight"])
    assert played(parse({**TABLE, "threat": ALIE}))[2][0]["groups"] is None


def test_of_two_groups_that_aim_alike_the_first_is_told_in_front() -> None:
    other = {**FLIP, "data": {"name": "label_flip", "target": 3}}
    _, _, (record,) = played(config(FLIP, other))
    first, second = (group["target_success"] for group in record["groups"])
    assert record["target_success"] == first != second


def test_only_clients_who_are_malicious_themselves_count_for_f() -> None:
    outsider = {"actor": "data", "malicious": 4, "data": {"name": "badnets"}}
    made = config(ALIE, outsider, defence={"aggregator": "multi_krum"})
    assert (made.malicious, made.hostile, made.f) == (7, 3, 3)
    _, _, (record,) = played(made)
    assert len(record["malicious"]) == 7
    assert not record["over_budget"]
    assert not foreseen([made])
    assert played(config(ALIE, outsider, defence={"f": 2, "aggregator": "multi_krum"}))[2][0]["over_budget"]


def test_names_labels_and_the_clean_run() -> None:
    made = config(DRILLED, FLIP, ALIE)
    assert made.attack == "badnets+neurotoxin & label_flip & alie"
    assert made.schedule is not None
    assert made.schedule.spans(1, 3) == [(1, 3)]
    assert config(DRILLED, {**FLIP, "schedule": {"at": [3]}}).schedule.spans(1, 3) == [(2, 3)]  # type: ignore[union-attr]
    clean = made.clean()
    assert (clean.attack, clean.malicious, clean.f) == ("none", 0, 6)
    _, _, (record,) = played(clean)
    assert record["asr"] is not None
    assert record["target_success"] is not None
    assert parse(made.table()).hash == made.hash
    assert parse(clean.table()).hash == clean.hash
    assert (
        config(FLIP, ALIE).clean().hash
        == config(ALIE, FLIP).clean().hash
        == parse({**TABLE, "threat": FLIP, "defence": {"f": 5}}).clean().hash
    )


def test_previews_show_each_group_that_poisons() -> None:
    found = poisonings(load({**TABLE, "threat": {"groups": [FLIP, ALIE, {**DRILLED, "schedule": {}}]}}))
    assert [(each.label.split()[0], len(each.attacked)) for each in found] == [("label_flip", 2), ("badnets", 1)]
    assert all(each.clients for each in found)


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [
        ([FLIP, {"clients": [10, 11], "update": "alie"}], "threat.groups.1.clients: there is no client 10, 11, of 10"),
        ([{"clients": [1, 2], "update": "alie"}, {"clients": [2, 3], "update": "ipm"}], "clients 2 are in two groups"),
        ([{**FLIP, "malicious": 6}, {**ALIE, "malicious": 5}], "threat.malicious = 11 of 10 clients"),
        ([FLIP, {"malicious": 2}], "there are malicious clients but no attack"),
        ([FLIP, {**ALIE, "share": 0.2}], "malicious = 3 and share = 0.2 are alternatives"),
        ([FLIP, {**ALIE, "draw": "per_round"}], "threat.groups.1.draw: there is no such key"),
        ([FLIP, {**ALIE, "schedule": {"start": 9}}], "the attack starts in round 9, after the last, 3"),
        ([{"clients": [1, 1], "update": "alie"}], "clients = [1, 1] names one twice"),
        ([{"clients": [1], "update": "alie", "draw": "per_round"}], 'draw = "per_round" draws it'),
    ],
)
def test_groups_that_cannot_be_are_refused(groups: list[dict[str, Any]], sentence: str) -> None:
    with pytest.raises(ConfigError) as raised:
        config(*groups)
    assert sentence in str(raised.value)


def test_what_stands_beside_groups_is_refused() -> None:
    with pytest.raises(ConfigError, match="draw, malicious stands beside them"):
        parse({**TABLE, "threat": {"groups": [FLIP, ALIE], "malicious": 2, "draw": "fixed"}})


def test_every_engine_gives_the_same_bits_and_so_does_a_cut_run(tmp_path: Path) -> None:
    groups = [DRILLED, FLIP, {**ALIE, "update": {"name": "model_replacement"}}]
    made = config(*groups, model={"name": "mlp", "hidden": [12]})
    _, whole, records = played(made, 3)
    _, other, others = played(made.model_copy(update={"engine": parse({**TABLE, "engine": "flower"}).engine}), 3)
    assert torch.equal(whole.params, other.params)
    assert [r["groups"] for r in records] == [r["groups"] for r in others]

    def cut(record: Record) -> None:
        if record["round"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(made, tmp_path, cut)
    folder = simulate(made, tmp_path)
    assert torch.equal(load_file(folder.model)["params"], whole.params)
    assert [r["groups"] for r in folder.records()] == [r["groups"] for r in records]
