"""One client's mod and the Grid of an adversary: plain apps and Flower's own strategies are attacked unchanged."""

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import Bulyan, FedAvg, FedMedian, FedTrimmedAvg, Krum, MultiKrum, Result
from torch import Tensor

from fedpoison import aggregate, craft, update_attack
from fedpoison.flower import AdversarialGrid, InProcessGrid, RobustStrategy, attack_mod
from fedpoison.types import Crafted, Malicious, State

logging.getLogger("flwr").setLevel(logging.ERROR)
CLIENTS, D = 10, 40
START = ArrayRecord({"w": Array(np.ones((5, 8), dtype=np.float32)), "n": Array(np.array(3, dtype=np.int64))})


def honest(partition: int, number: int = 1) -> np.ndarray:
    """What a client's training adds in a round: 1 and some noise."""
    return 1 + 0.1 * np.random.default_rng([partition, number]).standard_normal((5, 8)).astype(np.float32)


def app(**more: Any) -> ClientApp:
    client = ClientApp(**more)

    @client.train()
    def train(message: Message, context: Context) -> Message:
        mine, number = (
            int(context.node_config["partition-id"]),
            message.content.config_records["config"]["server-round"],
        )
        given = message.content.array_records["arrays"]
        arrays = {"w": Array(given["w"].numpy() + honest(mine, int(number))), "n": given["n"]}  # type: ignore[call-overload]
        content = {"arrays": ArrayRecord(arrays), "metrics": MetricRecord({"num-examples": 10, "loss": 1.0})}
        return Message(RecordDict(content), reply_to=message)  # type: ignore[arg-type]

    @client.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return Message(RecordDict({"metrics": MetricRecord({"num-examples": 10, "accuracy": 0.5})}), reply_to=message)

    return client


def all_of(strategy: type[FedAvg], **more: Any) -> FedAvg:
    return strategy(min_train_nodes=CLIENTS, min_available_nodes=CLIENTS, fraction_evaluate=0.2, **more)


def moved(result: Result) -> Tensor:
    """What was added to the first array."""
    return torch.from_numpy(result.arrays["w"].numpy().ravel() - 1)


def updates(number: int = 1) -> Tensor:
    return torch.stack([torch.from_numpy(honest(i, number).astype(np.float32).ravel()) for i in range(CLIENTS)])


# ---- one client alone


def test_a_mod_sends_what_the_attack_makes_of_the_client_s_training() -> None:
    mod = attack_mod("sign_flip", malicious={3, 4})
    result = all_of(FedAvg).start(InProcessGrid(app(mods=[mod]), CLIENTS), START, 1)
    expected = updates()
    expected[3:5] = craft("sign_flip", n_malicious=2, own=expected[3:5])  # type: ignore[assignment]
    torch.testing.assert_close(moved(result), expected.mean(dim=0), rtol=1e-4, atol=1e-5)
    assert result.arrays["n"].numpy() == 3


def test_without_anybody_malicious_a_mod_changes_nothing() -> None:
    mods = [attack_mod("sign_flip", malicious=[])]
    plain, with_mod = (all_of(FedMedian).start(InProcessGrid(a, CLIENTS), START, 2) for a in (app(), app(mods=mods)))
    assert torch.equal(moved(plain), moved(with_mod))
    assert plain.evaluate_metrics_clientapp[1]["accuracy"] == 0.5


