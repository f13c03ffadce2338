"""RobustStrategy in plain Flower apps: what bad clients cost, beside what they cost Flower's own strategies."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.exception import InconsistentMessageReplies
from flwr.serverapp.strategy import FedAvg, FedMedian, MultiKrum, Result

from fedpoison import Alarm, aggregate, aggregator, monitor
from fedpoison.api import chain, watched
from fedpoison.clients.training import Rates
from fedpoison.common.seeding import Stream
from fedpoison.defences.situation import Situation
from fedpoison.flower import InProcessGrid, RobustStrategy
from fedpoison.flower.arrays import Layout
from fedpoison.flower.strategy import as_memory
from fedpoison.round import State
from fedpoison.server import Server
from fedpoison.types import State as Memory
from fedpoison.types import Update, Updates

logging.getLogger("flwr").setLevel(logging.ERROR)
CLIENTS = 6
START = ArrayRecord({"w": Array(np.ones((2, 3), dtype=np.float32)), "b": Array(np.zeros(3, dtype=np.float32))})
Change = Callable[[RecordDict], RecordDict | None]


def step(partition: int) -> np.ndarray:
    """What an honest client adds to both arrays: about 1."""
    return np.float32(1 + partition / 100)


def app(bad: int | None = None, change: Change = lambda content: content) -> ClientApp:
    """A plain app that knows nothing of fedpoison; one client sends something else."""
    client = ClientApp()

    @client.train()
    def train(message: Message, context: Context) -> Message:
        mine = int(context.node_config["partition-id"])
        given = {key: array.numpy() for key, array in message.content.array_records["arrays"].items()}
        arrays = {key: Array(np.asarray(a + step(mine), dtype=a.dtype)) for key, a in given.items()}
        metrics = MetricRecord({"loss": 0.5 + mine, "num-examples": 10})
        content: RecordDict | None = RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics})
        if mine == bad:
            content = change(content)  # type: ignore[arg-type]
        return Message(content, reply_to=message)  # type: ignore[arg-type]

    @client.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        content = {"metrics": MetricRecord({"accuracy": 0.9, "num-examples": 10})}
        if context.node_config["partition-id"] == bad:
            content = {"metrics": MetricRecord({"accuracy": [1e30], "mine": 1.0})}
        return Message(RecordDict(content), reply_to=message)  # type: ignore[arg-type]

    return client


def run(strategy: FedAvg, client: ClientApp, rounds: int = 2, start: ArrayRecord = START) -> Result:
    return strategy.start(InProcessGrid(client, CLIENTS), start, rounds)


def robust(rule: Any = "median", **more: Any) -> RobustStrategy:
    return RobustStrategy(rule, min_train_nodes=CLIENTS, min_available_nodes=CLIENTS, **more)


def flowers(kind: type[FedAvg] = FedAvg, **more: Any) -> FedAvg:
    return kind(min_train_nodes=CLIENTS, min_available_nodes=CLIENTS, fraction_evaluate=0.0, **more)


def numbers(result: Result) -> list[float]:
    return [float(x) for array in result.arrays.to_numpy_ndarrays() for x in array.ravel()]


# ---- what is aggregated


@pytest.mark.parametrize("rule", ["mean", "median", "krum", "centered_clipping", "bulyan"])
def test_a_round_is_what_aggregate_makes_of_the_updates(rule: str) -> None:
    f = 0 if rule == "bulyan" else 1
    strategy = robust(rule, f=f)
    after = numbers(run(strategy, app(), rounds=1))
    # an update is what was sent minus what the client was given, in float32
    updates = torch.stack(
        [torch.cat([torch.ones(6) + float(step(i)) - 1, torch.zeros(3) + float(step(i))]) for i in range(CLIENTS)]
    )
    expected = torch.cat([torch.ones(6), torch.zeros(3)]) + aggregate(rule, updates, f=f).update
    torch.testing.assert_close(torch.tensor(after), expected)
    assert strategy.events == {1: []}
    assert strategy.clients == [2, 3, 4, 5, 6, 7]


def test_distances_are_those_of_updates_however_large_the_weights() -> None:
    """Beside weights of 1e5 the differences of clients are lost in float32 squares."""
    start = ArrayRecord({"w": Array(np.full((200, 30), 1e5, dtype=np.float32))})
    client = ClientApp()

    @client.train()
    def train(message: Message, context: Context) -> Message:
        mine = int(context.node_config["partition-id"])
        shift = np.float32(2 if mine == 5 else 1 + mine**2 / 64)
        arrays = ArrayRecord({"w": Array(message.content.array_records["arrays"]["w"].numpy() + shift)})
        return Message(RecordDict({"a": arrays}), reply_to=message)

    ours = run(robust("krum", f=1, fraction_evaluate=0.0), client, 1, start)
    assert numbers(ours)[0] == 1e5 + 1 + 4 / 64  # of 0, 1, 4, 9, 16 and 64 the 4 is closest to three


def test_metrics_are_medians_and_evaluation_goes_on() -> None:
    result = run(robust(), app())
    assert result.train_metrics_clientapp[1]["loss"] == 3.0
    assert result.evaluate_metrics_clientapp[2]["accuracy"] == 0.9
    own = robust(train_metrics_aggr_fn=lambda contents, key: MetricRecord({"n": len(contents), key: 0}))
    assert run(own, app()).train_metrics_clientapp[1]["n"] == CLIENTS


def test_metrics_of_a_bad_client_do_not_end_a_run() -> None:
    result = run(robust(), app(bad=2))
    assert result.evaluate_metrics_clientapp[2]["accuracy"] == 0.9
    own = robust(evaluate_metrics_aggr_fn=lambda contents, key: MetricRecord({"n": contents[9]}))
    assert run(own, app(bad=2)).evaluate_metrics_clientapp == {}
    stock = FedAvg(min_train_nodes=CLIENTS, min_available_nodes=CLIENTS)
    with pytest.raises(InconsistentMessageReplies):
        run(stock, app(bad=2))


@pytest.mark.parametrize("value", [2**80, 10**400, float("nan"), [1.0] * 9])
def test_a_metric_that_is_no_number_of_flower_s_does_not_end_a_run(value: Any) -> None:
    def change(content: RecordDict) -> RecordDict:
        records = {f"more{i}": MetricRecord({"loss": 99.0}) for i in range(9)}  # which count once
        return RecordDict({**content, **records, "metrics": MetricRecord({"num-examples": value, "odd": value})})

    result = run(robust("mean"), app(5, change), 1)
    assert result.train_metrics_clientapp[1] == MetricRecord({"loss": 3.0})
    strategy = robust("mean", sizes="reported")
    run(strategy, app(5, change), 1)
    assert [(e.what, e.clients) for e in strategy.events[1]] == [("set_aside", (7,))]


def test_float64_and_counts_keep_their_types() -> None:
    start = ArrayRecord(
        {
            "n": Array(np.array(7, dtype=np.int64)),
            "w": Array(np.ones(2)),
            "h": Array(np.ones((1, 2), dtype=np.float16)),
        }
    )
    result = run(robust(), app(), 1, start)
    arrays = {key: array.numpy() for key, array in result.arrays.items()}
    assert [(str(a.dtype), a.shape) for a in arrays.values()] == [("int64", ()), ("float64", (2,)), ("float16", (1, 2))]
    assert list(arrays) == ["n", "w", "h"]
    assert abs(float(arrays["w"][0]) - 2.025) < 1e-6


def test_counts_take_a_middle_client_s_value() -> None:
    start = ArrayRecord({"n": Array(np.array([7], dtype=np.int64)), "w": Array(np.ones(2, dtype=np.float32))})
    client = ClientApp()

    @client.train()
    def train(message: Message, context: Context) -> Message:
        mine = int(context.node_config["partition-id"])
        count = 10**15 if mine > 3 else 10 + mine
        arrays = ArrayRecord({"w": message.content.array_records["arrays"]["w"], "n": Array(np.array([count]))})
        return Message(RecordDict({"a": arrays}), reply_to=message)

    assert run(robust(fraction_evaluate=0.0), client, 1, start).arrays["n"].numpy().tolist() == [12]


def test_the_server_s_optimizer_and_momentum() -> None:
    after = numbers(run(robust("mean", server=Server(lr=0.5, momentum=0.5)), app(), 2))
    mean = float(np.mean([step(i) for i in range(CLIENTS)]))
    assert abs(after[-1] - (0.5 * mean + 0.5 * 1.5 * mean)) < 1e-5


# ---- running statistics


NORM = ArrayRecord(
    {
        "w": Array(np.ones(4, dtype=np.float32)),
        "bn.running_var": Array(np.ones(2, dtype=np.float32)),
        "bn.num_batches_tracked": Array(np.array(0.0, dtype=np.float32)),  # FedAvg makes floats of counts
    }
)
SEEN = (0.5, 30.0, 2.0, 1.0, 1e30, 2.5)
"""The variance of each client's inputs."""


