"""Attacks that keep labels: what each makes features, gradients or losses do, within its norm, and one federation."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedpoison.attacks.data.badnets import stamp
from fedpoison.attacks.data.bullseye_polytope import off_centre
from fedpoison.attacks.data.feature_collision import backward_step, collide
from fedpoison.attacks.data.hidden_trigger import pair
from fedpoison.attacks.data.label_consistent import mark
from fedpoison.attacks.data.perturbing import adam, norms, pgd, within_l2, within_linf
from fedpoison.attacks.data.victims import aim_at_one
from fedpoison.attacks.data.witches_brew import DECAYS, mismatch, slope
from fedpoison.common import parallel
from fedpoison.config.config import parse
from fedpoison.contract.lookup import find, left_out
from fedpoison.models.features import features
from fedpoison.round import play
from fedpoison.runs.simulation import simulate
from fedpoison.runs.world import build

TARGETED = ["feature_collision", "bullseye_polytope", "witches_brew"]
CLEAN_LABEL = [*TARGETED, "hidden_trigger", "label_consistent", "adversarial_poisoning", "noisy_samples"]
IN_A_BOX = ["bullseye_polytope", "witches_brew", "hidden_trigger", "adversarial_poisoning"]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int, seed: int = 1) -> Tensor:
    """Numbers about 0.5 that leave room on either side."""
    return 0.2 + 0.6 * torch.rand(*shape, generator=rng(seed))


LABELS = torch.tensor([0, 1, 2] * 8)
IMAGES = draw(24, 1, 12, 12)
VICTIM = draw(1, 1, 12, 12, seed=2)


@pytest.fixture(scope="module")
def net() -> nn.Sequential:
    """A net of 144 pixels, 8 features and 3 classes that was trained a little."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = nn.Sequential(nn.Flatten(), nn.Linear(144, 8), nn.Tanh(), nn.Linear(8, 3))
        for _ in range(60):
            trained = list(made.parameters())
            gradients = torch.autograd.grad(cross_entropy(made(IMAGES), LABELS), trained)
            with torch.no_grad():
                for parameter, gradient in zip(trained, gradients, strict=True):
                    parameter -= 0.3 * gradient
    return made.eval()


def poison(name: str, net: nn.Module, **options: Any) -> tuple[Tensor, Tensor]:
    entry = find("data_attack", name)
    supply = {
        "images": options.pop("images", IMAGES),
        "labels": options.pop("labels", LABELS),
        "n_classes": 3,
        "victims": VICTIM,
        "surrogate": net,
        "rng": rng(),
    }
    poisoned, labels = entry.call(supply, entry.validate(options))
    assert torch.equal(labels, supply["labels"])
    return poisoned, labels


def of_target(images: Tensor) -> Tensor:
    return images[LABELS == 0]


def seen(net: nn.Module, images: Tensor) -> Tensor:
    """The features by hand: all but the last layer."""
    assert isinstance(net, nn.Sequential)
    with torch.no_grad():
        return net[:-1](images)


# Their common parts


def test_features_are_what_the_last_linear_layer_sees(net: nn.Sequential) -> None:
    assert torch.equal(features(net, IMAGES), seen(net, IMAGES))
    pooled = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(200, 3), nn.Dropout(0.5)).eval()
    assert torch.equal(features(pooled, IMAGES), pooled[:3](IMAGES))
    assert not pooled[3]._forward_pre_hooks
    with pytest.raises(ValueError, match="this Flatten has none"):
        features(nn.Flatten(), IMAGES)


