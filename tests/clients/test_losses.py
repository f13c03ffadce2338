"""Losses: each registered one by what every loss owes, by values computed elsewhere, and in both engines."""

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedpoison.clients.criterion import Criterion
from fedpoison.clients.federation import Federation
from fedpoison.clients.losses.generalised_cross_entropy import generalised_cross_entropy
from fedpoison.clients.training import Engine, Local, Plan, Task, batches
from fedpoison.common import former, parallel
from fedpoison.common.errors import AlgorithmError, ConfigError
from fedpoison.config.config import parse
from fedpoison.contract.entry import Entry
from fedpoison.contract.lookup import entries, find
from fedpoison.data import Dataset
from fedpoison.models.vector import flatten
from fedpoison.runs.simulation import simulate
from fedpoison.types import Drill

ROOT = Path(__file__).parents[2]
LOSSES = entries("loss").values()
each = pytest.mark.parametrize("loss", LOSSES, ids=lambda entry: entry.name)
TABLE: dict[str, Any] = {
    "name": "lossy",
    "rounds": 2,
    "data": {"name": "digits"},
    "model": {"name": "mlp", "hidden": [8]},
    "clients": {"count": 4, "local": {"loss": {"name": "generalised_cross_entropy", "q": 0.5}}},
}


def slopes(loss: Entry, logits: Tensor, labels: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Losses, and the gradient of each at its logits."""
    logits = logits.clone().requires_grad_()
    losses = Criterion((loss, loss.validate(options)))(logits, labels)
    return losses.detach(), torch.autograd.grad(losses.sum(), logits)[0]


Z = torch.tensor([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0]], dtype=torch.float64)
KNOWN = [
    ("cross_entropy", {}, [0.407606, 2.407606], [[-0.334759, 0.244728, 0.090031], [0.665241, 0.244728, -0.909969]]),
    (
        "generalised_cross_entropy",
        {"q": 0.7},
        [0.354614, 1.163737],
        [[-0.251662, 0.183980, 0.067682], [0.123325, 0.045369, -0.168694]],
    ),
    (
        "generalised_cross_entropy",
        {"q": 0.7, "k": 0.5},
        [0.354614, 0.549183],
        [[-0.251662, 0.183980, 0.067682], [0.0, 0.0, 0.0]],
    ),
    (
        "symmetric_cross_entropy",
        {"alpha": 0.1, "beta": 1.0, "log_zero": -4.0},
        [1.379797, 3.880638],
        [[-0.924258, 0.675686, 0.248571], [0.306092, 0.112605, -0.418697]],
    ),
    ("focal", {"gamma": 2.0}, [0.045678, 1.993605], [[-0.098288, 0.071854, 0.026434], [0.813278, 0.299188, -1.112466]]),
    (
        "label_smoothing",
        {"epsilon": 0.1},
        [0.507606, 2.307606],
        [[-0.268092, 0.211395, 0.056697], [0.631908, 0.211395, -0.843303]],
    ),
]


@pytest.mark.parametrize(("name", "options", "values", "gradients"), KNOWN, ids=[name for name, *_ in KNOWN])
def test_values_and_gradients_are_those_that_were_computed_elsewhere(
    name: str, options: dict[str, Any], values: list[float], gradients: list[list[float]]
) -> None:
    losses, slope = slopes(find("loss", name), Z, torch.tensor([0, 2]), **options)
    torch.testing.assert_close(losses, torch.tensor(values).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(slope, torch.tensor(gradients).double(), rtol=0, atol=1e-6)


def test_the_generalised_cross_entropy_ends_in_what_it_generalises() -> None:
    logits, labels = torch.randn(20, 5, generator=torch.Generator().manual_seed(1)).double(), torch.arange(20) % 5
    usual = find("loss", "cross_entropy")
    mine = find("loss", "generalised_cross_entropy")
    for q in (0.0, 1e-9):
        for one, other in zip(slopes(mine, logits, labels, q=q), slopes(usual, logits, labels), strict=True):
            torch.testing.assert_close(one, other)
    p = torch.softmax(logits, dim=1)[torch.arange(20), labels]
    torch.testing.assert_close(slopes(mine, logits, labels, q=1.0)[0], 1 - p)
    for one, other in zip(slopes(mine, logits, labels, k=0.0), slopes(mine, logits, labels), strict=True):
        assert torch.equal(one, other)


SAME = [
    ("symmetric_cross_entropy", {"alpha": 1.0, "beta": 0.0}),
    ("focal", {"gamma": 0.0}),
    ("label_smoothing", {"epsilon": 0.0}),
    ("trimmed_cross_entropy", {"share": 0.0}),
]


@pytest.mark.parametrize(("name", "options"), SAME, ids=[name for name, _ in SAME])
def test_losses_end_in_the_cross_entropy(name: str, options: dict[str, Any]) -> None:
    logits, labels = torch.randn(20, 5, generator=torch.Generator().manual_seed(1)).double(), torch.arange(20) % 5
    usual = slopes(find("loss", "cross_entropy"), logits, labels)
    torch.testing.assert_close(slopes(find("loss", name), logits, labels, **options), usual)


def test_the_reverse_cross_entropy_alone_is_a_multiple_of_the_mean_absolute_error() -> None:
    symmetric = find("loss", "symmetric_cross_entropy")
    losses, _ = slopes(symmetric, Z, torch.tensor([0, 2]), alpha=0.0, beta=1.0, log_zero=-3.0)
    absolute = (Z.softmax(dim=1) - torch.eye(3)[[0, 2]]).abs().sum(dim=1)
    torch.testing.assert_close(losses, 1.5 * absolute)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 3.0])
def test_the_focal_loss_has_a_slope_where_the_net_is_sure(gamma: float) -> None:
    logits = torch.tensor([[200.0, 0, 0], [30.0, 0, 0], [0, 0, 200.0]])
    losses, slope = slopes(find("loss", "focal"), logits, torch.tensor([0, 0, 0]), gamma=gamma)
    torch.testing.assert_close(losses, torch.tensor([0.0, 0.0, 200.0]))
    torch.testing.assert_close(slope, torch.tensor([[0.0, 0, 0], [0, 0, 0], [-1, 0, 1]]))


def test_the_trimmed_cross_entropy_by_hand() -> None:
    trimmed = find("loss", "trimmed_cross_entropy")
    logits, labels = Z[[0, 0, 0]], torch.tensor([0, 1, 2])  # .407606, 1.407606, 2.407606
    losses, slope = slopes(trimmed, logits, labels, share=1 / 3)
    assert float(losses.mean()) == pytest.approx(0.907606, abs=1e-6)
    _, usual = slopes(find("loss", "cross_entropy"), logits, labels)
    torch.testing.assert_close(slope, usual * torch.tensor([[1.5], [1.5], [0]]))
    assert float(slopes(trimmed, logits, labels, share=1.0)[0].mean()) == pytest.approx(0.407606, abs=1e-6)
    alike = slopes(trimmed, Z[[0, 0, 0, 0]], torch.tensor([1, 1, 1, 1]), share=0.5)[0]
    assert (alike > 0).tolist() == [True, True, False, False]  # of equal losses the earlier


# What every loss owes


@each
def test_its_evidence_and_source_are_told(loss: Entry) -> None:
    path, _, name = loss.evidence.partition("::")
    assert name in {n.name for n in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(n, ast.FunctionDef)}
    assert loss.source.split(":")[0] in ("read", "secondary")


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_loss_is_a_number_for_each_sample_that_knows_of_no_other(loss: Entry, dtype: torch.dtype) -> None:
    """But for the one that looks at the whole minibatch, as its description says."""
    drawn = torch.Generator().manual_seed(2)
    logits, labels = 3 * torch.randn(12, 4, generator=drawn, dtype=dtype), torch.arange(12) % 4
    losses, slope = slopes(loss, logits, labels)
    assert losses.dtype == slope.dtype == dtype
    assert (losses >= 0).all()
    if loss.name == "trimmed_cross_entropy":
        return
    assert losses[slope.norm(dim=1) > 0].shape == (12,)
    for i in range(12):
        alone = slopes(loss, logits[i : i + 1], labels[i : i + 1])
        torch.testing.assert_close((alone[0][0], alone[1][0]), (losses[i], slope[i]))


@each
def test_a_loss_s_gradient_is_the_slope_of_its_values(loss: Entry) -> None:
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(3)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: Criterion((loss, loss.validate({})))(z, torch.arange(6) % 3), logits)


@each
def test_a_loss_is_finite_where_the_net_is_sure(loss: Entry) -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [0.0, 0.0, 0.0]]).repeat(3, 1)
    losses, slope = slopes(loss, logits, torch.arange(6) % 3)
    assert losses.isfinite().all()
    assert slope.isfinite().all()


# In the engines

CLASSES = 3


def federation() -> Federation:
    drawn = torch.Generator().manual_seed(1)
    labels = torch.randint(CLASSES, (90,), generator=drawn)
    images = torch.rand(CLASSES, 1, 4, 4, generator=drawn)[labels] * torch.rand(90, 1, 4, 4, generator=drawn)
    entry = find("partition", "dirichlet")
    data = Dataset(images, labels, images[:9], labels[:9], CLASSES)
    return Federation(data, (entry, entry.validate({"alpha": 0.4})), 5, 5)


def net() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 9), nn.ReLU(), nn.Linear(9, CLASSES))


def trained(name: str, local: Local, *tasks: Task, **options: Any) -> Tensor:
    entry = find("engine", name)
    supply = {"model": net(), "federation": federation(), "local": local, "recipe": None}
    made: Engine = entry.call(supply, entry.validate(options))
    with parallel.using(2):
        return made.train(flatten(net()), Plan(5, 2, tasks)).updates


@each
@pytest.mark.parametrize("other", [{}, {"steps": 1}, {"reduction": "sum", "lr": 0.01}, {"optimizer": "adam"}], ids=str)
def test_both_engines_descend_on_it_and_stacks_change_no_bit(loss: Entry, other: dict[str, Any]) -> None:
    local = Local(batch_size=13, **{"lr": 0.1, "loss": loss.name, **other})
    tasks = tuple(map(Task, range(5)))
    exact = torch.stack([by_hand(loss, local, task) for task in tasks])
    together = trained("batched", local, *tasks, stack=3)
    assert ((trained("sequential", local, *tasks) - exact).norm(dim=1) < 1e-4 * exact.norm(dim=1)).all()
    assert ((together - exact).norm(dim=1) < 1e-4 * exact.norm(dim=1)).all()
    for task in tasks:
        assert torch.equal(trained("batched", local, task, stack=2)[0], together[task.client])


def by_hand(loss: Entry, local: Local, task: Task) -> Tensor:
    """The same in float64, with the loss's own function."""
    net64, shard = net().double(), federation().shard(task.client)
    optimizer = local.optimizer_for(list(net64.parameters()))
    for batch in batches(Plan(5, 2, ()).batch_stream(task), len(shard), local):
        rows = shard.index[torch.from_numpy(batch)]
        optimizer.zero_grad()
        losses = loss.function(net64(shard.images[rows].double()), shard.labels[rows])
        (losses.mean() if local.reduction == "mean" else losses.sum()).backward()
        optimizer.step()
    return flatten(net64) - flatten(net().double())


def test_attackers_may_have_a_loss_of_their_own() -> None:
    drill = Drill(local={"loss": {"name": "generalised_cross_entropy", "q": 0.3}})
    local = Local(batch_size=13, loss={"name": "generalised_cross_entropy", "q": 0.3})
    drilled, usual = trained("batched", Local(batch_size=13), Task(0, drill=drill), Task(0))
    assert torch.equal(drilled, trained("batched", local, Task(0))[0])
    assert not torch.equal(drilled, usual)


# In a configuration


def test_the_hash_knows_the_loss_and_is_what_it_was_without_one() -> None:
    def hash(**local: Any) -> str:
        return parse({**TABLE, "clients": {"count": 4, "local": local}}).hash

    assert hash() == hash(loss="cross_entropy") == hash(loss="mean") == hash(reduction="mean") == "a6f82017d87a"
    assert hash(loss="sum") == hash(reduction="sum")
    assert parse(TABLE).hash == "6aa4341a2a70"
    assert len({hash(), hash(reduction="sum"), hash(loss="generalised_cross_entropy"), parse(TABLE).hash}) == 4
    assert "clients.local.loss" in parse(TABLE).components


def test_a_wrong_option_of_a_loss_is_refused() -> None:
    table = {**TABLE, "clients": {"local": {"loss": {"name": "generalised_cross_entropy", "q": 1.5}}}}
    with pytest.raises(ConfigError, match=r"clients.local.loss: generalised_cross_entropy.q = 1.5"):
        parse(table)
    with pytest.raises(ConfigError, match="there is no loss 'focale'"):
        parse({**TABLE, "clients": {"local": {"loss": "focale"}}})


OWN = """
from fedpoison import loss

@loss()
def square(logits, labels, *, weight: float = 1.0):
    "The squared distance of the probabilities from the label."
    p = logits.softmax(dim=1)
    p = p.clone()
    p[range(len(labels)), labels] -= 1
    return weight * (p**2).sum(dim=1)

@loss()
def mean(logits, labels):
    "One number for all."
    return (logits**2).mean()

@loss()
def cut(logits, labels):
    "No gradient is left."
    return logits.detach().sum(dim=1)
"""


@pytest.mark.parametrize("engine", ["batched", "sequential", "flower"])
def test_a_loss_of_a_users_file(tmp_path: Path, engine: str) -> None:
    (tmp_path / "own.py").write_text(OWN)
    local = {"lr": 0.5, "loss": {"name": "own.py:square", "weight": 2.0}}
    table = {**TABLE, "rounds": 4, "engine": engine, "clients": {"count": 4, "local": local}}
    records = simulate(parse(table, tmp_path), tmp_path).records()
    assert records[-1]["accuracy"] > records[0]["accuracy"] + 0.1
    for wrong, says in (("mean", r"must return a loss for each of \d+ samples, not \(\)"), ("cut", "no gradient")):
        table["clients"]["local"] = {"loss": f"own.py:{wrong}"}
        with pytest.raises((AlgorithmError, RuntimeError), match=says):
            simulate(parse(table, tmp_path), tmp_path)


def test_runs_from_before_say_what_their_loss_is() -> None:
    then = {"rounds": 3, "clients": {"count": 4, "local": {"lr": 0.1, "loss": "sum"}}}
    now = {"rounds": 3, "clients": {"count": 4, "local": {"lr": 0.1, "loss": {"name": "cross_entropy"}}}}
    now["clients"]["local"]["reduction"] = "sum"  # type: ignore[index]
    assert former.config(then) == now
    assert former.config(now) == now
    assert former.config({"rounds": 3}) == {"rounds": 3}
    assert parse(TABLE).table()["clients"]["local"]["loss"] == {"name": "generalised_cross_entropy", "q": 0.5}


def test_a_table_shows_a_run_from_before_beside_one_of_now(tmp_path: Path) -> None:
    import tomli_w

    from fedpoison.runs.frame import load

    table = {**TABLE, "clients": {"count": 4}}
    first = simulate(parse(table), tmp_path)
    config, _ = first.described()
    config["clients"]["local"]["loss"] = config["clients"]["local"].pop("reduction")
    (first.path / "config.toml").write_text(tomli_w.dumps(config))
    simulate(parse({**table, "seed": 1}), tmp_path)
    runs = load(tmp_path / "lossy")
    assert not [name for name in runs.frame().columns if "loss." in name or "reduction" in name]


def test_neither_engine_calls_the_generalised_one_where_it_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Criterion((find("loss", "cross_entropy"), {})).usual
    assert not Criterion((generalised_cross_entropy.entry, {"q": 0.0})).usual  # type: ignore[attr-defined]