def normed(bad: int | None = None, variance: float = np.nan) -> ClientApp:
    """Clients who differ little in what they learn and much in what they observe; one learns the opposite."""
    client = ClientApp()

    @client.train()
    def train(message: Message, context: Context) -> Message:
        mine, given = int(context.node_config["partition-id"]), message.content.array_records["arrays"]
        w, var, count = (array.numpy() for array in given.values())
        learned = w - 1 if mine == bad else w + step(mine)
        seen = variance if mine == bad else SEEN[mine]
        sent = dict(
            zip(given, (Array(np.asarray(a, np.float32)) for a in (learned, 0 * var + seen, count + 20)), strict=True)
        )
        return Message(RecordDict({"arrays": ArrayRecord(sent)}), reply_to=message)

    return client


@pytest.mark.parametrize("server", [Server(momentum=0.9), Server(lr=1.5), Server(optimizer="yogi", lr=0.1)])
def test_running_statistics_pass_no_optimizer(server: Server) -> None:
    result = run(robust("mean", server=server, fraction_evaluate=0.0), normed(), 3, NORM)
    assert result.arrays["bn.running_var"].numpy().tolist() == [2.0, 2.0]  # the lower of the two middle clients'
    assert result.arrays["bn.num_batches_tracked"].numpy() == 60