@pytest.mark.parametrize("epsilon", [0.0, 8 / 255, 0.1, 0.3, 1.0])
def test_the_box_is_held_exactly_and_not_a_pixel_smaller_than_float32_allows(epsilon: float) -> None:
    bases = torch.cat([torch.rand(50, 1, 7, 7, generator=rng()), torch.zeros(1, 1, 7, 7), torch.ones(1, 1, 7, 7)])
    for direction in (-1.0, 1.0):
        moved = within_linf(bases, epsilon)(bases + 2 * direction)
        gap = (moved.double() - bases.double()).abs()
        assert (gap <= epsilon).all()
        assert moved.min() >= 0
        assert moved.max() <= 1
        room = ((bases if direction < 0 else 1 - bases).double()).clamp(max=epsilon)
        torch.testing.assert_close(gap, room, rtol=0, atol=1e-7)
    inside = bases + 0.5 * epsilon * (0.5 - bases)
    assert torch.equal(within_linf(bases, epsilon)(inside), inside)


def test_the_ball_is_held() -> None:
    bases = torch.rand(50, 1, 28, 28, generator=rng())
    far = bases + torch.randn(50, 1, 28, 28, generator=rng(3))
    held = within_l2(bases, 2.0)(far)
    distances = (held.double() - bases.double()).flatten(1).norm(dim=1)
    assert (distances <= 2).all()
    assert held.min() >= 0
    assert held.max() <= 1
    middle = torch.full((3, 1, 4, 4), 0.5)
    shift = 0.1 * torch.randn(3, 1, 4, 4, generator=rng(4))
    torch.testing.assert_close(
        within_l2(middle, 0.2)(middle + shift) - middle, 0.2 * shift / norms(shift), rtol=2e-5, atol=1e-6
    )
    near = bases + 1e-3 * (0.5 - bases)
    torch.testing.assert_close(within_l2(bases, 2.0)(near), near)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_descent_on_a_plane_goes_where_the_norm_lets_it(norm: str) -> None:
    """The least of ⟨w, x⟩ in a ball about the base is −ε sign(w) from it, or −ε w/‖w‖."""
    slope, bases = torch.randn(4, 1, 5, 5, generator=rng()), torch.full((4, 1, 5, 5), 0.5)
    project = (within_linf if norm == "linf" else within_l2)(bases, 0.3)
    found = pgd(lambda x: (slope * x).sum(), bases, project, 0.05, 30, norm)
    best = -0.3 * (slope.sign() if norm == "linf" else slope / norms(slope))
    torch.testing.assert_close(found - bases, best, rtol=1e-4, atol=1e-5)


def test_adams_steps_on_signs_are_the_rate_and_fall_as_said() -> None:
    slope, bases = torch.randn(2, 1, 3, 3, generator=rng()), torch.full((2, 1, 3, 3), 0.5)
    found = adam(lambda x: (slope * x).sum(), bases, within_linf(bases, 1.0), 0.01, 8, signed=True, decays=DECAYS)
    way = 0.01 * (3 + 2 * 0.1 + 2 * 0.01 + 0.001)  # three whole steps, two of a tenth, two of a hundredth, the last
    torch.testing.assert_close(found - bases, -way * slope.sign(), rtol=1e-4, atol=1e-6)


def test_the_victim_is_counted_among_the_test_samples_of_its_class() -> None:
    labels = torch.tensor([1, 0, 2, 1, 1, 0])
    presented, wanted = aim_at_one(IMAGES[:6], labels, 3, source=1, target=2, victim=1, share=1.0)
    assert torch.equal(presented, IMAGES[:6])
    assert wanted.tolist() == [-1, -1, -1, 2, -1, -1]
    with pytest.raises(ValueError, match="victim = 3 counts test samples of class 1 from 0, and there are 3 of them"):
        aim_at_one(IMAGES[:6], labels, 3, source=1, target=2, victim=3)


@pytest.mark.parametrize("name", [*TARGETED, "hidden_trigger", "label_consistent"])
def test_classes_that_are_not_there_are_refused(name: str) -> None:
    entry = find("data_attack", name)
    missing = entry.check(3, **entry.validate({"target": 3}))
    assert missing == [f"{name}: there is no class 3, the classes are 0 to 2"]
    if name != "label_consistent":
        assert len(entry.check(3, **entry.validate({"source": -1, "target": 7}))) == 2
        assert "nothing would be gained" in entry.check(3, **entry.validate({"source": 2, "target": 2}))[0]


