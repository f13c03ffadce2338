"""Nets as vectors: what travels and what stays, which nets are refused, and where their first values come from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedpoison.clients.federation import Shard
from fedpoison.clients.training import Local, train_client
from fedpoison.common import parallel
from fedpoison.common.errors import ConfigError
from fedpoison.common.seeding import Stream
from fedpoison.config.config import parse
from fedpoison.contract.lookup import entries, find
from fedpoison.data.digits import digits
from fedpoison.models.dropout import with_streams
from fedpoison.models.vector import check_net, flatten, load, travelling
from fedpoison.round import play
from fedpoison.runs.world import build

SHAPE = (1, 8, 8)


def ours(name: str, **options: Any) -> nn.Module:
    entry = find("model", name)
    vocabulary = 30 if "vocabulary" in entry.asks else None
    shown = {"input_shape": SHAPE, "n_classes": 10, "vocabulary": vocabulary}
    return with_streams(entry.call(shown, entry.validate(options)))


def table(**changes: Any) -> dict[str, Any]:
    return {"name": "t", "rounds": 1, "data": {"name": "digits"}, "clients": {"count": 4}, **changes}


# The nets


@pytest.mark.parametrize("name", entries("model"))
def test_every_net_passes_its_own_check(name: str) -> None:
    if "vocabulary" in find("model", name).asks:
        check_net(ours(name), (12,), 10, vocabulary=30)
    else:
        check_net(ours(name), SHAPE, 10)


@pytest.mark.parametrize(
    ("name", "options", "d"),
    [
        ("logistic", {}, 65 * 10),
        ("mlp", {"hidden": []}, 65 * 10),
        ("mlp", {"hidden": [7]}, 65 * 7 + 8 * 10),
        ("mlp", {"hidden": [7, 5]}, 65 * 7 + 8 * 5 + 6 * 10),
        ("cnn", {"channels": [2, 3], "hidden": 4}, 26 * 2 + 51 * 3 + 13 * 4 + 5 * 10),
    ],
)
def test_a_net_has_the_parameters_of_its_shape(name: str, options: dict[str, Any], d: int) -> None:
    assert flatten(ours(name, **options)).shape == (d,)


@pytest.mark.parametrize("shape", [(3, 8, 12), (30,)])
def test_dense_nets_take_any_shape(shape: tuple[int, ...]) -> None:
    for name in ("logistic", "mlp"):
        check_net(find("model", name).function(shape, 4), shape, 4)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((30,), r"cnn takes samples of shape \(channels, height, width\), these are \(30,\)"), ((1, 3, 8), "2 poolings")],
)
def test_cnn_says_which_samples_it_cannot_take(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find("model", "cnn").function(shape, 10)


# The vector


@settings(derandomize=True, deadline=None, max_examples=25)
@given(hidden=st.lists(st.integers(1, 5), max_size=3), seed=st.integers(0, 99))
def test_load_and_flatten_are_each_others_inverse(hidden: list[int], seed: int) -> None:
    net = ours("mlp", hidden=hidden)
    params = torch.randn(len(flatten(net)), generator=torch.Generator().manual_seed(seed))
    before = params.clone()
    load(net, params)
    assert torch.equal(flatten(net), before)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert torch.equal(params, before)  # a copy, not a view


def test_the_vector_is_a_copy_in_the_order_of_the_parameters() -> None:
    net = ours("mlp", hidden=[3])
    params = flatten(net)
    assert torch.equal(params, torch.cat([p.flatten() for _, p in net.named_parameters()]))
    assert not params.requires_grad
    params.zero_()
    assert flatten(net).abs().sum() > 0


@pytest.mark.parametrize("length", [0, 649, 651])
def test_a_vector_of_another_length_is_not_loaded(length: int) -> None:
    net = ours("logistic")
    before = flatten(net)
    with pytest.raises((ValueError, RuntimeError)):
        load(net, torch.zeros(length))
    assert torch.equal(flatten(net), before)


class Mixed(nn.Module):
    """A trained layer, a frozen one, a constant buffer and an integer parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(64, 5).requires_grad_(False)
        self.trained = nn.Linear(5, 10)
        self.register_buffer("mean", torch.full((64,), 0.5))
        self.count = nn.Parameter(torch.tensor([3]), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.trained(torch.relu(self.frozen(images.flatten(1) - self.mean)))


def test_only_what_is_trained_travels() -> None:
    net = Mixed()
    stays = {name: value.clone() for name, value in net.state_dict().items() if not name.startswith("trained")}
    assert sum(p.numel() for p in travelling(net)) == 60
    assert torch.equal(flatten(net), torch.cat([net.trained.weight.flatten(), net.trained.bias]))
    load(net, torch.zeros(60))
    assert (net.trained.weight == 0).all()
    assert set(stays) == {"frozen.weight", "frozen.bias", "mean", "count"}
    for name, value in stays.items():
        assert torch.equal(net.state_dict()[name], value)


def test_training_leaves_frozen_parameters_and_buffers_alone() -> None:
    net, data = Mixed(), digits()
    stays = {name: value.clone() for name, value in net.state_dict().items() if not name.startswith("trained")}
    shard = Shard(data.train_images, data.train_labels, torch.arange(50))
    update = train_client(net, flatten(net), shard, Stream(0, "batches"), Local(weight_decay=0.1))
    assert update.shape == (60,)
    assert (update != 0).any()
    for name, value in stays.items():
        assert torch.equal(net.state_dict()[name], value)


# What is refused


class Lost(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images)


class Gives(Lost):
    """Logits in something else, as nets with outputs beside them give them."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self._wrap = wrap

    def forward(self, images: Tensor) -> Any:
        return self._wrap(self.layer(images.flatten(1)))


def half(dtype: torch.dtype) -> nn.Module:
    """A net that takes and gives float32 and computes in another type."""
    net = Gives(lambda logits: logits)
    net.layer.to(dtype)
    net.layer.register_forward_pre_hook(lambda _, given: (given[0].to(dtype),))
    return net


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (Gives(lambda logits: (logits, logits)), r"must give logits, a tensor \[samples, 10\]; it gives a tuple$"),
        (Gives(lambda logits: {"logits": logits, "aux": logits}), r"it gives a dict of logits, aux$"),
        (half(torch.bfloat16), r"updates must be float32 or float64, and the model's parameters are torch.bfloat16"),
        (half(torch.float16), r"updates must be float32 or float64, and the model's parameters are torch.float16"),
        (nn.Sequential(nn.Flatten()), "no trainable floating-point parameters"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).requires_grad_(False),
            "no trainable floating-point parameters",
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 9)), r"gives \(2, 9\) for 2 samples, \(2, 10\) is needed"),
        (Lost(), r"cannot take samples of shape \(1, 8, 8\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(63, 10)), r"cannot take samples of shape \(1, 8, 8\)"),
    ],
)
def test_a_net_that_does_not_fit_is_refused(net: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_net(net, SHAPE, 10)


def normed(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.Flatten(), nn.Linear(144, 10))


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4, momentum=None)])
def test_running_statistics_are_refused_with_advice(norm: nn.Module) -> None:
    with pytest.raises(
        ValueError, match=r"changes the model's buffers 1\.running_mean.*use GroupNorm, or BatchNorm with"
    ):
        check_net(normed(norm), SHAPE, 10)


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4, affine=True),
        nn.LayerNorm((4, 6, 6)),
    ],
)
def test_norms_without_running_statistics_are_taken(norm: nn.Module) -> None:
    check_net(normed(norm), SHAPE, 10)


def test_a_constant_buffer_is_taken() -> None:
    check_net(Mixed(), SHAPE, 10)


@pytest.mark.parametrize("values", [[torch.nan, 1.0], [torch.inf, -torch.inf], [True, False], [3, 4]])
def test_a_constant_buffer_may_hold_anything_and_must_not_change(values: list[Any]) -> None:
    net = Gives(lambda logits: logits)
    net.register_buffer("unused", torch.tensor(values))
    check_net(net, SHAPE, 10)

    def turn(*_: Any) -> None:
        net.unused.copy_(net.unused.flip(0))

    net.layer.register_forward_hook(turn)
    with pytest.raises(ValueError, match="changes the model's buffers unused"):
        check_net(net, SHAPE, 10)


# The first values


def flat(**changes: Any) -> Tensor:
    return build(parse(table(**changes)))[1].params


@pytest.mark.parametrize("model", ["logistic", "mlp", {"name": "cnn", "channels": [2], "hidden": 3}])
def test_a_seed_gives_the_same_net_and_another_seed_another(model: Any) -> None:
    torch.manual_seed(1)
    first = flat(model=model, seed=5)
    torch.manual_seed(2)
    assert torch.equal(flat(model=model, seed=5), first)
    assert not torch.equal(flat(model=model, seed=6), first)


def test_building_a_world_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    build(parse(table(threat={"malicious": 1, "data": "badnets"})))
    assert torch.equal(torch.get_rng_state(), before)


# A user's net

BUILD = """
from torch import nn

def build(input_shape, n_classes, *, width: int = 6):
    \"\"\"A small net.\"\"\"
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Tanh(), nn.Linear(width, n_classes))
"""
DECORATED = BUILD.replace("def build", "@model()\ndef build").replace(
    "import nn", "import nn\nfrom fedpoison import model"
)


@pytest.fixture
def user_model(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def write(source: str, **changes: Any) -> dict[str, Any]:
        (tmp_path / "net.py").write_text(source)
        return {"table": table(**{"model": "net.py:build", **changes}), "folder": tmp_path}

    return write


@pytest.mark.parametrize("source", [BUILD, DECORATED])
def test_a_users_net_is_found_by_its_file(source: str, user_model: Callable[..., dict[str, Any]]) -> None:
    config = parse(**user_model(source))
    assert config.model.entry.file_hash
    world, state = build(config)
    assert state.params.shape == (65 * 6 + 7 * 10,)
    assert torch.equal(build(config)[1].params, state.params)
    _, record = play(state, world)
    assert record["accuracy"] > 0
    wider = parse(**user_model(source, model={"name": "net.py:build", "width": 9}))
    assert build(wider)[1].params.shape == (65 * 9 + 10 * 10,)
    assert wider.hash != config.hash


def test_lazy_layers_make_their_parameters_from_the_seed(user_model: Callable[..., dict[str, Any]]) -> None:
    source = BUILD.replace("nn.Linear(64, width)", "nn.LazyLinear(width)")
    one, again, other = (build(parse(**user_model(source, seed=seed)))[1].params for seed in (1, 1, 2))
    assert one.shape == (65 * 6 + 7 * 10,)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (BUILD.replace("nn.Flatten(), ", ""), "the model cannot take samples of shape"),
        (BUILD.replace("return nn", "return 3 or nn"), "a model must be an nn.Module, this is a int"),
        (BUILD.replace("nn.Tanh()", "nn.BatchNorm1d(width)"), "use GroupNorm"),
    ],
)
def test_a_users_net_that_does_not_fit_is_refused(
    source: str, message: str, user_model: Callable[..., dict[str, Any]]
) -> None:
    config = parse(**user_model(source))
    with pytest.raises(ValueError, match=message):
        build(config)


@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        (BUILD, "net.py:make", "has no model 'make'"),
        (BUILD, "nut.py:build", "there is no file"),
        (BUILD + "\n1 / 0\n", "net.py:build", "cannot be imported: ZeroDivisionError"),
        (BUILD.replace("n_classes,", "classes,"), "net.py:build", "nothing supplies classes"),
        (BUILD.replace("width: int", "width"), "net.py:build", "need a type annotation"),
        (BUILD, "net.py:nn", "model"),
        ("build = 3", "net.py:build", "model"),
        (BUILD + "\nready = build((64,), 10)\n", "net.py:ready", "a net that is built already .*give a function"),
        (BUILD, {"name": "net.py:build", "width": "wide"}, "build.width = 'wide'"),
        (BUILD, {"name": "net.py:build", "wide": 3}, "build has no option 'wide'; did you mean 'width'"),
    ],
)
def test_what_is_wrong_with_a_users_net_is_said_with_the_configuration(
    source: str, name: Any, message: str, user_model: Callable[..., dict[str, Any]]
) -> None:
    given_table = user_model(source, model=name)
    with pytest.raises(ConfigError, match=message):
        parse(**given_table)


def test_a_class_is_a_net_too_and_is_not_taken_for_its_base(user_model: Callable[..., dict[str, Any]]) -> None:
    source = """