@pytest.mark.parametrize("rule", ["multi_krum", "flame"])
def test_running_statistics_count_in_no_distance_and_no_norm(rule: str) -> None:
    strategy = robust(rule, f=1, fraction_evaluate=0.0)
    run(strategy, normed(bad=5, variance=-1.0), 1, NORM)
    assert strategy.verdict is not None
    assert strategy.verdict.weights is not None
    assert strategy.verdict.weights[5] == 0
    expected = torch.tensor([2 * float(step(i)) for i in range(5)] + [2.0])  # of four coordinates
    torch.testing.assert_close(strategy.verdict.norms, expected.double(), rtol=1e-5, atol=0)
    assert {layer.name for layer in strategy._layout.layers} == {"w"}


@pytest.mark.parametrize("variance", [np.nan, np.inf])
def test_statistics_that_are_not_finite_cost_the_client_that_sent_them(variance: float) -> None:
    strategy = robust("mean", f=1, fraction_evaluate=0.0)
    after = run(strategy, normed(bad=5, variance=variance), 1, NORM).arrays
    assert [(e.what, e.clients) for e in strategy.events[1]] == [("set_aside", (7,))]
    assert "bn.running_var is not finite" in strategy.events[1][0].detail
    assert (after["w"].numpy() > 2).all()
    assert after["bn.running_var"].numpy().tolist() == [2.0, 2.0]


def test_statistics_of_another_name_are_told_by_the_user() -> None:
    start = ArrayRecord([array.numpy() for array in NORM.values()])
    strategy = robust("mean", server=Server(lr=2.0), statistics=["1", "2"], fraction_evaluate=0.0)
    after = run(strategy, normed(), 1, start).arrays
    assert after["1"].numpy().tolist() == [2.0, 2.0]
    with pytest.raises(ValueError, match="no array is called 3; there are 0, 1, 2"):
        run(robust("mean", statistics=["3"]), normed(), 1, start)


def test_names_are_told_by_their_last_part() -> None:
    names = ["running_var", "a.running_mean", "bn/moving_mean", "not_running_mean", "running_mean.weight", "bn.ema"]
    layout = Layout(ArrayRecord({name: Array(np.zeros(1)) for name in names}), ["ema"])
    assert layout.keys == ["not_running_mean", "running_mean.weight"]


# ---- what counts how much


def claims(content: RecordDict) -> RecordDict:
    """10⁹ examples, and weights far away."""
    arrays = {key: Array(array.numpy() + np.float32(1000)) for key, array in content.array_records["arrays"].items()}
    metrics = MetricRecord({"loss": 0.5, "num-examples": 10**9})
    return RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics})