@pytest.mark.parametrize("name", CLEAN_LABEL)
def test_only_the_chosen_share_is_touched_and_no_label(net: nn.Sequential, name: str) -> None:
    poisoned, _ = poison(name, net, share=0.5)
    changed = (poisoned != IMAGES).flatten(1).any(dim=1)
    if name in ("adversarial_poisoning", "noisy_samples"):
        assert int(changed.sum()) == 12
    else:
        assert int(changed.sum()) == 4
        assert set(LABELS[changed].tolist()) == {0}


@pytest.mark.parametrize("name", CLEAN_LABEL)
def test_an_attacker_without_samples_to_poison_hands_on_copies(net: nn.Sequential, name: str) -> None:
    options = {"share": 0.0} if name in ("adversarial_poisoning", "noisy_samples") else {}
    labels = LABELS.clamp(min=1)
    poisoned, _ = poison(name, net, labels=labels, **options)
    assert torch.equal(poisoned, IMAGES)
    assert poisoned is not IMAGES
    empty, _ = poison(name, net, images=IMAGES[:0], labels=LABELS[:0])
    assert empty.shape == (0, 1, 12, 12)


@pytest.mark.parametrize("name", IN_A_BOX)
@pytest.mark.parametrize("epsilon", [8 / 255, 0.1])
def test_perturbations_keep_to_their_norm(net: nn.Sequential, name: str, epsilon: float) -> None:
    images = torch.rand(24, 1, 12, 12, generator=rng(5))
    poisoned, _ = poison(name, net, images=images, epsilon=epsilon)
    gap = (poisoned.double() - images.double()).abs()
    assert gap.max() <= epsilon
    assert gap.max() > 0.9 * epsilon
    assert poisoned.min() >= 0
    assert poisoned.max() <= 1


# Feature collision


def test_the_backward_step_is_the_papers() -> None:
    forward, base = torch.tensor([[0.2, 0.9, 3.0, -1.0]]), torch.tensor([[0.6, 0.5, 1.0, 0.0]])
    expected = torch.tensor([[0.3, 0.8, 1.0, 0.0]])  # (x̂ + 1/3 b) / (1 + 1/3); the last two leave [0, 1]
    torch.testing.assert_close(backward_step(forward, base, 1 / 6, 2.0), expected)
    grid = torch.linspace(0, 1, 100_001)
    for x, b in zip(forward[0], base[0], strict=True):
        costs = (grid - x).square() / 2 + 1 / 6 * (grid - b).square()
        best = backward_step(x.view(1, 1), b.view(1, 1), 1 / 6, 2.0).item()
        assert best == pytest.approx(grid[costs.argmin()].item(), abs=1e-5)


def test_feature_collision_reaches_the_victims_features_near_the_base(net: nn.Sequential) -> None:
    poisoned, _ = poison("feature_collision", net, beta=0.01)
    before, after = ((seen(net, of_target(x)) - seen(net, VICTIM)).norm(dim=1) for x in (IMAGES, poisoned))
    assert (after < before / 10).all()
    moved, apart = (norms(of_target(x) - y).flatten() for x, y in ((poisoned, of_target(IMAGES)), (IMAGES, VICTIM)))
    assert (moved < 0.4 * apart).all()  # the victim's features, far from being the victim


def test_feature_collision_ends_where_the_objective_is_stationary(net: nn.Sequential) -> None:
    """No step down ‖φ(x) − φ(t)‖² + β/2 ‖x − b‖² is left, and a larger β stays nearer to the base."""
    bases, gaps = of_target(IMAGES), []
    for beta in (0.05, 0.5):
        found = collide(net, bases, VICTIM, beta, 0.1, 1000).requires_grad_()
        objective = (net[:-1](found) - net[:-1](VICTIM)).square().sum() + beta / 2 * (found - bases).square().sum()
        (gradient,) = torch.autograd.grad(objective, found)
        inside = (found > 0) & (found < 1)
        assert gradient[inside].abs().max() < 1e-3
        gaps.append((found - bases).norm().item())
    assert gaps[1] < gaps[0]