def test_a_mod_boosts_by_what_it_is_told_and_claims_examples() -> None:
    mod = attack_mod("model_replacement", malicious={0}, clients=CLIENTS)
    result = all_of(FedAvg).start(InProcessGrid(app(mods=[mod]), CLIENTS), START, 1)
    crafted = craft("model_replacement", n_malicious=1, own=updates()[:1], n=CLIENTS)
    assert isinstance(crafted, Tensor)
    expected = (updates()[1:].sum(dim=0) + crafted[0]) / CLIENTS
    torch.testing.assert_close(moved(result), expected, rtol=1e-4, atol=1e-4)
    claiming = attack_mod("sign_flip", malicious={0}, claims=10**9)
    result = all_of(FedAvg).start(InProcessGrid(app(mods=[claiming]), CLIENTS), START, 1)
    torch.testing.assert_close(moved(result), -updates()[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("alone", [True, False])
def test_running_statistics_are_sent_as_training_left_them(alone: bool) -> None:
    names = ["w", "bn.running_var", "ema"]
    bad: dict[str, Any] = {"malicious": [0 if alone else 2], "statistics": ["ema"]}
    client = ClientApp(mods=[attack_mod("sign_flip", **bad)] if alone else [])

    @client.train()
    def train(message: Message, context: Context) -> Message:
        arrays = {key: Array(array.numpy() + 1) for key, array in message.content.array_records["arrays"].items()}
        return Message(RecordDict({"arrays": ArrayRecord(arrays)}), reply_to=message)

    grid: Any = InProcessGrid(client, 2)
    if not alone:
        grid = AdversarialGrid(grid, "sign_flip", **bad)
    content = RecordDict({"arrays": ArrayRecord({name: Array(np.ones(1, dtype=np.float32)) for name in names})})
    replies = grid.send_and_receive([Message(content, node, "train") for node in (2, 3)])
    (sent,) = (reply.content["arrays"] for reply in replies if reply.metadata.src_node_id == 2)
    assert [sent[name].numpy().tolist() for name in names] == [[0.0], [2.0], [2.0]]


@update_attack(evidence="tests/flower/test_flower_attacks.py")
def growing(own: Malicious, n_malicious: int, rng: torch.Generator, state: State) -> tuple[Crafted, State]:
    """Its own update, longer each round, with some noise."""
    times = state.get("times", torch.ones(1)) + 1
    return own * times + 1e-3 * torch.randn(own.shape, generator=rng), {"times": times}


def test_an_attack_s_memory_stays_with_its_node_and_its_noise_is_its_own() -> None:
    mod = attack_mod(growing, malicious={1, 2})
    grid = InProcessGrid(app(mods=[mod]), CLIENTS)
    result = all_of(FedAvg).start(grid, START, 3)
    total = sum(updates(number) for number in (1, 2, 3))
    extra = sum(number * updates(number)[1:3].sum(dim=0) for number in (1, 2, 3))
    torch.testing.assert_close(moved(result), (total.sum(dim=0) + extra) / CLIENTS, rtol=0.01, atol=0.01)  # type: ignore[union-attr]
    again = all_of(FedAvg).start(InProcessGrid(app(mods=[mod]), CLIENTS), START, 3)
    torch.testing.assert_close(moved(result), moved(again))


def test_two_clients_of_one_mod_draw_noise_of_their_own() -> None:
    grid = InProcessGrid(app(mods=[attack_mod("gaussian", malicious={1, 2})]), CLIENTS)
    content = RecordDict({"arrays": START, "config": ConfigRecord({"server-round": 1})})
    one, two = grid.send_and_receive([Message(content, node, "train") for node in (3, 4)])
    assert not np.allclose(one.content["arrays"]["w"].numpy(), two.content["arrays"]["w"].numpy())


def test_what_one_client_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match=r"alie asks for other clients' updates.*AdversarialGrid"):
        attack_mod("alie", malicious={0})
    with pytest.raises(ValueError, match="free_rider asks for the last aggregate"):
        attack_mod("free_rider", malicious={0})
    with pytest.raises(ValueError, match="model_replacement asks for n: give clients"):
        attack_mod("model_replacement", malicious={0})
    with pytest.raises(ValueError, match="sign_flip has no option 'speed'"):
        attack_mod("sign_flip", malicious={0}, speed=3)


# ---- an adversary that sees all


def attacked(strategy: FedAvg, attack: Any, rounds: int = 1, **more: Any) -> Result:
    grid = AdversarialGrid(InProcessGrid(app(), CLIENTS), attack, **{"malicious": [2, 3, 4], **more})
    return strategy.start(grid, START, rounds)


def crafted_among(attack: str, rows: Tensor, bad: list[int], **more: Any) -> Tensor:
    """The same by the definition: the honest rows, and what the attack makes of them in the attackers' places."""
    mask = torch.zeros(len(rows), dtype=torch.bool)
    mask[bad] = True
    rows = rows.clone()
    crafted = craft(attack, n_malicious=len(bad), benign=rows[~mask], own=rows[mask], n=len(rows), **more)
    assert isinstance(crafted, Tensor)
    rows[mask] = crafted
    return rows


@pytest.mark.parametrize("attack", ["alie", "ipm", "sign_flip"])
def test_the_attackers_answer_with_what_the_attack_makes_of_the_honest_replies(attack: str) -> None:
    expected = crafted_among(attack, updates(), [0, 1, 2]).mean(dim=0)  # nodes 2, 3, 4 have partitions 0, 1, 2
    torch.testing.assert_close(moved(attacked(all_of(FedAvg), attack)), expected, rtol=1e-4, atol=1e-5)


def test_the_attack_is_the_same_again_and_draws_its_nodes_by_seed() -> None:
    one, two = (attacked(all_of(FedMedian), "gaussian", 2, malicious=4, seed=1) for _ in range(2))
    assert torch.equal(moved(one), moved(two))
    grid = AdversarialGrid(InProcessGrid(app(), CLIENTS), "alie", malicious=4, seed=1)
    assert len(grid.malicious) == 4
    assert grid.malicious != AdversarialGrid(InProcessGrid(app(), CLIENTS), "alie", malicious=4, seed=2).malicious
    more = AdversarialGrid(InProcessGrid(app(), CLIENTS), "alie", malicious=5, seed=1)
    assert grid.malicious < more.malicious
    with pytest.raises(ValueError, match="malicious = 11 of 10 nodes"):
        _ = AdversarialGrid(InProcessGrid(app(), CLIENTS), "alie", malicious=11).malicious


def test_memory_and_what_the_server_did_last_are_seen() -> None:
    seen = []

    @update_attack(evidence="tests/flower/test_flower_attacks.py")
    def watching(n_malicious: int, previous: Tensor, params: Tensor, state: State) -> tuple[Tensor, State]:
        """Nothing, noting what it is shown."""
        seen.append((previous.mean().item(), params.mean().item(), state.get("times", torch.zeros(1)).item()))
        return torch.zeros(n_malicious, len(params)), {"times": state.get("times", torch.zeros(1)) + 1}

    attacked(all_of(FedAvg), watching, 3)
    assert [times for _, _, times in seen] == [0, 1, 2]
    assert seen[0][:2] == (0, 1)
    assert abs(seen[1][0] - 0.7) < 0.05
    assert abs(seen[2][1] - 2.4) < 0.1


def test_an_attack_on_the_defence_needs_to_be_given_it() -> None:
    @update_attack(evidence="tests/flower/test_flower_attacks.py")
    def probing(benign: Tensor, n_malicious: int, defend: Any) -> Tensor:
        """The longer of two that is chosen."""
        for length in (100.0, 1.1):
            crafted = length * benign.mean(dim=0).expand(n_malicious, -1)
            if defend(torch.cat([crafted, benign])).weights[:n_malicious].sum() > 0:
                return crafted
        return benign.mean(dim=0).repeat(n_malicious, 1)

    with pytest.raises(ValueError, match="probing asks for the defence: give defend"):
        AdversarialGrid(InProcessGrid(app(), CLIENTS), probing, malicious=3)
    krum = RobustStrategy("krum", f=3, min_train_nodes=CLIENTS, min_available_nodes=CLIENTS)
    result = attacked(krum, probing, defend=lambda tried: aggregate("krum", tried, f=3))
    assert abs(moved(result).mean().item() - 1.1) < 0.05


def test_what_a_robust_strategy_makes_of_it_is_what_aggregate_makes() -> None:
    strategy = RobustStrategy("trimmed_mean", f=3, min_train_nodes=CLIENTS, min_available_nodes=CLIENTS)
    rows = crafted_among("ipm", updates(), [0, 1, 2])
    expected = aggregate("trimmed_mean", rows, f=3).update
    torch.testing.assert_close(moved(attacked(strategy, "ipm")), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("alone", [True, False])
def test_what_has_the_wrong_shape_is_set_aside_by_a_strategy_that_looks(alone: bool) -> None:
    strategy = RobustStrategy("mean", min_train_nodes=CLIENTS, min_available_nodes=CLIENTS)
    if alone:
        mods = [attack_mod("wrong_shape", malicious={0, 1, 2})]
        result = strategy.start(InProcessGrid(app(mods=mods), CLIENTS), START, 1)
    else:
        result = attacked(strategy, "wrong_shape")
    torch.testing.assert_close(moved(result), updates()[3:].mean(dim=0), rtol=1e-4, atol=1e-5)


def test_an_attack_is_told_whose_updates_it_sees_and_what_rows_are_its_own() -> None:
    seen = []

    @update_attack(evidence="tests/flower/test_flower_attacks.py")
    def looking(benign: Tensor, benign_ids: Tensor, malicious: Tensor, n_malicious: int) -> Tensor:
        """The honest mean, noting whose it is."""
        seen.append((benign_ids.tolist(), malicious.tolist()))
        return benign.mean(dim=0).repeat(n_malicious, 1)

    attacked(all_of(FedAvg), looking)
    assert seen == [([5, 6, 7, 8, 9, 10, 11], [False] * 7 + [True] * 3)]


class Slow(InProcessGrid):
    """Hands out one reply at a pull, the attackers' first."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        there = sorted((n for n in message_ids if n in self._replies), key=int)
        return super().pull_messages(there[:1])


def test_whoever_pulls_by_hand_gets_the_attackers_replies_last() -> None:
    inner = Slow(app(), CLIENTS)
    grid = AdversarialGrid(inner, "alie", malicious=[2, 3, 4])
    content = {"arrays": START, "config": ConfigRecord({"server-round": 1})}
    messages = [Message(RecordDict(content), node, "train") for node in grid.get_node_ids()]
    names, order, rows = set(grid.push_messages(messages)), [], {}
    for _ in range(40):
        for reply in grid.pull_messages(names):
            names.discard(reply.metadata.reply_to_message_id)
            order.append(reply.metadata.src_node_id)
            rows[order[-1]] = torch.from_numpy(reply.content["arrays"]["w"].numpy().ravel() - 1)  # type: ignore[index]
    assert not names
    assert order == [5, 6, 7, 8, 9, 10, 11, 2, 3, 4]
    expected = crafted_among("alie", updates(), [0, 1, 2])
    torch.testing.assert_close(torch.stack([rows[node] for node in sorted(rows)]), expected, rtol=1e-4, atol=1e-5)


def test_an_honest_client_that_fails_is_passed_on_and_not_waited_for() -> None:
    client = app()
    train = client._registered_funcs.pop("train.default")

    @client.train()
    def sometimes(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] == 9:
            raise RuntimeError("down")
        return train(message, context)

    strategy = RobustStrategy("median", f=3, min_train_nodes=CLIENTS, min_available_nodes=CLIENTS)
    grid = AdversarialGrid(InProcessGrid(client, CLIENTS), "ipm", malicious=[2, 3, 4])
    result = strategy.start(grid, START, 1)
    expected = aggregate("median", crafted_among("ipm", updates()[:9], [0, 1, 2])).update
    torch.testing.assert_close(moved(result), expected, rtol=1e-4, atol=1e-5)
    assert [(e.what, e.clients) for e in strategy.events[1]] == [("lost", (11,))]


# ---- Flower's own strategies under attack, and what is wrong with them


def test_multi_krum_of_flower_weights_whom_it_chose_by_what_they_claim() -> None:
    """Blanchard et al. 2017 average the m chosen, each the same."""
    bad = {"claims": 10**9, "epsilon": 0.0}  # the attackers' updates are 0; two of the three are chosen
    theirs = attacked(all_of(MultiKrum, num_malicious_nodes=2, num_nodes_to_select=9), "ipm", **bad)
    ours = RobustStrategy("multi_krum", f=3, options={"m": 9}, min_train_nodes=CLIENTS, min_available_nodes=CLIENTS)
    assert moved(theirs).abs().max() < 1e-3
    assert moved(attacked(ours, "ipm", **bad)).mean() > 0.6


def test_averages_of_flower_make_broken_numbers_of_counts() -> None:
    result = all_of(FedAvg).start(InProcessGrid(app(), CLIENTS), START, 1)
    assert result.arrays["n"].numpy().dtype == np.float64
    ours = RobustStrategy("mean", min_train_nodes=CLIENTS, min_available_nodes=CLIENTS)
    assert ours.start(InProcessGrid(app(), CLIENTS), START, 1).arrays["n"].numpy().dtype == np.int64


def test_fedavg_of_flower_is_whoever_claims_most() -> None:
    assert moved(attacked(all_of(FedAvg), "ipm", claims=10**9)).mean() < 0
    ours = RobustStrategy("mean", min_train_nodes=CLIENTS, min_available_nodes=CLIENTS)
    assert moved(attacked(ours, "ipm", claims=10**9)).mean() > 0.3


BASELINES: dict[str, tuple[FedAvg, str, int]] = {
    "krum": (all_of(Krum, num_malicious_nodes=3), "krum", 3),
    "median": (all_of(FedMedian), "median", 3),
    "trimmed": (all_of(FedTrimmedAvg, beta=0.3 + 1e-9), "trimmed_mean", 3),
    "bulyan": (all_of(Bulyan, num_malicious_nodes=1), "bulyan", 1),
}


OTHER_ATTACKS = [pytest.param(attack, marks=pytest.mark.exhaustive) for attack in ("ipm", "sign_flip")]


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("attack", ["alie", *OTHER_ATTACKS])
def test_flower_s_baselines_are_attacked_as_ours_are(name: str, attack: str) -> None:
    """On small weights, without lies about examples, they agree with the rules of this package."""
    theirs, rule, f = BASELINES[name]
    bad = [2, 3, 4][:f]
    options = {"variant": "one_shot"} if rule == "bulyan" else {}  # Flower's chooses once
    ours = RobustStrategy(rule, f=f, options=options, min_train_nodes=CLIENTS, min_available_nodes=CLIENTS)
    mine, expected = (moved(attacked(strategy, attack, malicious=bad)) for strategy in (theirs, ours))
    torch.testing.assert_close(mine, expected, rtol=1e-3, atol=1e-5)