def test_a_billion_claimed_examples_buy_nothing_here_and_everything_there() -> None:
    ours = numbers(run(robust("mean"), app(1, claims), 1))
    assert abs(ours[-1] - (1000 + 6 * 1.025) / 6) < 0.01  # the mean is no defence, but all count the same
    assert numbers(run(robust("mean", options={"weighting": "sizes"}), app(1, claims), 1)) == ours
    assert numbers(run(robust("median"), app(1, claims), 1))[-1] < 1.1
    assert numbers(run(flowers(), app(1, claims), 1))[-1] > 1000
    close = app(
        1, lambda content: RecordDict({**content, "metrics": MetricRecord({"num-examples": 10**9, "loss": 0.5})})
    )
    mine = numbers(run(flowers(MultiKrum, num_malicious_nodes=1, num_nodes_to_select=5), close, 1))
    assert abs(mine[-1] - float(step(1))) < 1e-5  # it chose well, and one of the chosen is all there is
    assert numbers(run(robust("multi_krum", f=1), close, 1))[-1] > float(step(1))


def test_sizes_that_the_server_knows() -> None:
    sizes = {node: 1.0 if node == 2 else 1e-9 for node in range(2, 8)}
    rule = {"options": {"weighting": "sizes"}}
    assert abs(numbers(run(robust("mean", sizes=sizes, **rule), app(), 1))[-1] - float(step(0))) < 1e-5
    del sizes[4]
    strategy = robust("mean", sizes=sizes, **rule)
    run(strategy, app(), 1)
    assert [(e.what, e.clients) for e in strategy.events[1]] == [("set_aside", (4,))]


@pytest.mark.parametrize("number", [0, -1, float("nan"), float("inf"), [3], None])
def test_sizes_that_clients_report_are_checked_if_one_wants_them(number: Any) -> None:
    def change(content: RecordDict) -> RecordDict:
        metrics = MetricRecord({"loss": 0.5} if number is None else {"num-examples": number})
        return RecordDict({"arrays": content["arrays"], "metrics": metrics})

    strategy = robust("mean", sizes="reported", options={"weighting": "sizes"})
    after = numbers(run(strategy, app(3, change), 1))
    assert [(e.what, e.clients) for e in strategy.events[1]] == [("set_aside", (5,))]
    assert abs(after[-1] - float(np.mean([step(i) for i in range(CLIENTS) if i != 3]))) < 1e-5


# ---- clients that send something else


def arrays_of(change: Callable[[dict[str, Array]], dict[str, Array]]) -> Change:
    return lambda content: RecordDict(
        {"arrays": ArrayRecord(change(dict(content.array_records["arrays"]))), "metrics": content["metrics"]}
    )


def raising(content: RecordDict) -> RecordDict:
    raise RuntimeError("down")


FULL = np.full((2, 3), np.nan, dtype=np.float32)
BYTES = np.zeros((2, 3), dtype=np.float32)
BAD: dict[str, tuple[Change, str, str]] = {
    "NaN": (arrays_of(lambda a: {**a, "w": Array(FULL)}), "set_aside", "not finite"),
    "infinity": (arrays_of(lambda a: {**a, "w": Array(BYTES + np.inf)}), "set_aside", "not finite"),
    "a wrong shape": (
        arrays_of(lambda a: {**a, "w": Array(BYTES[:1])}),
        "set_aside",
        "w is (1, 3) float32, not (2, 3)",
    ),
    "another type": (
        arrays_of(lambda a: {**a, "w": Array(BYTES.astype(np.float64))}),
        "set_aside",
        "w is (2, 3) float64",
    ),
    "a wrong key": (arrays_of(lambda a: {"v": a["w"], "b": a["b"]}), "set_aside", "others than the model's: v, w"),
    "a key too many": (arrays_of(lambda a: {**a, "v": a["w"]}), "set_aside", "others than the model's: v"),
    "no key": (arrays_of(lambda a: {}), "set_aside", "others than the model's"),
    "no arrays": (lambda content: RecordDict({"metrics": content["metrics"]}), "set_aside", "0 ArrayRecords"),
    "two records": (lambda content: RecordDict({**content, "more": content["arrays"]}), "set_aside", "2 ArrayRecords"),
    "bytes": (
        arrays_of(lambda a: {**a, "w": Array("float32", (2, 3), "numpy.ndarray", b"rubbish")}),
        "set_aside",
        "w cannot be read",
    ),
    "a long tail": (
        arrays_of(lambda a: {**a, "w": Array("float32", (2, 3), "numpy.ndarray", a["w"].data + b"x" * 10**5)}),
        "set_aside",
        "w is longer than",
    ),
    "a false label": (
        arrays_of(lambda a: {**a, "w": Array("float32", (2, 3), "numpy.ndarray", Array(BYTES[:1]).data)}),
        "set_aside",
        "says it is (2, 3) float32 and is (1, 3)",
    ),
    "a pickle": (
        arrays_of(lambda a: {**a, "w": Array("float32", (2, 3), "numpy.ndarray", pickled())}),
        "set_aside",
        "w cannot be read",
    ),
    "an error": (raising, "lost", "down"),
    "nothing": (lambda content: None, "lost", "Message"),
}


