"""What only some rules are supplied with: layers, a base rule, a probe of the root set, and the zero model; and the
results that are no plain average: noisy weights, and an aggregate with the clients it is made of."""

import re
import statistics
from pathlib import Path
from typing import Any

import making
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedpoison import aggregate, aggregator
from fedpoison.api import chain
from fedpoison.common.seeding import Stream
from fedpoison.config.config import ConfigError, parse
from fedpoison.models.vector import flatten, layers_of
from fedpoison.round import play
from fedpoison.runs.world import build
from fedpoison.types import Base, Chosen, Gram, Layer, Noisy, Norms, Probe, Sizes, Update, Updates, Weights

RULES = '''
from fedpoison import aggregator
from fedpoison.types import Base, Chosen, Probe, Update, Updates
import torch

@aggregator(decides=True)
def best_alone(updates: Updates, probe: Probe) -> Chosen:
    """The one update with the least loss on the root set."""
    losses = torch.tensor([probe(row)[0] for row in updates])
    kept = torch.arange(len(updates)) == losses.argmin()
    return Chosen(updates[int(losses.argmin())], kept)

@aggregator()
def halves(updates: Updates, f: int, base: Base, *, parts: int = 2) -> Update:
    """The base rule on every other coordinate, then on the rest."""
    result = torch.empty_like(updates[0])
    for part in range(parts):
        result[part::parts] = base(updates[:, part::parts], f)
    return result
'''


