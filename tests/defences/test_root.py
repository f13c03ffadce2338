"""The server's own samples, and the update that a rule may ask to be trained on them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fedpoison import aggregate, aggregator
from fedpoison.clients.training import Local, train_client
from fedpoison.common.errors import ConfigError
from fedpoison.common.seeding import Stream
from fedpoison.config.config import parse
from fedpoison.round import play
from fedpoison.runs.world import build
from fedpoison.types import Gram, Update, Weights

RULES = '''
from fedpoison import aggregator
from fedpoison.types import Gram, Update, Weights
import torch

@aggregator()
def trust(root_update: Update) -> Update:
    """The server's own update."""
    return root_update

@aggregator(references=("root_update",))
def trust_by_weight(gram: Gram) -> Weights:
    """All weight on the last row, the server's."""
    weights = torch.zeros(len(gram), dtype=torch.float64)
    weights[-1] = 1
    return weights
'''


def table(folder: Path, rule: str, **data: Any) -> dict[str, Any]:
    (folder / "rules.py").write_text(RULES)
    return {
        "name": "t",
        "rounds": 2,
        "data": {"name": "digits", **data},
        "model": "mlp",
        "clients": {"count": 4, "local": {"steps": 3}, "momentum": 0.5},
        "defence": {"aggregator": f"rules.py:{rule}"},
    }


@pytest.mark.parametrize("rule", ["trust", "trust_by_weight"])
@pytest.mark.parametrize("samples", [30, 900])
def test_the_root_update_is_trained_on_the_root_set(tmp_path: Path, rule: str, samples: int) -> None:
    world, state = build(parse(table(tmp_path, rule, root={"samples": samples}), tmp_path))
    after, record = play(state, world)
    assert not record["skipped"]
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 200), torch.nn.ReLU(), torch.nn.Linear(200, 10))
    expected = train_client(net, state.params, world.federation.root, Stream(0, "batches", 1, 4), Local(steps=3))
    assert len(world.federation.root) == samples
    assert torch.allclose(after.params - state.params, expected, atol=1e-5)


def test_a_rule_that_needs_a_root_set_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trust needs the server's own samples: give data\.root"):
        parse(table(tmp_path, "trust"), tmp_path)


def test_a_root_update_that_is_not_finite_skips_the_round(tmp_path: Path) -> None:
    world, state = build(parse(table(tmp_path, "trust", root={"samples": 30}), tmp_path))
    broken = state.__class__(round=0, params=state.params * float("nan"), previous=state.previous)
    _, record = play(broken, world)
    assert record["skipped"]


def test_from_python_the_root_update_is_given() -> None:
    @aggregator(references=("root_update",))
    def half(gram: Gram, root_update: Update) -> Weights:
        """Half on the first client, half on the server."""
        weights = torch.zeros(len(gram), dtype=torch.float64)
        weights[[0, -1]] = 0.5
        assert float(gram[-1, -1]) >= 0
        return weights

    updates = torch.randn(5, 7)
    verdict = aggregate(half, updates, root_update=torch.ones(7))
    assert torch.allclose(verdict.update, (updates[0] + 1) / 2, atol=1e-6)
    with pytest.raises(ValueError, match="half needs root_update"):
        aggregate(half, updates)
