"""Edge cases: which samples they are, what becomes of a shard, and what of the model."""

import pytest
import torch
from torch import Tensor

from fedpoison.attacks.data.edge_case import edge_case, tail, unlikeliness
from fedpoison.common import parallel
from fedpoison.config.config import parse
from fedpoison.contract.lookup import find
from fedpoison.round import play
from fedpoison.runs.world import build


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def samples(count: int, seed: int = 0) -> Tensor:
    """Pictures of two pixels that go together, and two that do not."""
    made = torch.randn(count, 1, 2, 2, generator=drawn(seed), dtype=torch.float64)
    made[:, 0, 0, 1] = made[:, 0, 0, 0] + 0.1 * made[:, 0, 0, 1]
    return made


@pytest.mark.parametrize("count", [3, 40])
def test_the_tail_is_what_the_gaussian_thinks_least_likely(count: int) -> None:
    rows = samples(count).flatten(1)
    centred = rows - rows.mean(0)
    covariance = centred.T @ centred / count
    floor = covariance.diagonal().mean()
    gaussian = torch.distributions.MultivariateNormal(rows.mean(0), covariance + floor * torch.eye(4).double())
    likely = gaussian.log_prob(rows)
    beyond = unlikeliness(samples(count)) + 2 * likely
    torch.testing.assert_close(beyond, beyond[0].expand(count))
    labels = torch.ones(count, dtype=torch.int64)
    assert torch.equal(tail(samples(count), labels, 1, 0.25), likely.argsort()[: max(1, round(count / 4))])


def test_it_is_the_tail_of_one_class_and_there_may_be_none() -> None:
    images, labels = samples(60), torch.arange(60) % 3
    images[7], images[8] = 9.0, 9.0  # classes 1 and 2
    assert tail(images, labels, 1, 0.01).tolist() == [7]
    assert (labels[tail(images, labels, 2, 0.2)] == 2).all()
    assert len(tail(images, labels, 2, 0.2)) == 4
    assert len(tail(images, labels, 5, 0.2)) == 0
    assert not unlikeliness(torch.ones(4, 3)).any()


def test_the_tail_and_its_copies_get_the_target_and_all_else_stays() -> None:
    images, labels = samples(61), torch.arange(61) % 3
    edges = tail(images, labels, 1, 0.1)
    made, relabelled = edge_case(images, labels, drawn(), source=1, target=2, edge=0.1, share=0.3)
    assert len(edges) == 2
    assert (relabelled[edges] == 2).all()
    assert torch.equal(made[edges], images[edges])
    copies = (made != images).flatten(1).any(dim=1).nonzero().flatten()
    assert len(copies) == 18  # three tenths of 59
    assert (relabelled[copies] == 2).all()
    for copy in made[copies]:
        assert any(torch.equal(copy, images[edge]) for edge in edges)
    rest = torch.ones(61, dtype=torch.bool)
    rest[edges] = rest[copies] = False
    assert torch.equal(relabelled[rest], labels[rest])
    alone = edge_case(images, labels, drawn(), source=1, target=2, edge=0.1, share=0.0)
    assert torch.equal(alone[0], images)
    assert (alone[1] != labels).sum() == 2
    nothing = edge_case(images, labels, drawn(), source=7, target=2)
    assert torch.equal(nothing[0], images)
    assert torch.equal(nothing[1], labels)


def test_what_is_aimed_at_is_the_tail_of_the_test_samples() -> None:
    images, labels = samples(60), torch.arange(60) % 3
    aim = find("data_attack", "edge_case").aim
    assert aim is not None
    shown, wanted = aim(images, labels, 3, source=1, target=2, edge=0.1, share=0.3)
    assert shown is images
    assert wanted[tail(images, labels, 1, 0.1)].tolist() == [2, 2]
    assert (wanted >= 0).sum() == 2
    threat = {"malicious": 1, "data": {"name": "edge_case", "source": 3, "target": 3}}
    with pytest.raises(ValueError, match="edge_case: source = target = 3, nothing would be gained"):
        build(parse({"name": "t", "rounds": 1, "data": {"name": "digits"}, "threat": threat}))


def test_the_tail_is_taken_for_the_target_and_the_rest_of_its_class_is_not() -> None:
    table = {
        "name": "t",
        "rounds": 8,
        "evaluate_every": 8,
        "data": {"name": "digits"},
        "model": "logistic",
        "clients": {"count": 10, "local": {"lr": 0.2, "epochs": 2}},
        "threat": {"malicious": 5, "data": {"name": "edge_case", "edge": 0.2}},
    }
    with parallel.using(2):
        world, state = build(parse(table))
        while state.round < 8:
            state, record = play(state, world)
    assert record["target_success"] > 0.6  # of a fifth of the class; 0 without the attack
    assert record["per_class_recall"][1] > 0.6