def rows(n: int, d: int = 12, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return making.rows(n, d, seed, dtype)


def table(folder: Path, rule: str, data: dict[str, Any] | None = None, **defence: Any) -> dict[str, Any]:
    (folder / "rules.py").write_text(RULES)
    return {
        "name": "t",
        "rounds": 1,
        "data": {"name": "digits", **(data or {})},
        "model": "mlp",
        "clients": {"count": 5, "local": {"steps": 2}},
        "defence": {"aggregator": f"rules.py:{rule}", **defence},
    }


# ---- base


@aggregator()
def halves(updates: Updates, f: int, base: Base, *, parts: int = 2) -> Update:
    """The base rule on every other coordinate, then on the rest."""
    result = torch.empty_like(updates[0])
    for part in range(parts):
        result[part::parts] = base(updates[:, part::parts], f)
    return result


@aggregator(base_rows=lambda n, f, copies: n - f + copies)
def fewer(updates: Updates, f: int, base: Base, *, copies: int = 0) -> Update:
    """The base rule on all but the first f, the last repeated."""
    return base(torch.cat([updates[f:], updates[-1:].repeat(copies, 1)]), f)


@pytest.mark.parametrize("base", ["mean", "median", "trimmed_mean", "geometric_median", "krum", "bulyan", "cge"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_base_gives_what_the_rule_alone_would(base: str, dtype: torch.dtype) -> None:
    updates = rows(11, dtype=dtype)
    result = aggregate(halves, updates, f=2, base=base).update
    for part in (0, 1):
        alone = aggregate(base, updates[:, part::2].contiguous(), f=2).update
        assert torch.equal(result[part::2], alone)


def test_a_base_has_options_of_its_own() -> None:
    updates = rows(9)
    three = aggregate(halves, updates, f=2, base={"name": "multi_krum", "m": 3}, parts=1)
    assert torch.equal(three.update, aggregate("multi_krum", updates, f=2, m=3).update)
    with pytest.raises(ValueError, match=re.escape("multi_krum.m = 0")):
        aggregate(halves, updates, base={"name": "multi_krum", "m": 0})


def test_the_rows_a_base_sees_count_the_same() -> None:
    """They may be made up, so that no client's size is theirs."""
    updates, sizes = rows(5), torch.arange(1.0, 6.0)
    result = aggregate(halves, updates, base={"name": "mean", "weighting": "sizes"}, sizes=sizes).update
    torch.testing.assert_close(result, updates.mean(dim=0))


def test_a_base_draws_from_the_round_s_stream() -> None:
    updates, base = rows(9, 40), {"name": "dnc", "dimensions": 5, "iterations": 1}
    first = aggregate(halves, updates, f=2, base=base, seed=4).update
    assert torch.equal(first, aggregate(halves, updates, f=2, base=base, seed=4).update)
    alone = aggregate("dnc", updates[:, ::2].contiguous(), f=2, seed=4, dimensions=5, iterations=1).update
    assert torch.equal(first[::2], alone)
    assert not torch.equal(first, aggregate(halves, updates, f=2, base=base, seed=5).update)


def test_a_base_may_not_be_another_s_rows_and_clients() -> None:
    for base, word in (("centered_clipping", "previous"), ("foolsgold", "client_ids"), (halves, "base")):
        name = base if isinstance(base, str) else base.__name__
        sentence = f"halves shows its base rows that no client sent, and {name} asks for {word}"
        with pytest.raises(ValueError, match=sentence):
            aggregate(halves, rows(5), base=base)


def test_a_rule_built_around_another_needs_one_and_no_other_rule_takes_one() -> None:
    with pytest.raises(ValueError, match=r"halves is built around another rule: give defence\.base"):
        aggregate(halves, rows(5))
    with pytest.raises(ValueError, match="base = 'krum' is for rules built around another; mean is not"):
        aggregate("mean", rows(5), base="krum")
    with pytest.raises(ValueError, match="there is no aggregator 'krun'"):
        aggregate(halves, rows(5), base="krun")


def test_a_base_s_bound_is_checked_on_the_rows_that_it_gets() -> None:
    aggregate(halves, rows(7), f=2, base="krum")
    with pytest.raises(ValueError, match=re.escape("in halves: krum needs n > 2*f + 2: n = 6, f = 2")):
        aggregate(halves, rows(6), f=2, base="krum")
    aggregate(fewer, rows(9), f=2, base="krum")
    with pytest.raises(ValueError, match=re.escape("in fewer: krum needs n > 2*f + 2: n = 6, f = 2")):
        aggregate(fewer, rows(8), f=2, base="krum")
    aggregate(fewer, rows(8), f=2, base="krum", copies=1)
    with pytest.raises(ValueError, match=re.escape("in halves: krum needs n > 2*f + 2: n = 5, f = 2")):
        aggregate(halves, rows(10), f=2, base="krum", pre=["bucketing"])


def test_a_round_with_too_few_rows_for_the_base_is_skipped() -> None:
    updates = rows(7)
    updates[3] = torch.nan
    verdict = aggregate(halves, updates, f=2, base="krum")  # the one set aside is taken for one of the two
    assert not verdict.skipped
    updates[4:6] = torch.nan
    verdict = aggregate(fewer, updates, f=1, base={"name": "multi_krum", "m": 5})
    assert verdict.skipped
    assert verdict.events[-1].detail == "in fewer: multi_krum needs m is None or m <= n: n = 4, f = 0, m = 5"


def test_a_base_neither_gets_nor_changes_the_clients_own_rows() -> None:
    @aggregator()
    def greedy(updates: Updates) -> Update:
        """Change what is seen."""
        return updates.zero_()[0]

    with pytest.raises(ValueError, match="greedy changed"):
        aggregate(halves, rows(4), base=greedy)


def test_in_a_configuration_the_base_stands_beside_the_aggregator(tmp_path: Path) -> None:
    config = parse(table(tmp_path, "halves", base="krum"), tmp_path)
    assert config.defence.rule == "rules.py:halves(krum)"
    assert config.labels()["rule"] == "rules.py:halves(krum)"
    assert config.table()["defence"]["base"] == {"name": "krum"}
    assert parse(config.table()).hash == config.hash
    given = {"name": "multi_krum", "m": 2}
    other = parse(table(tmp_path, "halves", base=given, pre=["nnm"]), tmp_path)
    assert other.defence.rule == "nnm+rules.py:halves(multi_krum)"
    assert other.table()["defence"]["base"] == given
    assert len({config.hash, other.hash, parse(table(tmp_path, "halves", base="median"), tmp_path).hash}) == 3


def test_a_user_s_base_is_hashed_by_its_content(tmp_path: Path) -> None:
    hashes = set()
    for place, share in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        folder = tmp_path / place
        folder.mkdir()
        (folder / "own.py").write_text(
            "from fedpoison import aggregator\nfrom fedpoison.types import Update, Updates\n\n"
            '@aggregator()\ndef mine(updates: Updates) -> Update:\n    """The first."""\n'
            f"    return {share} * updates[0]\n"
        )
        hashes.add(parse(table(folder, "halves", base="own.py:mine"), folder).hash)
    assert len(hashes) == 2


@pytest.mark.parametrize(
    ("rule", "defence", "sentence"),
    [
        ("rules.py:halves", {}, r"halves is built around another rule: give defence\.base"),
        ("mean", {"base": "krum"}, "base = 'krum' is for rules built around another; mean is not"),
        ("rules.py:halves", {"base": "krun"}, "did you mean 'krum'"),
        ("rules.py:halves", {"base": "krum", "f": 2}, r"in halves: krum needs n > 2\*f \+ 2: n = 5, f = 2"),
        ("rules.py:halves", {"base": "centered_clipping"}, "centered_clipping asks for previous"),
    ],
)
def test_what_is_wrong_with_a_base_is_said_before_anything_runs(
    tmp_path: Path, rule: str, defence: dict[str, Any], sentence: str
) -> None:
    given = {**table(tmp_path, "halves"), "defence": {"aggregator": rule, **defence}}
    with pytest.raises(ConfigError, match=sentence):
        parse(given, tmp_path)


def test_a_run_with_a_base_plays(tmp_path: Path) -> None:
    around, alone = table(tmp_path, "halves", base="median"), table(tmp_path, "halves")
    alone["defence"] = {"aggregator": "median"}
    results = []
    for given in (around, alone):
        world, state = build(parse(given, tmp_path))
        after, record = play(state, world)
        assert not record["skipped"]
        results.append(after.params)
    assert torch.equal(results[0], results[1])  # the median of each coordinate is its own


# ---- probe


@aggregator(decides=True)
def best_alone(updates: Updates, probe: Probe) -> Chosen:
    """The one update with the least loss on the root set."""
    losses = torch.tensor([probe(row)[0] for row in updates])
    kept = torch.arange(len(updates)) == losses.argmin()
    return Chosen(updates[int(losses.argmin())], kept)


def test_a_probe_tries_the_moved_model_on_the_root_set(tmp_path: Path) -> None:
    world, state = build(parse(table(tmp_path, "best_alone", {"root": {"samples": 40}}), tmp_path))
    assert world.probe is not None
    probe, root = world.probe.at(state.params), world.federation.root
    assert len(root) == 40
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 200), torch.nn.ReLU(), torch.nn.Linear(200, 10))
    for seed in range(3):
        update = 0.1 * rows(1, len(state.params), seed, torch.float32)[0]
        torch.nn.utils.vector_to_parameters(state.params + update, net.parameters())
        logits, labels = net(root.images[root.index]), root.labels[root.index]
        loss, error = probe(update)
        assert loss == pytest.approx(cross_entropy(logits, labels).item(), rel=1e-5)
        assert error == (logits.argmax(dim=1) != labels).double().mean()


def test_a_round_with_a_probe_moves_by_the_chosen_client_s_update(tmp_path: Path) -> None:
    world, state = build(parse(table(tmp_path, "best_alone", {"root": {"samples": 40}}), tmp_path))
    after, record = play(state, world)
    assert not record["skipped"]
    assert len(record["flagged"]) == 4
    assert world.probe is not None
    moved, stayed = (world.probe.at(params)(torch.zeros_like(params))[0] for params in (after.params, state.params))
    assert moved < stayed
    again, _ = play(state, world)
    assert torch.equal(again.params, after.params)


def test_a_rule_with_a_probe_needs_a_root_set_and_no_training_on_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"best_alone needs the server's own samples: give data\.root"):
        parse(table(tmp_path, "best_alone"), tmp_path)
    world, _ = build(parse(table(tmp_path, "best_alone", {"root": {"samples": 40}}), tmp_path))
    assert not world.defence.trains_root
    with pytest.raises(ValueError, match="best_alone needs probe"):
        aggregate(best_alone, rows(4))
    verdict = aggregate(best_alone, rows(4), probe=lambda update: (float(update.norm()), 0.0))
    assert verdict.flagged is not None
    assert (~verdict.flagged).nonzero().flatten().tolist() == [int(rows(4).norm(dim=1).argmin())]


