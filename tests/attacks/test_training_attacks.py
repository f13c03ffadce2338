"""Attacks on the training: what each makes of what it is shown, and what comes of it in a run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedpoison.attacks.drilling import Drills, as_drill
from fedpoison.attacks.training.neurotoxin import neurotoxin
from fedpoison.clients.drills import Gradients
from fedpoison.clients.training import Local, Plan, Task
from fedpoison.common import parallel
from fedpoison.common.errors import AlgorithmError, ConfigError
from fedpoison.config.config import parse
from fedpoison.contract.lookup import find
from fedpoison.contract.vocabulary import Record
from fedpoison.models.vector import flatten
from fedpoison.round import State, World, play
from fedpoison.runs.foreseen import foreseen
from fedpoison.runs.simulation import simulate
from fedpoison.runs.world import build
from fedpoison.types import Drill

TABLE: dict[str, Any] = {
    "name": "drilled",
    "rounds": 3,
    "data": {"name": "digits"},
    "model": {"name": "mlp", "hidden": [12]},
    "clients": {"count": 6, "local": {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.01}},
    "threat": {"malicious": 2, "data": {"name": "badnets"}, "training": {"name": "neurotoxin", "epochs": 2}},
    "defence": {"aggregator": "median"},
}
OWN = """
import torch
from fedpoison import Drill, training_attack

@training_attack()
def patient(params, previous, layers, n, n_malicious, local, own_gradient, say, state, rng, *, more: int = 2):
    "More epochs each round, on all layers but the first, and a random tenth of the rest stays."
    turns = state.get("turns", torch.zeros(())) + 1
    mask = torch.rand(len(params), generator=rng) < 0.9
    mask[layers[0].columns] = False
    say(f"{int(turns)} turns, {n_malicious} of {n}")
    return Drill(local={"epochs": int(turns) + more, "lr": local.lr / 2}, mask=mask), {"turns": turns}