from torch import nn

class Small(nn.Sequential):
    \"\"\"Logistic regression.\"\"\"
    def __init__(self, input_shape, n_classes):
        super().__init__(nn.Flatten(), nn.Linear(64, n_classes))

class Large(Small):
    \"\"\"A hidden layer more.\"\"\"
    def __init__(self, input_shape, n_classes):
        nn.Sequential.__init__(self, nn.Flatten(), nn.Linear(64, 3), nn.ReLU(), nn.Linear(3, n_classes))
"""
    small, large = (build(parse(**user_model(source, model=f"net.py:{name}")))[1] for name in ("Small", "Large"))
    assert small.params.shape == (650,)
    assert large.params.shape == (65 * 3 + 4 * 10,)


DROPOUT = BUILD.replace("nn.Tanh()", "nn.Dropout(0.5)")


def test_a_net_that_draws_random_numbers_is_refused_or_reproducible(user_model: Callable[..., dict[str, Any]]) -> None:
    def outcome(seed: int) -> str | list[float]:
        torch.manual_seed(seed)
        with parallel.using(2):
            try:
                world, state = build(parse(**user_model(DROPOUT)))
            except ValueError as refusal:
                return str(refusal)
            return play(state, world)[0].params.tolist()

    assert outcome(1) == outcome(2)