def pickled() -> bytes:
    import io

    buffer = io.BytesIO()
    np.save(buffer, np.array([[object] * 3] * 2), allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("rule", ["mean", "krum"])
def test_a_bad_client_costs_that_client_and_is_an_event(name: str, rule: str) -> None:
    change, what, detail = BAD[name]
    strategy = robust(rule, f=1)
    after = numbers(run(strategy, app(4, change)))
    for number in (1, 2):
        (event,) = strategy.events[number]
        assert (event.what, event.clients) == (what, (6,))
        assert detail in event.detail
    assert 1.9 < after[-1] < 2.2
    assert all(np.isfinite(after))


MISFITS = ("a wrong shape", "a false label")
ENDS = ("a wrong key", "a key too many", "no key", "no arrays", "two records")


@pytest.mark.parametrize("kind", [FedAvg, FedMedian])
@pytest.mark.parametrize("name", [name for name in BAD if name not in MISFITS])
def test_what_the_same_client_does_to_flower_s_own(name: str, kind: type[FedAvg]) -> None:
    change, _, _ = BAD[name]
    if name in ENDS:
        with pytest.raises(InconsistentMessageReplies):
            run(flowers(kind), app(4, change))
    elif name in ("bytes", "a pickle"):
        with pytest.raises(ValueError, match=r"allow_pickle"):
            run(flowers(kind), app(4, change))
    else:
        after = numbers(run(flowers(kind), app(4, change)))
        ruined = name == "NaN" or (name == "infinity" and kind is FedAvg)
        assert all(np.isfinite(after)) == (not ruined)


@pytest.mark.parametrize("name", MISFITS)
def test_a_wrong_shape_ends_a_run_of_fedavg_or_is_spread_over_the_right_one(name: str) -> None:
    """By whether the reply is the first: one row is added to each of the others' two."""
    change, _, _ = BAD[name]
    grid, strategy = InProcessGrid(app(0, change), CLIENTS), flowers()
    messages = strategy.configure_train(1, START, ConfigRecord(), grid)
    replies = sorted(grid.send_and_receive(messages), key=lambda reply: reply.metadata.src_node_id)
    with pytest.raises(ValueError, match="broadcast"):
        strategy.aggregate_train(1, replies)
    arrays, _ = strategy.aggregate_train(1, replies[::-1])
    assert arrays is not None
    assert arrays["w"].numpy().shape == (2, 3)
    with pytest.raises(ValueError, match="shape"):
        run(flowers(FedMedian), app(0, change))


def test_an_attacker_cannot_have_a_round_skipped_by_sending_rubbish() -> None:
    """Krum needs n > 2f + 2: 5 clients with f = 1; of the 4 left none needs to be feared."""
    strategy = RobustStrategy("krum", f=1, min_train_nodes=5, min_available_nodes=5, fraction_train=0.5)
    change, _, _ = BAD["a wrong shape"]
    client = app(0, change)
    result = strategy.start(InProcessGrid(client, 5), START, 1)
    assert [e.what for e in strategy.events[1]] == ["set_aside"]
    assert numbers(result)[-1] > 1


def test_a_round_that_cannot_be_aggregated_leaves_the_model_as_it_is() -> None:
    strategy = RobustStrategy("krum", f=1, min_train_nodes=5, min_available_nodes=5, fraction_train=0.5)
    result = strategy.start(InProcessGrid(app(0, raising), 5), START, 2)
    assert [e.what for e in strategy.events[2]] == ["lost", "skipped"]
    assert "krum needs n > 2*f + 2" in strategy.events[2][1].detail
    assert numbers(result) == [1.0] * 6 + [0.0] * 3


def test_a_round_in_which_nobody_answers() -> None:
    client = ClientApp()
    strategy = robust(fraction_evaluate=0.0)
    result = run(strategy, client, 1)
    assert [e.what for e in strategy.events[1]] == ["lost"] * CLIENTS + ["skipped"]
    assert numbers(result) == [1.0] * 6 + [0.0] * 3


def test_overflow_leaves_the_model_as_it_is() -> None:
    strategy = robust("mean", server=Server(lr=1e30, weight_decay=1e30))
    assert numbers(run(strategy, app(), 1)) == [1.0] * 6 + [0.0] * 3
    assert strategy.events[1][0].detail == "parameters overflow"


# ---- late, twice, not asked


class Post(InProcessGrid):
    """Delivers what `change` makes of each round's replies."""

    def __init__(self, change: Callable[[int, list[Message]], list[Message]]) -> None:
        super().__init__(app(), CLIENTS)
        self._change, self._turn = change, 0

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        self._turn += 1
        replies = sorted(super().send_and_receive(messages), key=lambda reply: reply.metadata.src_node_id)
        return self._change(self._turn, replies) if replies else []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda turn, replies: replies[1:], [("no_answer", (2,))]),
        (lambda turn, replies: [*replies, replies[0]], [("twice", ())]),
    ],
)
def test_silence_and_second_answers(change: Any, expected: list[Any]) -> None:
    strategy = robust(fraction_evaluate=0.0)
    strategy.start(Post(change), START, 1)
    assert [(e.what, e.clients) for e in strategy.events[1]] == expected