"""


def played(table: dict[str, Any], folder: Path | None = None) -> tuple[World, State, list[Record]]:
    config, records = parse(table, folder), []
    with parallel.using(2):
        world, state = build(config)
        while state.round < config.rounds:
            state, record = play(state, world)
            records.append(record)
    return world, state, records


# Neurotoxin


def test_neurotoxin_s_mask_by_hand() -> None:
    gradient = torch.tensor([0.5, -3.0, 0.0, 1.0, -0.1, 2.0, -0.2, 0.3, 0.4, 0.05])
    last = gradient.flip(0)
    drill = neurotoxin(gradient, last, ratio=0.8)
    assert drill.mask is not None
    assert (~drill.mask).nonzero().flatten().tolist() == [1, 5]  # the largest in size, not the most negative
    assert (dict(drill.local), drill.radius) == ({}, None)
    drill = neurotoxin(gradient, last, ratio=0.8, mask_from="last_aggregate", lr=0.02, epochs=7, radius=0.2)
    assert drill.mask is not None
    assert (~drill.mask).nonzero().flatten().tolist() == [4, 8]
    assert (dict(drill.local), drill.radius) == ({"lr": 0.02, "epochs": 7}, 0.2)
    first = neurotoxin(gradient, 0 * last, mask_from="last_aggregate")
    assert first.mask is not None
    assert first.mask.all()


@pytest.mark.parametrize("ratio", [0.0, 0.9, 0.95, 1.0])
def test_neurotoxin_lets_as_many_move_as_its_ratio_says_even_where_all_are_alike(ratio: float) -> None:
    mask = neurotoxin(torch.zeros(200), torch.zeros(200), ratio=ratio).mask
    assert mask is not None
    assert int(mask.sum()) == round(200 * ratio)


@pytest.mark.parametrize("mask_from", ["own_data", "last_aggregate"])
def test_neurotoxin_moves_only_what_its_gradient_hardly_does(mask_from: str) -> None:
    training = {"name": "neurotoxin", "ratio": 0.9, "mask_from": mask_from, "radius": 0.3}
    world, state, _ = played({**TABLE, "threat": {**TABLE["threat"], "training": training}})
    bad = torch.tensor(sorted(world.threats[0].fixed_ids))
    with parallel.using(2):
        drills, _, _ = world.drills[0](bad, 6, state.params, state.previous, {}, 4)
        plan = Plan(world.seed, 4, tuple(Task(i, True, d) for i, d in zip(bad.tolist(), drills, strict=True)))
        updates = world.engine.train(state.params, plan).updates
    for client, drill, update in zip(bad.tolist(), drills, updates, strict=True):
        shard = world.federation.shard(client)
        net = world.drills[0].gradients._net
        expected = state.previous
        if mask_from == "own_data":
            expected = gradient(net, state.params, shard.images[shard.index], shard.labels[shard.index])
        assert drill.mask is not None
        assert expected[drill.mask].abs().max() <= expected[~drill.mask].abs().min() + 1e-6
        assert (update[~drill.mask] == 0).all()
        assert 0.29 < update.norm() < 0.3001


def split(net: torch.nn.Module, params: Tensor) -> dict[str, Tensor]:
    named = dict(net.named_parameters())
    parts = params.split([p.numel() for p in named.values()])
    return {name: part.view_as(p) for (name, p), part in zip(named.items(), parts, strict=True)}


def gradient(net: torch.nn.Module, params: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    params = params.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(torch.func.functional_call(net, split(net, params), images), labels)
    (made,) = torch.autograd.grad(loss, params)
    return made


def test_the_gradient_is_of_the_mean_loss_over_all_clean_samples_without_dropout() -> None:
    config = parse({**TABLE, "model": {"name": "mlp", "hidden": [12]}, "clients": {"count": 2}})  # 674 samples or so
    world, state = build(config)
    net, shard = world.drills[0].gradients._net, world.federation.shard(1)
    assert len(shard) > 512
    dropping = torch.nn.Sequential(*net, torch.nn.Dropout(0.9))
    expected = gradient(net, state.params, shard.images[shard.index], shard.labels[shard.index])
    for made in (
        world.drills[0].gradients,
        Gradients(dropping, world.federation, world.drills[0].gradients._criterion),
    ):
        torch.testing.assert_close(made(state.params, 1), expected)
    assert torch.equal(flatten(net), state.params)  # the net itself is as it was


def test_neurotoxin_plants_a_backdoor_that_the_median_does_not_keep_out() -> None:
    table = {**TABLE, "rounds": 8, "evaluate_every": 8, "clients": {"count": 10, "local": {"lr": 0.1}}}
    asr = {}
    for malicious in (0, 4):
        asr[malicious] = played({**table, "threat": {**TABLE["threat"], "malicious": malicious}})[2][-1]["asr"]
    assert asr[0] < 0.1
    assert asr[4] > 0.5


# The seam


def test_a_training_attack_of_a_users_file_has_memory_and_says_what_it_does(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    table = {**TABLE, "threat": {"malicious": 2, "training": {"name": "own.py:patient", "more": 1}}}
    world, state, records = played(table, tmp_path)
    bad = sorted(world.threats[0].fixed_ids)
    for number, record in enumerate(records, 1):
        said = [(e["clients"], e["detail"]) for e in record["events"] if e["what"] == "attack"]
        assert said == [([client], f"{number} turns, 2 of 6") for client in bad]
    assert {name: float(v) for name, v in state.memory_of("drills").items()} == {f"{i}/turns": 3.0 for i in bad}


@pytest.mark.parametrize("name", ["neurotoxin", "own.py:patient"])
def test_every_engine_gives_the_same_bits_and_so_does_a_cut_run(tmp_path: Path, name: str) -> None:
    (tmp_path / "own.py").write_text(OWN)
    table = {**TABLE, "threat": {**TABLE["threat"], "training": {"name": name}}}
    _, whole, records = played(table, tmp_path)
    for engine in ("flower", "sequential"):
        _, other, others = played({**table, "engine": {"name": engine}}, tmp_path)
        if engine == "sequential":
            torch.testing.assert_close(whole.params, other.params, rtol=1e-4, atol=1e-5)
        else:
            assert torch.equal(whole.params, other.params)
            assert [r["asr"] for r in records] == [r["asr"] for r in others]
    assert not torch.equal(whole.params, played({**TABLE, "threat": {"malicious": 0}})[1].params)

    def cut(record: Record) -> None:
        if record["round"] == 2:
            raise KeyboardInterrupt

    config = parse(table, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        simulate(config, tmp_path, cut)
    folder = simulate(config, tmp_path)
    from safetensors.torch import load_file

    assert torch.equal(load_file(folder.model)["params"], whole.params)
    assert [r["round"] for r in folder.records()] == [1, 2, 3]


PRYING = """
from fedpoison import update_attack

@update_attack()
def prying(own, benign, n_malicious):
    "Send what was trained, and twice what an honest client would have sent."
    assert benign.shape == own.shape
    return own - 2 * benign
