"""Who poisons data, with what net, and what is frozen in front of the net that is trained."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fedpoison import data_attack
from fedpoison.attacks.threat import Threat
from fedpoison.common.errors import ConfigError
from fedpoison.common.seeding import Stream
from fedpoison.config.config import parse
from fedpoison.config.sweep import load
from fedpoison.contract.lookup import entries
from fedpoison.data.digits import digits
from fedpoison.models import frozen
from fedpoison.models.vector import flatten
from fedpoison.round import play
from fedpoison.runs.running import Job
from fedpoison.runs.simulation import simulate
from fedpoison.runs.world import build

FLIP = {"name": "label_flip", "source": 5, "target": 7}


def table(**changes: Any) -> dict[str, Any]:
    return {
        "name": "t",
        "rounds": 2,
        "data": "digits",
        "model": {"name": "mlp", "hidden": [24]},
        "clients": {"count": 5, "local": {"epochs": 2, "lr": 0.1}},
        "threat": {"malicious": 2, "data": FLIP},
        **changes,
    }


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of these nets that was trained for a while."""
    folder = tmp_path_factory.mktemp("backbone")
    return str(simulate(parse(table(rounds=8, threat={})), folder).model)


def warm(backbone: str, **changes: Any) -> dict[str, Any]:
    return {"file": backbone, "train_last": 1, **changes}


# The actor


def test_an_outsiders_poison_is_what_malicious_clients_would_train_on() -> None:
    made = [build(parse(table(threat={"malicious": 2, "data": FLIP, "actor": actor}))) for actor in ("client", "data")]
    ids = made[0][0].threats[0].fixed_ids
    assert len(ids) == 2
    for client in range(5):
        one, other = (world.federation.shard(client, client in ids) for world, _ in made)
        assert torch.equal(one.labels[one.index], other.labels[other.index])


def test_no_client_is_malicious_where_an_outsider_poisons_data() -> None:
    threat = {"malicious": 5, "data": FLIP, "actor": "data"}  # every client: all of them are honest
    config = parse(table(threat=threat, clients={"count": 5, "held_out": 0.2}, defence={"aggregator": "trimmed_mean"}))
    assert config.f == 0
    assert parse(table(threat={**threat, "malicious": 2}, defence={"f": 1})).f == 1
    assert Job(load({**table(threat=threat), "seeds": [0]}), Path()).warnings() == []
    _, record = play(*reversed(build(config)))
    assert record["client_accuracy"] is not None
    assert record["malicious"] == [0, 1, 2, 3, 4]  # whose data are poisoned
    assert record["over_budget"] is False


def test_what_only_a_client_can_do_is_refused_to_an_outsider() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(table(threat={"malicious": 1, "actor": "data", "data": FLIP, "update": "sign_flip", "sybils": 0.1}))
    assert "threat.update" in str(caught.value)
    assert "threat.sybils" in str(caught.value)


# A frozen front


def test_a_split_net_is_the_net() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Dropout(0.5)), nn.Linear(8, 3))
    images = torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = net.eval()(images)
    front, end = frozen.split(net, 1)
    assert flatten(end).numel() == 27
    assert not any(p.requires_grad for p in front.parameters())
    assert torch.equal(end(frozen.apply(front, images)), expected)


def test_what_a_front_makes_of_the_data_is_kept_for_the_same_front_and_data_alone() -> None:
    torch.manual_seed(0)
    made = [nn.Sequential(nn.Flatten(), nn.Linear(64, 4)) for _ in range(2)]
    same = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    same.load_state_dict(made[0].state_dict())
    first = frozen.seen_through(made[0], digits())
    assert frozen.seen_through(same, digits()) is not first  # other data: digits() are made anew
    data = digits()
    first = frozen.seen_through(made[0], data)
    assert frozen.seen_through(same, data) is first
    other = frozen.seen_through(made[1], data)
    assert not torch.equal(other.train_images, first.train_images)
    assert not torch.equal(frozen.seen_through(nn.Sequential(*made[1], nn.ReLU()), data).test_images, other.test_images)