def test_a_late_answer_is_not_taken_for_this_round_s() -> None:
    kept: list[Message] = []

    def change(turn: int, replies: list[Message]) -> list[Message]:
        if turn == 1:
            kept.append(replies[0])
            return replies[1:]
        return [*kept, *replies[1:]]

    strategy = robust("mean", fraction_evaluate=0.0)
    grid = Post(change)
    arrays = START
    for number in (1, 2):
        messages = strategy.configure_train(number, arrays, ConfigRecord(), grid)
        arrays, _ = strategy.aggregate_train(number, grid.send_and_receive(messages))  # type: ignore[assignment]
    assert [(e.what, e.clients) for e in strategy.events[2]] == [("late", (2,)), ("no_answer", (2,))]


def test_a_node_that_was_not_asked() -> None:
    strategy, grid = robust("mean"), InProcessGrid(app(), CLIENTS)
    messages = list(strategy.configure_train(1, START, ConfigRecord(), grid))
    replies = list(grid.send_and_receive(messages))
    replies[0].metadata.__dict__["_src_node_id"] = 99
    strategy.aggregate_train(1, replies)
    whose = next(m.metadata.dst_node_id for m in messages if m.metadata.dst_node_id not in strategy.clients)
    assert [(e.what, e.clients) for e in strategy.events[1]] == [("not_asked", (99,)), ("no_answer", (whose,))]


# ---- memory


@aggregator(evidence="tests/flower/test_flower_strategy.py")
def counting(updates: Updates, client_ids: torch.Tensor, rng: torch.Generator, state: Memory) -> tuple[Update, Memory]:
    """The mean, with a memory of how often each client was seen and of what was drawn."""
    seen = state.get("seen", torch.zeros(20)).clone()
    seen[client_ids] += 1
    drawn = torch.cat([state.get("drawn", torch.zeros(0)), torch.rand(1, generator=rng)])
    return updates.mean(dim=0), {"seen": seen, "drawn": drawn}


def test_memory_is_saved_and_taken_up_without_pickle(tmp_path: Path) -> None:
    def make(file: Path | None) -> RobustStrategy:
        return robust(counting, server=Server(momentum=0.9), memory=file, fraction_evaluate=0.0)

    whole = make(None)
    expected = run(whole, app(), 4)
    first = run(make(tmp_path / "memory.safetensors"), app(), 2)
    again = make(tmp_path / "memory.safetensors")
    assert numbers(run(again, app(), 2, first.arrays)) == numbers(expected)
    for strategy in (again, whole):
        assert strategy.state is not None
        assert strategy.state.round == 4
        assert strategy.state.memory_of("defence")["seen"].tolist() == [4.0] * CLIENTS + [0.0] * 14
        assert strategy.state.memory_of("nodes")["ids"].tolist() == [2, 3, 4, 5, 6, 7]
    ours, theirs = (strategy.state.memory_of("defence") for strategy in (again, whole) if strategy.state)
    assert torch.equal(ours["drawn"], theirs["drawn"])
    assert not list(tmp_path.glob("*.tmp"))