def test_a_watermark_shifts_the_base_towards_the_victim(net: nn.Sequential) -> None:
    poisoned, _ = poison("feature_collision", net, opacity=0.3, beta=1e6, lr=1e-9, iterations=1)
    torch.testing.assert_close(of_target(poisoned), 0.3 * VICTIM + 0.7 * of_target(IMAGES), rtol=0, atol=1e-4)


# Bullseye Polytope


def test_bullseye_polytope_has_its_mean_at_the_victims_features(net: nn.Sequential) -> None:
    poisoned, _ = poison("bullseye_polytope", net)
    goal = seen(net, VICTIM)[0]
    means = [seen(net, of_target(x)).mean(dim=0) for x in (IMAGES, poisoned)]
    before, after = ((mean - goal).norm() for mean in means)
    assert after < before / 10
    expected = 0.5 * (means[1] - goal).square().sum() / goal.square().sum()
    torch.testing.assert_close(off_centre(net, of_target(poisoned), features(net, VICTIM)[0]).detach(), expected)
    apart = (seen(net, of_target(poisoned)) - goal).norm(dim=1)
    assert apart.min() > 3 * after  # the mean is there, none of them is


# Witches' Brew


def test_witches_brew_matches_gradients(net: nn.Sequential) -> None:
    poisoned, _ = poison("witches_brew", net)

    def gradient(images: Tensor) -> Tensor:
        """The gradient for class 0, a sample at a time."""
        each = [cross_entropy(net(image[None]), torch.tensor([0])) for image in images]
        return torch.cat([g.flatten() for g in torch.autograd.grad(sum(each) / len(each), list(net.parameters()))])

    wanted = gradient(VICTIM)
    torch.testing.assert_close(slope(net, VICTIM, torch.tensor([0])), wanted)
    losses = []
    for images in map(of_target, (IMAGES, poisoned)):
        mine = gradient(images)
        losses.append(1 - (mine @ wanted / (mine.norm() * wanted.norm())).item())
        found = mismatch(net, images, torch.zeros(8, dtype=torch.int64), wanted).item()
        assert found == pytest.approx(losses[-1], abs=1e-5)
    assert losses[1] < 0.6 * losses[0]


def test_more_restarts_are_never_worse(net: nn.Sequential) -> None:
    wanted = slope(net, VICTIM, torch.tensor([0]))
    reached = []
    for restarts in (1, 2, 4):
        poisoned, _ = poison("witches_brew", net, restarts=restarts, iterations=8)
        reached.append(mismatch(net, of_target(poisoned), torch.zeros(8, dtype=torch.int64), wanted).item())
    assert reached == sorted(reached, reverse=True)


def test_a_frozen_front_has_no_part_in_the_gradients(net: nn.Sequential) -> None:
    front = nn.Sequential(*net[:-1]).requires_grad_(False)
    end = nn.Linear(8, 3)
    end.load_state_dict(net[-1].state_dict())
    assert slope(nn.Sequential(front, end), VICTIM, torch.tensor([0])).numel() == 27
    net.requires_grad_(True)


# Label-consistent backdoors


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.05), ("l2", 0.5)])
def test_label_consistent_samples_are_harder_and_carry_the_trigger(
    net: nn.Sequential, norm: str, epsilon: float
) -> None:
    hidden, _ = poison("label_consistent", net, norm=norm, epsilon=epsilon, amplitude=0.0)
    moved = of_target(hidden).double() - of_target(IMAGES).double()
    size = moved.abs().max() if norm == "linf" else moved.flatten(1).norm(dim=1).max()
    assert 0.9 * epsilon < size <= epsilon
    own = torch.zeros(8, dtype=torch.int64)
    losses = [cross_entropy(net(of_target(x)), own, reduction="none") for x in (IMAGES, hidden)]
    assert (losses[1] > 1.2 * losses[0]).all()
    shown, _ = poison("label_consistent", net, norm=norm, epsilon=epsilon)
    assert torch.equal(of_target(shown), mark(of_target(hidden), "all", 1.0))