class Times(nn.Module):
    """A user's module, whose setting neither its name nor a parameter shows."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images * self.factor


def test_fronts_with_other_settings_are_others() -> None:
    data = digits()
    first, second = (frozen.seen_through(nn.Sequential(Times(factor)), data) for factor in (1.0, 2.0))
    assert torch.equal(second.train_images, 2 * first.train_images)
    first, second = (frozen.seen_through(nn.Sequential(nn.LeakyReLU(s), nn.Flatten()), data) for s in (0.1, 0.2))
    assert second is not first


@pytest.mark.parametrize(
    ("net", "sentence"),
    [
        (nn.Linear(4, 2), "this net is a Linear"),
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), "has 1 layers with parameters: train_last = 1"),
    ],
)
def test_a_net_that_cannot_be_split_is_refused(net: nn.Module, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        frozen.split(net, 1)


def test_only_the_last_layers_are_trained_and_the_rest_stays(backbone: str) -> None:
    world, state = build(parse(table(warm_start=warm(backbone), threat={})))
    assert len(state.params) == 24 * 10 + 10
    assert world.federation.dataset.input_shape == (24,)
    before = world.evaluator(state.params).accuracy
    whole, start = build(parse(table(warm_start={"file": backbone}, threat={})))
    assert before == pytest.approx(whole.evaluator(start.params).accuracy, abs=0.01)
    fresh, new = build(parse(table(warm_start=warm(backbone, fresh=True), threat={})))
    assert fresh.evaluator(new.params).accuracy < before - 0.2
    for _ in range(2):
        new, record = play(new, fresh)
    assert record["accuracy"] > 0.8  # the features are good


@pytest.mark.parametrize("engine", ["sequential", {"name": "flower", "transport": "process"}])
def test_every_engine_trains_behind_a_frozen_front(backbone: str, engine: Any) -> None:
    made = []
    for name in ("batched", engine):
        world, state = build(parse(table(warm_start=warm(backbone), engine=name)))
        made.append(play(state, world)[0].params)
    torch.testing.assert_close(*made, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rounds": 1, "train_last": 1}, "none is given"),
        ({"fresh": True}, "for the layers that train_last counts"),
    ],
)
def test_what_does_not_fit_together_is_refused(backbone: str, changes: dict[str, Any], sentence: str) -> None:
    given = changes if "rounds" in changes else {"file": backbone, **changes}
    with pytest.raises(ConfigError, match=sentence):
        parse(table(warm_start=given))


def test_what_cannot_be_frozen_is_refused_before_the_first_run(backbone: str, tmp_path: Path) -> None:
    made = table(sweep={"warm_start.train_last": [1, 2]}, warm_start=warm(backbone))
    with pytest.raises(ConfigError, match="train_last = 2 leaves none frozen"):
        Job(load(made), tmp_path).check()


def test_how_much_is_frozen_is_part_of_the_hash(backbone: str) -> None:
    starts = [{"file": backbone}, warm(backbone), warm(backbone, fresh=True)]
    assert len({parse(table(warm_start=start)).hash for start in starts}) == 3


# Attacks that change nothing

SORTED: dict[str, Any] = {"data": {"name": "digits", "partition": "label_sorted"}, "clients": {"count": 10}}
IN_VAIN = [
    *({"name": name, "share": 0.0} for name in ("label_flip", "badnets", "noisy_samples")),
    *({"name": name, "target": 5} for name in ("sig", "label_consistent")),
    *({"name": name, "source": 5, "target": 6} for name in ("label_flip", "targeted_flip", "hidden_trigger")),
    *({"name": name, "source": 5, "target": 6} for name in ("feature_collision", "bullseye_polytope", "witches_brew")),
]


@pytest.mark.parametrize("attack", IN_VAIN, ids=str)
def test_an_attack_that_changes_no_sample_is_told(attack: dict[str, Any], tmp_path: Path) -> None:
    """Clients 2 and 8 have neither the source nor the target."""
    made = table(**SORTED, threat={"malicious": 2, "data": attack, "surrogate": 0})
    assert Threat.draw_ids(Stream(0, "malicious"), 10, 2) == {2, 8}
    name = attack["name"]
    known = "surrogate" not in entries("data_attack")[name].asks
    said = [f"{name} changes no sample of the malicious clients: 2, 8 (seed 0)"] if known else []
    assert Job(load(made), tmp_path).check() == said
    _, record = play(*reversed(build(parse(made))))
    (event,) = record["events"]
    assert event == {
        "what": "unattacked",
        "clients": [2, 8],
        "detail": f"{name} changes no sample of any of its clients",
    }


@pytest.mark.parametrize("engine", ["sequential", {"name": "flower", "transport": "process"}])
def test_every_engine_tells_of_it(engine: Any) -> None:
    threat = {"malicious": 9, "data": {"name": "label_flip", "source": 5, "target": 6}}
    records = [
        play(*reversed(build(parse(table(**SORTED, threat=threat, engine=name)))))[1] for name in ("batched", engine)
    ]
    (event,) = records[0]["events"]
    assert event["what"] == "unattacked"
    assert 0 < len(event["clients"]) < 9
    assert event["detail"] == "label_flip changes no sample of some of its clients"
    assert records[1]["events"] == records[0]["events"]


def test_who_forges_updates_attacks_though_no_sample_is_changed(tmp_path: Path) -> None:
    made = table(**SORTED, threat={"malicious": 2, "data": {**FLIP, "share": 0.0}, "update": "sign_flip"})
    assert len(Job(load(made), tmp_path).check()) == 1
    _, record = play(*reversed(build(parse(made))))
    assert [event["what"] for event in record["events"]] == ["attack"]


def test_nothing_is_said_of_clean_runs_and_of_attacks_that_change_something(tmp_path: Path) -> None:
    sweep = {"threat.malicious": [0, 2]}
    assert Job(load(table(sweep=sweep)), tmp_path).check() == []
    drawn = {"malicious": 2, "draw": "per_round", "data": {**FLIP, "share": 0.0}}
    said = "label_flip changes no sample of the malicious clients: 0, 1, 2, 3, 4 (seed 0)"  # whoever it will be
    assert Job(load(table(threat=drawn)), tmp_path).check() == [said]


# The attacker's own net

SEEN: dict[str, Any] = {}


def nothing(images, labels, n_classes):  # type: ignore[no-untyped-def]
    """Want the first test sample taken for class 3."""
    wanted = torch.full_like(labels, -1)
    wanted[0] = 3
    return images, wanted


@data_attack(aim=nothing, goal="targeted")
def onlooker(images, labels, attacker, victims, surrogate):  # type: ignore[no-untyped-def]
    """Keep what is shown."""
    SEEN[attacker] = (images, labels, victims, surrogate)
    return images.clone(), labels.clone()


@pytest.mark.parametrize("frozen_front", [False, True])
def test_an_attacker_trains_a_net_of_its_own_on_its_samples(backbone: str, frozen_front: bool) -> None:
    start = {"warm_start": warm(backbone)} if frozen_front else {}
    accuracies = {}
    for epochs in (0, 30):
        threat = {"malicious": 2, "data": f"{__file__}:onlooker", "surrogate": epochs}
        world, state = build(parse(table(**start, threat=threat)))
        play(state, world)
        seen = world.threats[0].data[0].function.__globals__["SEEN"]  # a file of the user's is a module of its own
        assert sorted(seen) == [0, 1]
        images, labels, victims, net = seen[0]
        assert torch.equal(victims, digits().test_images[:1])
        assert images.shape[1:] == (1, 8, 8)
        assert not net.training
        accuracies[epochs] = float((net(images).argmax(dim=1) == labels).double().mean())
    assert accuracies[30] > 0.9
    assert accuracies[0] < 0.5 or frozen_front


def test_the_targets_success_is_measured_on_the_victims_alone(tmp_path: Path) -> None:
    threat = {"malicious": 1, "data": f"{__file__}:onlooker"}
    world, state = build(parse(table(threat=threat)))
    _, record = play(state, world)
    assert record["target_success"] in (0.0, 1.0)
    assert record["source_recall"] is None


def test_from_class_to_class_the_sources_recall_is_measured() -> None:
    world, state = build(parse(table()))
    _, record = play(state, world)
    assert record["source_recall"] == pytest.approx(record["per_class_recall"][5])
    assert record["target_success"] <= 1 - record["source_recall"]
    everything = {"malicious": 2, "data": {"name": "label_flip"}}
    world, state = build(parse(table(threat=everything)))
    assert play(state, world)[1]["source_recall"] is None