def test_the_memory_of_another_model_is_refused(tmp_path: Path) -> None:
    run(robust("centered_clipping", memory=tmp_path / "memory.safetensors"), app(), 1)
    with pytest.raises(ValueError, match="the memory is of 9 parameters, and the model has 4"):
        run(robust("centered_clipping", memory=tmp_path / "memory.safetensors"), normed(), 1, NORM)


def test_a_skipped_round_keeps_the_memory_of_the_last() -> None:
    strategy = robust(counting, server=Server(lr=1e30, weight_decay=1e30))
    run(strategy, app(), 1)
    assert strategy.state is not None
    assert not strategy.state.memory_of("defence")
    assert not strategy.state.previous.any()


def test_nodes_have_numbers_up_to_two_to_the_64(tmp_path: Path) -> None:
    strategy = robust("foolsgold")
    strategy._ids = {2**64 - 1: 0, 5: 1, 2**63: 2}
    memories = {"nodes": as_memory(strategy._ids)}
    strategy.state = State(round=3, params=torch.ones(2), previous=torch.zeros(2), memories=memories)
    strategy.save(tmp_path / "m.safetensors")
    again = robust("foolsgold", memory=tmp_path / "m.safetensors")
    assert again._ids == strategy._ids
    assert [*again._ids] == [*strategy._ids]


# ---- the same server as in a run

SERVERS = [
    Server(),
    Server(lr=0.5, momentum=0.5),
    Server(optimizer="adam", lr=0.1),
    Server(optimizer="yogi", lr=0.1, weight_decay=0.1),
    Server(optimizer="adagrad", lr=0.1),
    Server(rates=Rates(warmup=3)),
    Server(rates=Rates(milestones=[2], factor=0.5), momentum=0.5),
    Server(rates=Rates(cosine=True)),
]


@monitor()
def restless(client_ids, state):  # type: ignore[no-untyped-def]
    """An alarm in the third round."""
    turn = state.get("turn", torch.zeros(())) + 1
    return Alarm("the third", (int(client_ids[1]),)) if int(turn) == 3 else None, {"turn": turn}


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: str(server.model_dump(exclude_defaults=True)))
@pytest.mark.parametrize(
    ("rule", "monitors"),
    [("centered_clipping", []), ("foolsgold", [{"name": restless, "action": "rollback"}])],
    ids=["unwatched", "watched"],
)
def test_the_strategy_gives_the_bits_of_a_run_s_server(rule: str, monitors: list[Any], server: Server) -> None:
    """Four rounds of the same updates, by hand through `Server.serve`, with every option of the server."""
    strategy = robust(rule, f=1, server=server, monitors=monitors, fraction_evaluate=0.0)
    after = numbers(run(strategy, app(), 4))
    said = [[event.what for event in strategy.events[number]] for number in range(1, 5)]
    assert said == [[], [], ["alarm", "rollback"] if monitors else [], []]
    params, previous = torch.cat([torch.ones(6), torch.zeros(3)]), torch.zeros(9)
    state: State = State(round=0, params=params, previous=previous)
    for number in range(1, 5):
        updates = torch.stack([state.params + float(step(i)) - state.params for i in range(CLIENTS)])
        situation = Situation(
            f=1,
            client_ids=torch.arange(CLIENTS),
            sizes=torch.ones(CLIENTS, dtype=torch.float64),
            params=state.params,
            previous=state.previous,
            stream=Stream(0, "defence", number),
            state=state.memory_of("defence"),
        )
        made = server.serve(
            updates,
            situation,
            chain(rule),
            state.memory_of("server"),
            round=number,
            rounds=4,
            monitors=tuple(map(watched, monitors)),
            watched=state.memory_of("monitors"),
        )
        memories = {"defence": made.verdict.state, "server": made.memory, "monitors": made.watched}
        state = State(round=number, params=made.params, previous=made.previous, memories=memories)
    assert after == state.params.tolist()


def test_the_server_s_rate_rises_and_falls_with_the_rounds() -> None:
    warm = robust("mean", server=Server(rates=Rates(warmup=3)), fraction_evaluate=0.0)
    assert numbers(run(warm, app(), 1))[-1] == pytest.approx(0.25 * 1.025)
    cosine = Server(rates=Rates(cosine=True))
    assert numbers(run(robust("mean", server=cosine, fraction_evaluate=0.0), app(), 2))[-1] == pytest.approx(
        1.5 * 1.025
    )
    with pytest.raises(ValueError, match="only `start` knows"):
        robust("mean", server=cosine).configure_train(1, START, ConfigRecord(), InProcessGrid(app(), CLIENTS))


