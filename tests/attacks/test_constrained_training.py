"""Attackers who train near the global model: what they descend, how far they come, and what passes by that."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedpoison.attacks.training.constrain_and_scale import constrain_and_scale
from fedpoison.attacks.training.projected_gradient import projected_gradient
from fedpoison.clients.federation import Shard
from fedpoison.clients.training import Local, batches, train_client
from fedpoison.common.errors import ConfigError
from fedpoison.common.seeding import Stream
from fedpoison.config.config import parse
from fedpoison.contract.vocabulary import Record
from fedpoison.models.vector import flatten
from tests.attacks.test_training_attacks import played

OPTIMIZERS = {
    "sgd": {"lr": 0.1},
    "all": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.2, "prox": 0.3, "clip_norm": 0.2},
    "adam": {"lr": 0.05, "optimizer": "adam", "eps": 0.1, "weight_decay": 0.2, "clip_norm": 0.2},
}


def shard() -> Shard:
    drawn = torch.Generator().manual_seed(0)
    images = torch.rand(50, 8, generator=drawn)
    return Shard(images, (3 * images[:, 0]).long(), torch.arange(50))


def by_hand(local: Local, alpha: float, lr: float) -> Tensor:
    """Descent of α · loss + (1 − α) · ½‖w − global‖², and of whatever else the honest have, by autograd."""
    net, stream, data = nn.Linear(8, 3).double(), Stream(3, "batches", 2, 1), shard()
    with torch.no_grad():
        for weight in net.parameters():
            weight.fill_(0.1)
    start = flatten(net).clone()
    optimizer = local.model_copy(update={"lr": lr}).optimizer_for(list(net.parameters()))
    for batch in batches(stream, 50, local):
        rows = torch.from_numpy(batch)
        away = torch.cat([weight.flatten() for weight in net.parameters()]) - start
        loss = nn.functional.cross_entropy(net(data.images[rows].double()), data.labels[rows])
        whole = alpha * loss + (1 - alpha + local.prox) / 2 * away.square().sum()
        optimizer.zero_grad()
        whole.backward()
        if local.clip_norm:
            nn.utils.clip_grad_norm_(net.parameters(), local.clip_norm)
        optimizer.step()
    return flatten(net) - start


@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_constrain_and_scale_descends_its_own_loss(name: str, alpha: float) -> None:
    local = Local(batch_size=16, epochs=3, **OPTIMIZERS[name])
    drill = constrain_and_scale(local, alpha=alpha, lr=0.07)
    net = nn.Linear(8, 3)
    with torch.no_grad():
        for weight in net.parameters():
            weight.fill_(0.1)
    held = local.drilled(drill)
    made = train_client(net, flatten(net).clone(), shard(), Stream(3, "batches", 2, 1), held, None, drill)
    torch.testing.assert_close(made.double(), by_hand(local, alpha, 0.07), rtol=1e-4, atol=1e-6)
    assert made.norm() > 0.01


def test_what_they_set_and_what_they_leave() -> None:
    drill = projected_gradient(radius=0.5)
    assert (dict(drill.local), drill.radius, drill.every) == ({"lr": 0.02, "epochs": 5}, 0.5, 10)
    assert not projected_gradient(lr=None, epochs=None).local
    drill = constrain_and_scale(Local(lr=0.2), alpha=0.25, epochs=4, radius=0.3)
    assert dict(drill.local) == {"epochs": 4, "prox": 3.0, "weight_decay": 0.0, "lr": 0.05}
    assert (drill.radius, drill.every) == (0.3, 1)
    free = Local(lr=0.2, momentum=0.5, weight_decay=0.1)
    assert free.drilled(constrain_and_scale(free, alpha=1.0)) == free
    for wrong in (0.0, 1.5):
        training = {"name": "constrain_and_scale", "alpha": wrong}
        with pytest.raises(ConfigError, match=r"constrain_and_scale\.alpha"):
            parse({"name": "t", "rounds": 1, "data": "digits", "threat": {"malicious": 1, "training": training}})


def against_cge(**threat: Any) -> Record:
    """Two of ten plant a backdoor; the rule averages all but the two longest updates."""
    table = {
        "name": "t",
        "rounds": 12,
        "evaluate_every": 12,
        "data": {"name": "digits"},
        "model": {"name": "mlp", "hidden": [16]},
        "clients": {"count": 10, "local": {"lr": 0.1}},
        "threat": {"malicious": 2, "data": {"name": "badnets"}, **threat},
        "defence": {"aggregator": "cge", "f": 2},
    }
    return played(table)[2][-1]


def test_projected_gradient_passes_where_a_plain_boost_is_found() -> None:
    boosted = against_cge(update="model_replacement")
    held = against_cge(training={"name": "projected_gradient", "radius": 0.15, "every": 2})
    assert boosted["asr"] < 0.1
    assert held["asr"] > 0.6
    assert held["update_norms"]["malicious"]["max"] < 0.1501 < held["update_norms"]["honest"]["median"]


def test_constrain_and_scale_comes_less_far_and_passes_where_the_free_do_not() -> None:
    free, held = (against_cge(training={"name": "constrain_and_scale", "alpha": a, "epochs": 5}) for a in (1.0, 0.1))
    assert free["asr"] < 0.1
    assert held["asr"] > 0.5
    assert held["update_norms"]["malicious"]["max"] < free["update_norms"]["malicious"]["median"] / 3