def test_the_trigger_is_the_authors() -> None:
    """Written down from their table of places, from the outer corner: bright, dark, bright, …"""
    grey = torch.full((1, 2, 8, 8), 0.5)
    one = mark(grey, "bottom_right", 1.0)[0, 1]
    assert one[5:, 5:].tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 1]]
    assert int((one != 0.5).sum()) == 9
    every = mark(grey, "all", 1.0)[0, 0]
    assert every[5:, 5:].tolist() == every[:3, 5:].tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 1]]
    assert every[5:, :3].tolist() == every[:3, :3].tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 1]]
    faint = mark(grey, "all", 0.25)[0, 0]
    torch.testing.assert_close(faint - 0.5, 0.5 * (every - 0.5))
    with pytest.raises(ValueError, match="does not fit into 2 × 8"):
        mark(grey[:, :, :2], "all", 1.0)


def test_every_other_class_with_the_trigger_is_wanted() -> None:
    entry = find("data_attack", "label_consistent")
    presented, wanted = entry.aim(IMAGES, LABELS, 3, **entry.validate({"target": 1, "amplitude": 0.5}))
    assert torch.equal(presented, mark(IMAGES, "all", 0.5))
    assert torch.equal(wanted, torch.where(LABELS == 1, -1, 1))


# Hidden triggers


def test_pairs_are_the_closest_of_those_left() -> None:
    distances = torch.tensor([[5.0, 1.0, 9.0], [6.0, 2.0, 3.0], [4.0, 8.0, 7.0]])
    assert pair(distances).tolist() == [1, 2, 0]
    drawn = torch.rand(9, 9, generator=rng())
    assert sorted(pair(drawn).tolist()) == list(range(9))


def test_hidden_trigger_reaches_the_features_of_patched_sources(net: nn.Sequential) -> None:
    poisoned, _ = poison("hidden_trigger", net, epsilon=0.15, lr=0.1, iterations=200)
    goals = seen(net, stamp(IMAGES[LABELS == 1], "bottom_right", 3, 1.0))
    before, after = (seen(net, of_target(x)) for x in (IMAGES, poisoned))
    far = torch.cdist(before, goals)
    assert (torch.cdist(after, goals).min(dim=1).values < far.min(dim=1).values / 10).all()
    assert sorted(torch.cdist(after, goals).argmin(dim=1).tolist()) == list(range(8))  # one each
    assert not (of_target(poisoned)[:, :, -4:-1, -4:-1] == 1).any()  # no patch is seen


def test_only_the_source_class_with_the_patch_is_wanted() -> None:
    entry = find("data_attack", "hidden_trigger")
    presented, wanted = entry.aim(IMAGES, LABELS, 3, **entry.validate({"source": 2, "target": 1}))
    assert torch.equal(presented, stamp(IMAGES, "bottom_right", 3, 1.0))
    assert torch.equal(wanted, torch.where(LABELS == 2, 1, -1))


def test_few_sources_are_used_again_and_none_leaves_all_as_it_was(net: nn.Sequential) -> None:
    few = LABELS.clone()
    few[few == 1] = 2
    poisoned, _ = poison("hidden_trigger", net, labels=few)
    assert torch.equal(poisoned, IMAGES)
    few[1] = 1
    poisoned, _ = poison("hidden_trigger", net, labels=few)
    assert int((poisoned != IMAGES).flatten(1).any(dim=1).sum()) == 8


# Attacks on availability


def test_adversarial_poison_is_taken_for_the_next_class(net: nn.Sequential) -> None:
    poisoned, _ = poison("adversarial_poisoning", net, epsilon=0.3)
    assert torch.equal(net(poisoned).argmax(dim=1), (LABELS + 1) % 3)
    away, _ = poison("adversarial_poisoning", net, epsilon=0.3, towards="away")
    losses = [cross_entropy(net(x), LABELS).item() for x in (IMAGES, poisoned, away)]
    assert losses[0] < losses[1] < losses[2] + 1e-6


