"""The published nets by their parameter counts, text, and dropout whose masks come from streams."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedpoison.clients.federation import Federation
from fedpoison.clients.training import Local, Plan, Task
from fedpoison.common import parallel
from fedpoison.common.seeding import Stream
from fedpoison.config.config import parse
from fedpoison.contract.lookup import find
from fedpoison.data import Dataset
from fedpoison.measures.evaluation import Evaluator
from fedpoison.models.dropout import StreamDropout, set_stream, with_streams
from fedpoison.models.vector import check_net, flatten
from fedpoison.round import play
from fedpoison.runs.world import build


def net(
    name: str, shape: tuple[int, ...], n_classes: int = 10, vocabulary: int | None = None, **options: Any
) -> nn.Module:
    entry = find("model", name)
    supply = {"input_shape": shape, "n_classes": n_classes, "vocabulary": vocabulary}
    made: nn.Module = entry.call(supply, entry.validate(options))
    return made


def batch_norm_twin(block: int, widths: list[int], blocks: int) -> int:
    """Parameters of a residual net counted layer by layer: 3×3 convolutions, two numbers a channel for each norm."""
    count = 9 * 3 * widths[0] + 2 * widths[0]
    before = widths[0]
    for stage, after in enumerate(widths):
        for i in range(blocks):
            count += 9 * before * after + 9 * after * after + 4 * after
            if i == 0 and stage:
                count += before * after + 2 * after
            before = after
    return count + before * 10 + 10


@pytest.mark.parametrize(
    ("name", "shape", "options", "count"),
    [
        ("cnn_dropout", (1, 28, 28), {}, 1_199_882),
        ("cnn", (1, 28, 28), {"padding": 0}, 16 * 26 + 32 * 401 + 513 * 128 + 1290),
        ("cnn", (1, 28, 28), {"padding": 0, "channels": [20, 50], "hidden": 500}, 431_080),
        ("resnet18", (3, 32, 32), {}, 11_173_962),
        ("resnet18", (3, 32, 32), {"groups": 2}, batch_norm_twin(2, [64, 128, 256, 512], 2)),
        ("resnet20", (3, 32, 32), {}, batch_norm_twin(3, [16, 32, 64], 3)),
    ],
)
def test_published_nets_have_their_number_of_parameters(
    name: str, shape: tuple[int, ...], options: dict[str, Any], count: int
) -> None:
    made = with_streams(net(name, shape, **options))
    assert len(flatten(made)) == count
    check_net(made, shape, 10)


def test_resnet20_is_of_the_size_that_is_known() -> None:
    assert 265_000 < len(flatten(net("resnet20", (3, 32, 32)))) < 280_000


@pytest.mark.parametrize("name", ["resnet18", "resnet20"])
def test_residual_nets_halve_the_picture_twice_or_thrice_and_say_what_does_not_fit(name: str) -> None:
    stages = [layer for layer in net(name, (3, 32, 32)).children() if type(layer).__name__ == "Block"]
    picture = torch.zeros(1, {"resnet18": 64, "resnet20": 16}[name], 32, 32)
    sizes = []
    for stage in stages:
        picture = stage(picture)
        sizes.append(picture.shape[-1])
    assert sizes == {"resnet18": [32, 32, 16, 16, 8, 8, 4, 4], "resnet20": [32] * 3 + [16] * 3 + [8] * 3}[name]
    with pytest.raises(ValueError, match="groups = 5 does not divide"):
        net(name, (3, 32, 32), groups=5)
    with pytest.raises(ValueError, match=r"shape \(channels, height, width\)"):
        net(name, (30,))


def test_cnn_dropout_says_what_it_cannot_take() -> None:
    for shape in ((30,), (1, 5, 9)):
        with pytest.raises(ValueError, match="pictures of at least 6 × 6"):
            net("cnn_dropout", shape)


# Text


TEXT = '''
import torch
from fedpoison import dataset
from fedpoison.data import Dataset

@dataset(licence="none")
def repeats() -> Dataset:
    """Short texts of 4 letters whose class is the first letter's."""
    tokens = torch.randint(4, (200, 6), generator=torch.Generator().manual_seed(0))
    return Dataset(tokens, tokens[:, -1].clone(), tokens[:50], tokens[:50, -1].clone(), 4, vocabulary=4)