def test_without_a_probe_a_round_is_skipped_and_says_so() -> None:
    from fedpoison.defences.situation import Situation

    nothing = torch.zeros(12, dtype=torch.float64)
    ids, sizes = torch.arange(4), torch.ones(4, dtype=torch.float64)
    stream = Stream(0, "defence", 1)
    situation = Situation(f=0, client_ids=ids, sizes=sizes, params=nothing, previous=nothing, stream=stream, state={})
    verdict = chain(best_alone)(rows(4), situation)
    assert verdict.skipped
    assert verdict.events[-1].detail == "best_alone needs a probe of the root set, and there is none"


# ---- layers


_layers: list[tuple[Layer, ...]] = []


@aggregator()
def looker(updates: Updates, layers: tuple[Layer, ...]) -> Update:
    """Remember the layers, pass the first on."""
    _layers.append(layers)
    return updates[0]


def test_layers_say_which_columns_are_which_parameter_s() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(8, 3))
    frozen = net[0].bias
    assert isinstance(frozen, Tensor)
    frozen.requires_grad_(False)
    vector, layers = flatten(net), layers_of(net)
    assert [(layer.name, layer.shape) for layer in layers] == [
        ("0.weight", (2, 1, 3, 3)),
        ("2.weight", (3, 8)),
        ("2.bias", (3,)),
    ]
    for layer in layers:
        assert torch.equal(vector[layer.columns].view(layer.shape), net.get_parameter(layer.name))
    assert [layer.columns for layer in layers] == [slice(0, 18), slice(18, 42), slice(42, 45)]