def test_a_second_start_goes_on_with_the_rounds() -> None:
    strategy = robust("mean", server=Server(rates=Rates(milestones=[1], factor=0.5)), fraction_evaluate=0.0)
    first = run(strategy, app(), 1)
    second = run(strategy, app(), 1, first.arrays)
    assert numbers(second)[-1] - numbers(first)[-1] == pytest.approx(0.5 * 1.025)


def test_a_rule_may_try_updates_on_the_server_s_own_samples() -> None:
    """Loss function rejection, with a loss that is the distance from 1.0: the one who goes too far is left out."""
    with pytest.raises(ValueError, match="lfr needs probe"):
        robust("lfr", base="mean", f=1)

    def probe(arrays: ArrayRecord) -> tuple[float, float]:
        distance = float(np.abs(arrays["b"].numpy() - 1).max())
        return distance, distance

    far = app(3, lambda content: RecordDict({"arrays": shifted(content, 50.0), "metrics": content["metrics"]}))
    after = numbers(run(robust("lfr", base="mean", f=1, probe=probe, fraction_evaluate=0.0), far, 1))
    honest = [float(step(i)) for i in range(CLIENTS) if i != 3]
    assert after[-1] == pytest.approx(sum(honest) / 5)


def shifted(content: RecordDict, by: float) -> ArrayRecord:
    arrays = content.array_records["arrays"]
    return ArrayRecord({key: Array(array.numpy() + np.float32(by)) for key, array in arrays.items()})


# ---- what cannot be


def test_a_model_that_a_rule_cannot_take_is_refused_before_anybody_trains() -> None:
    start = ArrayRecord({"w": Array(np.ones((1, 2, 3), dtype=np.float32))})
    with pytest.raises(ValueError, match=r"lfighter looks at an output layer .* there is none in w \[1, 2, 3\]"):
        run(robust("lfighter"), app(), 1, start)


def test_what_does_not_fit_is_said_when_it_is_made() -> None:
    with pytest.raises(ValueError, match=r"krum needs n > 2\*f \+ 2: n = 4, f = 1; give min_train_nodes"):
        RobustStrategy("krum", f=1, min_train_nodes=4)
    with pytest.raises(ValueError, match="there is no aggregator 'krumm'"):
        RobustStrategy("krumm")


@aggregator(evidence="tests/flower/test_flower_strategy.py")
def rooted(root_update: Update) -> Update:
    """What the server's own samples say."""
    return root_update


def test_a_rule_may_be_given_the_server_s_own_training() -> None:
    with pytest.raises(ValueError, match="rooted needs root"):
        robust(rooted)
    strategy = robust(
        rooted, root=lambda arrays: ArrayRecord({k: Array(a.numpy() + np.float32(3)) for k, a in arrays.items()})
    )
    assert numbers(run(strategy, app(), 1)) == [4.0] * 6 + [3.0] * 3


def test_node_ids_may_be_any_of_64_bits() -> None:
    grid = InProcessGrid(app(4, BAD["NaN"][0]), CLIENTS)
    grid._contexts = {2**64 - 1 - node: context for node, context in grid._contexts.items()}
    strategy = robust(counting)
    strategy.start(grid, START, 1)
    assert strategy.events[1][0].clients == (2**64 - 1 - 6,)


def test_a_layout_reads_back_what_it_wrote() -> None:
    layout = Layout(START)
    vector = torch.arange(9.0)
    assert torch.equal(layout.vector(layout.record(vector, {})), vector)
    assert [layer.name for layer in layout.layers] == ["w", "b"]


def test_it_is_a_flower_strategy_for_any_grid() -> None:
    assert issubclass(RobustStrategy, FedAvg)
    assert issubclass(InProcessGrid, Grid)


@pytest.mark.parametrize(("failures", "lost"), [(4, 0), (5, 1)])
def test_a_client_whom_python_s_parser_fails_is_asked_again(failures: int, lost: int) -> None:
    """NumPy parses headers by it, and in CPython 3.11 it is not safe in threads."""
    left = [failures]

    def change(content: RecordDict) -> RecordDict:
        if left[0]:
            left[0] -= 1
            raise SystemError("AST constructor recursion depth mismatch (before=101, after=104)")
        return content

    strategy = robust()
    run(strategy, app(3, change), 1)
    assert [event.what for event in strategy.events[1]] == ["lost"] * lost