def test_noise_is_uniform_and_cut_off() -> None:
    grey = torch.full((2000, 1, 4, 4), 0.5)
    entry = find("data_attack", "noisy_samples")
    labels = torch.zeros(2000, dtype=torch.int64)
    supply = {"images": grey, "labels": labels, "rng": rng()}
    noise = entry.call(supply, entry.validate({"amplitude": 0.4}))[0] - 0.5
    assert -0.4 <= noise.min() < -0.399
    assert 0.399 < noise.max() <= 0.4
    assert noise.std().item() == pytest.approx(0.4 / math.sqrt(3), rel=0.01)
    cut = entry.call(supply, entry.validate({}))[0]
    for edge in (0.0, 1.0):
        assert (cut == edge).double().mean().item() == pytest.approx(0.2 / 1.4, rel=0.05)


@pytest.mark.parametrize("name", ["adversarial_poisoning", "noisy_samples"])
def test_availability_is_all_that_they_are_after(name: str) -> None:
    entry = find("data_attack", name)
    assert entry.goal == "availability"
    assert (entry.aim(IMAGES, LABELS, 3, **entry.validate({}))[1] == -1).all()


def test_what_is_left_out_says_why() -> None:
    assert {"sleeper_agent", "convex_polytope"} <= set(left_out("data_attack"))


# In a federation: the last layer is trained anew on a frozen backbone, on data that an outsider poisons


def table(**changes: Any) -> dict[str, Any]:
    return {
        "name": "t",
        "rounds": 4,
        "evaluate_every": 4,
        "data": "digits",
        "model": {"name": "mlp", "hidden": [24]},
        "clients": {"count": 5, "local": {"epochs": 2, "lr": 0.1}},
        **changes,
    }


@pytest.fixture(scope="module")
def last_record(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """The last record of a run that trains the last layer of a net that was trained before."""
    backbone = simulate(parse(table(rounds=10, evaluate_every=10)), tmp_path_factory.mktemp("backbone")).model
    warm = {"file": str(backbone), "train_last": 1, "fresh": True}

    def run(attack: dict[str, Any], **threat: Any) -> dict[str, Any]:
        with parallel.using(2):
            world, state = build(parse(table(warm_start=warm, threat={"data": attack, "surrogate": 5, **threat})))
            while state.round < world.rounds:
                state, record = play(state, world)
        return record

    return run


def share_lost(
    last_record: Callable[..., dict[str, Any]], attack: dict[str, Any], victims: int = 8, **threat: Any
) -> float:
    """Of so many victims, nines, the share that is taken for an eight."""
    attack = {"source": 9, "target": 8, **attack}
    return sum(last_record({**attack, "victim": v}, **threat)["target_success"] for v in range(victims)) / victims


def test_no_victim_is_lost_without_poison(last_record: Callable[..., dict[str, Any]]) -> None:
    assert share_lost(last_record, {"name": "feature_collision"}, malicious=0) == 0


@pytest.mark.parametrize("victims", [3, pytest.param(8, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("feature_collision", {}),
        pytest.param("bullseye_polytope", {"epsilon": 0.3}, marks=pytest.mark.exhaustive),
        pytest.param("witches_brew", {"epsilon": 0.3}, marks=pytest.mark.exhaustive),
    ],
)
def test_most_victims_are_lost_to_an_outsiders_poison(
    last_record: Callable[..., dict[str, Any]], name: str, options: dict[str, Any], victims: int
) -> None:
    assert share_lost(last_record, {"name": name, **options}, victims, malicious=5, actor="data") >= 0.6


def test_honest_samples_keep_most_victims_from_two_malicious_clients(
    last_record: Callable[..., dict[str, Any]],
) -> None:
    assert share_lost(last_record, {"name": "feature_collision"}, malicious=2) <= 0.25