def test_a_rule_gets_the_layers_of_the_run_s_net_or_those_given(tmp_path: Path) -> None:
    world, state = build(parse(table(tmp_path, "halves", base="mean"), tmp_path))
    assert [layer.shape for layer in world.layers] == [(200, 64), (200,), (10, 200), (10,)]
    assert world.layers[-1].columns.stop == len(state.params)
    given = (Layer("a", slice(0, 8), (2, 4)), Layer("b", slice(8, 12), (4,)))
    aggregate(looker, rows(3), layers=given)
    assert _layers[-1] == given
    aggregate(looker, rows(3))
    assert _layers[-1] == (Layer("all", slice(0, 12), (12,)),)


@pytest.mark.parametrize(
    "given",
    [
        [Layer("a", slice(0, 8), (8,))],
        [Layer("a", slice(0, 8), (8,)), Layer("b", slice(9, 12), (3,))],
        [Layer("b", slice(8, 12), (4,)), Layer("a", slice(0, 8), (8,))],
        [Layer("a", slice(0, 12), (3, 3))],
        [Layer("a", slice(0, 13), (13,))],
    ],
)
def test_layers_that_do_not_make_up_the_updates_are_refused(given: list[Layer]) -> None:
    with pytest.raises(ValueError, match="layers must follow one another through all 12 columns"):
        aggregate(looker, rows(3), layers=given)