'''


@pytest.mark.parametrize("engine", ["sequential", "batched"])
def test_an_lstm_learns_from_tokens(tmp_path: Path, engine: str) -> None:
    (tmp_path / "text.py").write_text(TEXT)
    table = {
        "name": "t",
        "rounds": 8,
        "data": {"name": "text.py:repeats", "validation": 0.1},
        "model": {"name": "lstm", "hidden": 16, "layers": 1},
        "engine": engine,
        "clients": {
            "count": 3,
            "held_out": 0.1,
            "local": {"epochs": 4, "lr": 0.02, "optimizer": "adam", "batch_size": 8},
        },
        "threat": {"malicious": 1, "data": {"name": "label_flip", "source": 1, "target": 2}},
        "defence": {"aggregator": "median"},
    }
    world, state = build(parse(table, tmp_path))
    for _ in range(8):
        state, record = play(state, world)
    assert record["accuracy"] > 0.8
    assert record["validation_accuracy"] is not None


def test_what_is_not_for_text_says_so(tmp_path: Path) -> None:
    (tmp_path / "text.py").write_text(TEXT)
    base = {"name": "t", "rounds": 1, "data": {"name": "text.py:repeats"}, "model": "lstm"}
    for changes, sentence in (
        ({"data": {**base["data"], "augment": {"flip": True}}}, "data.augment is for pictures"),  # type: ignore[dict-item]
        ({"data": {**base["data"], "normalise": {"mean": [0.0], "std": [1.0]}}}, "samples are tokens"),  # type: ignore[dict-item]
        ({"data": "digits"}, "lstm takes text"),
    ):
        with pytest.raises(ValueError, match=sentence):
            build(parse({**base, **changes}, tmp_path))


def test_tokens_and_clients_are_checked() -> None:
    tokens, labels = torch.tensor([[0, 3]]), torch.tensor([1])
    Dataset(tokens, labels, tokens, labels, 2, vocabulary=4, clients=torch.tensor([5]))
    with pytest.raises(ValueError, match="tokens go from 0 to 3, a vocabulary of 3 is 0 to 2"):
        Dataset(tokens, labels, tokens, labels, 2, vocabulary=3)
    with pytest.raises(ValueError, match=r"not torch\.int64 and torch\.int64"):
        Dataset(tokens.float(), labels, tokens, labels, 2, vocabulary=4)
    with pytest.raises(ValueError, match="one a train sample"):
        Dataset(tokens, labels, tokens, labels, 2, vocabulary=4, clients=torch.tensor([5, 6]))


# Dropout


def images(samples: int = 60) -> Dataset:
    drawn = torch.rand(samples, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return Dataset(drawn, torch.arange(samples) % 3, drawn[:9], torch.arange(9) % 3, 3)


def dropping(p: float) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inner = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Dropout2d(p), nn.Flatten())
        return with_streams(nn.Sequential(inner, nn.Dropout(p), nn.Linear(16, 3)))


def trained(p: float, engine: str, workers: int = 2, seed: int = 0, round: int = 1) -> Tensor:
    made, entry = dropping(p), find("engine", engine)
    clients = Federation(images(), (find("partition", "iid"), {}), 3, 0)
    supply = {"model": made, "federation": clients, "local": Local(batch_size=7, epochs=2)}
    with parallel.using(workers):
        built = entry.call(supply, entry.validate({}))
        updates: Tensor = built.train(flatten(made), Plan(seed, round, tuple(map(Task, range(3))))).updates
    return updates


@pytest.mark.parametrize("engine", ["sequential", "batched"])
def test_masks_are_determined_by_seed_round_and_client(engine: str) -> None:
    first = trained(0.5, engine)
    torch.manual_seed(99)
    assert torch.equal(trained(0.5, engine, workers=1), first)
    assert torch.equal(trained(0.5, engine, workers=3), first)
    assert torch.allclose(trained(0.5, "sequential"), first, atol=1e-6)
    assert not torch.allclose(trained(0.0, engine), first, atol=1e-4)
    assert not torch.allclose(trained(0.5, engine, round=2), first, atol=1e-4)


def test_masks_differ_between_clients_and_between_steps() -> None:
    layer = StreamDropout(0.5, channels=False).train()
    masks = []
    for client in (0, 1):
        set_stream(layer, Stream(0, "dropout", 1, client))
        masks += [layer(torch.ones(4, 9)) for _ in range(2)]
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == 4


@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d])
def test_dropout_keeps_the_mean_and_drops_channels_whole(kind: type[nn.Module]) -> None:
    layer = with_streams(kind(0.25)).train()
    set_stream(layer, Stream(0, "dropout"))
    out = layer(torch.ones(400, 50, 3))
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert float(out.mean()) == pytest.approx(1, abs=0.02)
    whole = (out == out[:, :, :1]).all()
    assert bool(whole) == (kind is not nn.Dropout)


def test_dropout_is_off_in_evaluation_and_everything_at_one() -> None:
    layer = with_streams(nn.Dropout(0.9))
    assert torch.equal(layer.eval()(torch.ones(3, 3)), torch.ones(3, 3))
    sure = with_streams(nn.Dropout(1.0)).train()
    set_stream(sure, Stream(0, "dropout"))
    assert not sure(torch.ones(3, 3)).any()


def test_without_a_stream_dropout_does_not_train() -> None:
    with pytest.raises(RuntimeError, match="no stream was set"):
        with_streams(nn.Dropout(0.5)).train()(torch.ones(2))


def test_evaluation_draws_nothing() -> None:
    made = dropping(0.5)
    evaluate = Evaluator(made, images())
    assert evaluate(flatten(made)) == evaluate(flatten(made))


def test_each_option_of_the_lstm_and_the_residual_nets_counts() -> None:
    def size(**options: int) -> int:
        return len(flatten(net("lstm", (9,), 5, vocabulary=30, **options)))

    def expected(embedding: int, hidden: int, layers: int) -> int:
        cells = [(embedding if i == 0 else hidden) for i in range(layers)]
        return 30 * embedding + sum(4 * hidden * (inputs + hidden + 2) for inputs in cells) + 5 * (hidden + 1)

    assert size() == expected(8, 256, 2)
    assert size(embedding=3, hidden=7, layers=1) == expected(3, 7, 1)
    assert size(layers=3, hidden=4) == expected(8, 4, 3)
    pictures = torch.rand(2, 3, 16, 16)
    for name in ("resnet18", "resnet20"):
        with torch.random.fork_rng(devices=[]):
            outputs = []
            for groups in (2, 8):
                torch.manual_seed(0)
                outputs.append(net(name, (3, 16, 16), groups=groups)(pictures))
        assert not torch.allclose(*outputs)