"""


@pytest.mark.parametrize("data", [{}, {"data": {"name": "badnets"}}])
def test_attackers_who_may_see_no_other_honest_update_train_without_the_drill_too(
    tmp_path: Path, data: dict[str, Any]
) -> None:
    (tmp_path / "own.py").write_text(PRYING)
    threat = {"malicious": 2, **data, "training": {"name": "neurotoxin", "epochs": 2}, "knows": "colluders"}
    table = {**TABLE, "rounds": 1, "defence": {}, "threat": {**threat, "update": {"name": "own.py:prying"}}}
    world, state = build(parse(table, tmp_path))
    seen: list[Plan] = []
    train = world.engine.train

    def noted(params: Tensor, plan: Plan) -> Any:
        seen.append(plan)
        return train(params, plan)

    world.engine.train = noted  # type: ignore[method-assign]
    play(state, world)
    bad = sorted(world.threats[0].fixed_ids)
    twins = [task for task in seen[0].tasks[6:] if task.client in bad]
    assert [(task.client, task.poisoned, task.drill) for task in twins] == [(i, False, None) for i in bad]


def test_momentum_of_a_drill_is_not_that_of_honest_training() -> None:
    table = {**TABLE, "clients": {**TABLE["clients"], "momentum": 0.9}}
    threat = {"malicious": 2, "training": {"name": "neurotoxin"}, "schedule": {"at": [2]}}
    _, state, _ = played({**table, "rounds": 2, "threat": threat})
    world, _ = build(parse({**table, "threat": threat}))
    kept, bad = state.memory_of("momentum"), sorted(world.threats[0].fixed_ids)
    assert kept["poisoned"][bad].norm(dim=1).min() > 0
    assert not kept["poisoned"][[i for i in range(6) if i not in bad]].any()
    _, one, _ = played({**table, "rounds": 1, "threat": {"malicious": 0}})
    assert torch.equal(kept["clean"][bad], one.memory_of("momentum")["clean"][bad])


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ("1", "must return a Drill, not int"),
        ('Drill(local={"epoch": 1})', r"\{'epoch': 1\}: there is no such setting; did you mean 'epochs'\?"),
        ('Drill(local={"epochs": 1, "steps": 1})', "epochs = 1 and steps = 1 are alternatives"),
        ('Drill(local={"lr": -1.0})', "has its clients train with"),
        ("Drill(mask=torch.ones(3, dtype=torch.bool))", r"mask is \d+ values of torch.bool, not \(3,\)"),
        ("Drill(mask=torch.ones(len(params)))", "torch.float32"),
        ("Drill(radius=-1.0)", "radius is more than 0, not -1.0"),
        ("Drill(radius=float('nan'))", "radius is more than 0, not nan"),
        ("Drill(radius=1.0, every=0)", "every is more than 0, not 0"),
    ],
)
def test_what_is_no_drill_ends_the_run_with_a_sentence(tmp_path: Path, returned: str, says: str) -> None:
    lines = ["import torch", "from fedpoison import Drill, training_attack", "@training_attack()"]
    lines += ["def wrong(params):", '    "It is."', f"    return {returned}"]
    (tmp_path / "own.py").write_text("\n".join(lines))
    table = {**TABLE, "threat": {"malicious": 2, "training": {"name": "own.py:wrong"}}}
    with pytest.raises(AlgorithmError, match=says):
        played(table, tmp_path)


def test_a_drill_that_is_right_passes() -> None:
    entry, mask = find("training_attack", "neurotoxin"), torch.ones(4, dtype=torch.bool)
    assert as_drill(entry, drill := Drill(local={"epochs": 2}, radius=1.0, every=3), Local(), 4) is drill
    assert as_drill(entry, Drill(mask=mask), Local(), 4).mask is not None


def test_without_attackers_or_where_nobody_looks_no_drill_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*given: Any) -> None:
        raise AssertionError("a drill is made")

    monkeypatch.setattr(Drills, "__call__", never)
    quiet = {**TABLE["threat"], "schedule": {"start": 3}}
    played({**TABLE, "rounds": 4, "threat": {**quiet, "malicious": 0}})
    world, state = build(parse({**TABLE, "threat": quiet}))
    for _ in range(2):
        state, _ = play(state, world)
    played({**TABLE, "rounds": 1, "threat": {"malicious": 2, "training": "neurotoxin", "update": "ipm"}})
    with pytest.raises(AssertionError, match="a drill is made"):
        played({**TABLE, "rounds": 1})


def test_what_a_training_attack_is_called_and_where_it_may_stand() -> None:
    config = parse(TABLE)
    assert config.attack == "badnets+neurotoxin"
    assert "threat.training" in config.components
    assert config.hash != parse({**TABLE, "threat": {"malicious": 2, "data": "badnets"}}).hash
    assert parse({**TABLE, "threat": {"malicious": 0, "training": "neurotoxin"}}).attack == "none"
    with pytest.raises(ConfigError, match=r"threat.training is a client's doing"):
        parse({**TABLE, "threat": {"malicious": 2, "actor": "data", "data": "badnets", "training": "neurotoxin"}})
    with pytest.raises(ConfigError, match=r"give threat.data, threat.training or threat.update"):
        parse({**TABLE, "threat": {"malicious": 2}})
    nobody = [parse({**TABLE, "threat": {"malicious": 0, "training": "neurotoxin", "data": "badnets"}})]
    assert foreseen(nobody) == ["badnets, neurotoxin: threat.malicious is 0, so nobody attacks"]
    assert "nobody" not in "".join(foreseen([*nobody, parse(TABLE)]))
    assert foreseen([parse({**TABLE, "threat": {}})]) == []
    unused = parse({**TABLE, "threat": {"malicious": 2, "training": "neurotoxin", "update": "ipm"}})
    assert "ipm does not use what attackers train, so neurotoxin does nothing" in foreseen([unused])