# ---- noise


@aggregator(decides=True)
def noisy(sizes: Sizes, norms: Norms, *, deviation: float = 0.5) -> Noisy:
    """The mean of all but the first, with noise."""
    weights = torch.full_like(norms, 1 / (len(norms) - 1))
    weights[0] = 0
    return Noisy(weights, deviation)


def test_noise_has_the_deviation_said_and_comes_from_the_round_s_stream() -> None:
    updates = rows(4, 20_000)
    verdict = aggregate(noisy, updates, seed=3)
    noise = (verdict.update - updates[1:].mean(dim=0)).tolist()
    assert statistics.fmean(noise) == pytest.approx(0, abs=0.02)
    assert statistics.pstdev(noise) == pytest.approx(0.5, rel=0.02)
    wanted = torch.randn(20_000, generator=Stream(3, "defence", 1).torch(), dtype=torch.float64)
    torch.testing.assert_close(torch.tensor(noise, dtype=torch.float64), 0.5 * wanted)
    assert torch.equal(aggregate(noisy, updates, seed=3).update, verdict.update)
    others = [aggregate(noisy, updates, seed=3, round=2).update, aggregate(noisy, updates, seed=4).update]
    assert not any(torch.equal(other, verdict.update) for other in others)


def test_noise_leaves_credit_and_flags_as_they_are_and_may_be_none() -> None:
    verdict = aggregate(noisy, rows(4))
    assert verdict.weights is not None
    assert verdict.weights.tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])
    assert verdict.flagged is not None
    assert verdict.flagged.tolist() == [True, False, False, False]
    torch.testing.assert_close(aggregate(noisy, rows(4), deviation=0.0).update, rows(4)[1:].mean(dim=0))


def test_noise_does_not_depend_on_the_precision() -> None:
    single, double = (aggregate(noisy, rows(4, 500, dtype=t)).update for t in (torch.float32, torch.float64))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-5)


# ---- chosen


def test_who_is_not_chosen_is_flagged_unless_clients_were_mixed() -> None:
    probe = {"probe": lambda update: (float(update.norm()), 0.0)}
    updates = rows(6)
    updates[2] = torch.nan
    verdict = aggregate(best_alone, updates, **probe)
    assert verdict.weights is None
    assert verdict.flagged is not None
    best = int(updates.norm(dim=1).nan_to_num(torch.inf).argmin())
    assert (~verdict.flagged).nonzero().flatten().tolist() == [best]
    whole = rows(6)
    aggregate(best_alone, whole, **probe).update.fill_(7)
    assert torch.equal(whole, rows(6))
    assert aggregate(best_alone, rows(6), pre=["bucketing"], **probe).flagged is None
    clipped = aggregate(best_alone, rows(6), pre=["clipping"], **probe).flagged
    assert clipped is not None


# ---- the zero model


@aggregator(references=("origin", "zero_model"))
def models(gram: Gram) -> Weights:
    """Remember the inner products of whole models; the origin."""
    zero = gram[:, -1:]
    _products.append((gram - zero - zero.T + gram[-1, -1])[:-2, :-2])
    return torch.eye(len(gram), dtype=torch.float64)[-2]


_products: list[Tensor] = []


@pytest.mark.parametrize("pre", [(), ({"name": "clipping", "threshold": 2.0},)], ids=str)
def test_about_the_zero_model_inner_products_are_those_of_whole_models(pre: Any) -> None:
    updates, params = rows(5), 3 * rows(1, seed=9)[0]
    verdict = aggregate(models, updates, params=params, pre=pre)
    assert verdict.update.abs().max() == 0
    shortened = updates * (2.0 / updates.norm(dim=1, keepdim=True)).clamp(max=1) if pre else updates
    whole = params + shortened
    torch.testing.assert_close(_products[-1], whole @ whole.T)
