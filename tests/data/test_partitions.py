"""Partitions: every sample once, the same for a seed, skewed as asked, and no silent impossibility."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpoison.contract.lookup import entries
from fedpoison.data.partitions.by_label import classes_per_client, gamma_similarity, iid, label_sorted, shards
from fedpoison.data.partitions.dirichlet import dirichlet, dirichlet_by_client, quantity_skew
from fedpoison.data.partitions.label_bias import label_bias
from fedpoison.data.partitions.natural import natural

exactly = settings(derandomize=True, deadline=None, max_examples=60)
PARTITIONS = [entry.function for name, entry in entries("partition").items() if name != "natural"]
LABELS = np.repeat(np.arange(10), 100)


def stream(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def assert_each_sample_once(shards: list[np.ndarray], samples: int, n_clients: int) -> None:
    assert len(shards) == n_clients
    for shard in shards:
        assert shard.dtype == np.int64
        assert (np.diff(shard) > 0).all()
    np.testing.assert_array_equal(np.sort(np.concatenate(shards)), np.arange(samples))


def skew(shards: list[np.ndarray]) -> float:
    """The mean over clients, weighted by size, of the share that a client's commonest class has."""
    return sum(np.bincount(LABELS[shard]).max() for shard in shards) / len(LABELS)


@exactly
@given(labels=st.lists(st.integers(0, 9), min_size=1, max_size=80), data=st.data(), seed=st.integers(0, 2**32))
def test_iid_gives_each_sample_once_and_sizes_alike(labels: list[int], data: st.DataObject, seed: int) -> None:
    n_clients = data.draw(st.integers(1, len(labels)))
    shards = iid(np.array(labels), n_clients, stream(seed))
    assert_each_sample_once(shards, len(labels), n_clients)
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1


@exactly
@given(
    labels=st.lists(st.integers(0, 9), min_size=60, max_size=200),
    n_clients=st.integers(1, 6),
    min_samples=st.integers(1, 3),
    alpha=st.floats(0.5, 1e6),
    seed=st.integers(0, 2**32),
)
def test_dirichlet_gives_each_sample_once_and_enough_to_each(
    labels: list[int], n_clients: int, min_samples: int, alpha: float, seed: int
) -> None:
    shards = dirichlet(np.array(labels), n_clients, stream(seed), alpha=alpha, min_samples=min_samples)
    assert_each_sample_once(shards, len(labels), n_clients)
    assert min(len(shard) for shard in shards) >= min_samples


@pytest.mark.parametrize("alpha", [1e-300, 1e-3, 0.05, 1e300])
def test_dirichlet_loses_nothing_at_extreme_alphas(alpha: float) -> None:
    labels = np.repeat(np.arange(10), 7)  # at tiny alphas a class goes to one client, so two will both get some
    assert_each_sample_once(dirichlet(labels, 2, stream(), alpha=alpha), 70, 2)


@pytest.mark.parametrize("split", PARTITIONS)
def test_a_seed_gives_the_same_split_and_another_seed_another(split: Callable[..., list[np.ndarray]]) -> None:
    first, again, other = (split(LABELS, 13, stream(seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("split", PARTITIONS)
def test_samples_of_a_class_are_shuffled(split: Callable[..., list[np.ndarray]]) -> None:
    options = {"classes": 1} if split is classes_per_client else {}
    shard = split(np.zeros(1000, dtype=np.int64), 2, stream(), **options)[0]
    assert (np.diff(shard) > 1).any()
    assert abs(shard.mean() - 499.5) < 100


def test_a_smaller_alpha_is_more_skewed() -> None:
    skews = [
        np.mean([skew(dirichlet(LABELS, 10, stream(seed), alpha=alpha)) for seed in range(20)])
        for alpha in (0.05, 0.5, 5.0, 1e5)
    ]
    assert skews[0] > 0.4  # several times an even split's
    assert skews == sorted(skews, reverse=True)
    assert skews[-1] == pytest.approx(0.1, abs=0.01)  # ten classes, all alike


def test_shares_have_the_mean_and_variance_of_the_dirichlet_distribution() -> None:
    labels, n_clients, alpha = np.repeat(np.arange(10), 1000), 5, 1.0
    shares = np.array(
        [
            np.bincount(labels[shard], minlength=10) / 1000
            for seed in range(200)
            for shard in dirichlet(labels, n_clients, stream(seed), alpha=alpha)
        ]
    )
    mean = 1 / n_clients
    assert shares.mean() == pytest.approx(mean)
    assert shares.var() == pytest.approx(mean * (1 - mean) / (n_clients * alpha + 1), rel=0.05)
    for client in range(n_clients):  # the cuts favour nobody
        assert shares[client::n_clients].mean() == pytest.approx(mean, abs=0.02)


@pytest.mark.parametrize("split", PARTITIONS)
@pytest.mark.parametrize(
    ("n_clients", "message"),
    [(0, "n_clients = 0"), (-1, "n_clients = -1"), (1001, "1000 samples are too few for 1001 clients")],
)
def test_impossible_numbers_of_clients_are_refused(
    split: Callable[..., list[np.ndarray]], n_clients: int, message: str
) -> None:
    with pytest.raises(ValueError, match=f"{split.__name__}: .*{message}"):
        split(LABELS, n_clients, stream())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.0}, "alpha must be a finite number above 0, it is 0.0"),
        ({"alpha": -1.0}, "it is -1.0"),
        ({"alpha": float("nan")}, "it is nan"),
        ({"alpha": float("inf")}, "it is inf"),
        ({"alpha": 1.7e308}, r"it is 1.7e\+308"),
        ({"min_samples": 0}, "min_samples = 0 must be at least 1"),
        ({"min_samples": 101}, "1000 samples are too few for 10 clients with 101 each"),
        (
            {"alpha": 0.01, "min_samples": 100},
            r"dirichlet with alpha = 0.01: in 1000 draws of 1000 samples over 10 clients the smallest client "
            r"never had more than \d+ samples, min_samples = 100; raise alpha, or lower min_samples",
        ),
    ],
)
def test_dirichlet_refuses_what_cannot_be(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dirichlet(LABELS, 10, stream(), **options)


@pytest.mark.parametrize("split", [dirichlet, quantity_skew])
def test_draws_that_are_not_taken_make_no_shards(
    split: Callable[..., list[np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    monkeypatch.setattr(np, "split", lambda *given: made.append(1))
    with pytest.raises(ValueError, match="in 1000 draws of 1000 samples over 500 clients"):
        split(LABELS, 500, stream(), alpha=0.1)
    assert not made


# The others, each by what defines it


@pytest.mark.parametrize("split", PARTITIONS)
@pytest.mark.parametrize("n_clients", [1, 10, 20, 37])
def test_each_split_gives_each_sample_once_and_some_to_each(
    split: Callable[..., list[np.ndarray]], n_clients: int
) -> None:
    if n_clients == 1 and split in (label_bias, classes_per_client):  # ten groups, or two of ten classes
        with pytest.raises(ValueError, match="1 clients"):
            split(LABELS, n_clients, stream())
        return
    parts = split(np.random.default_rng(5).permutation(LABELS), n_clients, stream(n_clients))
    assert_each_sample_once(parts, len(LABELS), n_clients)
    assert min(map(len, parts)) > 0


def classes_of(parts: list[np.ndarray], labels: np.ndarray = LABELS) -> list[list[int]]:
    return [np.unique(labels[part]).tolist() for part in parts]


def test_label_sorted_gives_each_client_neighbouring_classes() -> None:
    labels = np.random.default_rng(0).permutation(LABELS)
    assert classes_of(label_sorted(labels, 10, stream()), labels) == [[c] for c in range(10)]
    assert classes_of(label_sorted(labels, 5, stream()), labels) == [[c, c + 1] for c in range(0, 10, 2)]
    halves = classes_of(label_sorted(labels, 20, stream()), labels)
    assert halves == [[c] for c in range(10) for _ in range(2)]


@exactly
@given(gamma=st.floats(0, 1), n_clients=st.integers(1, 1000), seed=st.integers(0, 999))
def test_gamma_similarity_deals_its_share_at_random(gamma: float, n_clients: int, seed: int) -> None:
    parts = gamma_similarity(LABELS, n_clients, stream(seed), gamma=gamma)
    assert_each_sample_once(parts, len(LABELS), n_clients)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("gamma", "end"), [(0.0, label_sorted), (1.0, iid)])
def test_the_ends_of_gamma_are_sorted_and_iid(gamma: float, end: Callable[..., list[np.ndarray]]) -> None:
    for mine, theirs in zip(
        gamma_similarity(LABELS, 30, stream(), gamma=gamma), end(LABELS, 30, stream()), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


def test_gamma_is_between_sorted_and_iid() -> None:
    assert classes_of(gamma_similarity(LABELS, 10, stream(), gamma=0.0)) == [[c] for c in range(10)]
    skews = [skew(gamma_similarity(LABELS, 10, stream(), gamma=gamma)) for gamma in (0.0, 0.3, 0.7, 1.0)]
    assert skews == sorted(skews, reverse=True)
    assert skews[1] == pytest.approx(0.7 + 0.3 * 0.1, abs=0.05)
    assert skews[3] == pytest.approx(skew(iid(LABELS, 10, stream())), abs=0.02)


@pytest.mark.parametrize("per_client", [1, 2, 5])
def test_shards_are_equal_pieces_of_the_sorted_samples(per_client: int) -> None:
    n_clients = 20
    labels = np.random.default_rng(0).permutation(LABELS)
    parts = shards(labels, n_clients, stream(), per_client=per_client)
    size = len(LABELS) // n_clients
    assert [len(part) for part in parts] == [size] * n_clients
    assert all(1 <= len(classes) <= min(per_client, 10) for classes in classes_of(parts, labels))
    if per_client < 5:  # a shard of 50 or 25 samples lies within a class of 100
        for part in parts:
            assert set(np.bincount(labels[part], minlength=10) % (size // per_client)) == {0}


@pytest.mark.parametrize("classes", [1, 2, 3, 10])
@pytest.mark.parametrize("n_clients", [10, 17])
def test_a_client_has_exactly_so_many_classes_and_even_parts_of_them(classes: int, n_clients: int) -> None:
    parts = classes_per_client(LABELS, n_clients, stream(classes), classes=classes)
    assert [len(mine) for mine in classes_of(parts)] == [classes] * n_clients
    counts = np.array([np.bincount(LABELS[part], minlength=10) for part in parts])
    owners = (counts > 0).sum(axis=0)
    assert owners.max() - owners.min() <= 1
    for column in counts.T:
        assert np.ptp(column[column > 0]) <= 1
    if classes == 2 and n_clients == 17:
        assert len({tuple(mine) for mine in classes_of(parts)}) > 5  # not always the same pairs


def test_classes_per_client_refuses_what_cannot_be() -> None:
    for n_clients, classes in ((3, 2), (10, 11)):
        with pytest.raises(ValueError, match=f"{n_clients} clients with {classes} classes each cannot share 10"):
            classes_per_client(LABELS, n_clients, stream(), classes=classes)


@pytest.mark.parametrize("q", [0.1, 0.5, 0.9, 1.0])
def test_label_bias_is_the_share_of_a_label_in_its_group(q: float) -> None:
    labels = np.repeat(np.arange(10), 2000)
    parts = label_bias(labels, 10, stream(), q=q)  # a client a group
    counts = np.array([np.bincount(labels[part], minlength=10) for part in parts])
    own = counts.argmax(axis=1)
    if q > 0.2:
        assert sorted(own.tolist()) == list(range(10))
        assert counts[np.arange(10), own] / 2000 == pytest.approx(np.full(10, q), abs=0.04)
        others = counts[np.arange(10) != own[:, None]].reshape(10, 9)
        assert others / 2000 == pytest.approx(np.full((10, 9), (1 - q) / 9), abs=0.025)
    else:
        assert counts / 2000 == pytest.approx(np.full((10, 10), 0.1), abs=0.03)


def test_the_clients_of_a_group_are_alike_and_anywhere() -> None:
    parts = label_bias(LABELS, 23, stream(), q=1.0)
    own = [mine for (mine,) in classes_of(parts)]
    sizes = np.bincount(own)
    assert sorted(sizes.tolist()) == [2] * 7 + [3] * 3
    assert own != sorted(own)
    with pytest.raises(ValueError, match="9 clients are fewer than the 10 classes"):
        label_bias(LABELS, 9, stream())


def test_dirichlet_by_client_keeps_sizes_and_draws_shares() -> None:
    parts = dirichlet_by_client(LABELS, 7, stream(), alpha=1.0)
    assert sorted(len(part) for part in parts) == [142, 143, 143, 143, 143, 143, 143]
    firsts = []
    for seed in range(300):  # the first client draws from all there is: Dir(alpha · p)
        first = dirichlet_by_client(LABELS, 50, stream(seed), alpha=20.0)[0]
        firsts.append(np.bincount(LABELS[first], minlength=10) / len(first))
    shares = np.array(firsts)
    assert shares.mean(axis=0) == pytest.approx(np.full(10, 0.1), abs=0.02)
    drawn, of_multinomial = (
        0.1 * 0.9 / 21,
        0.1 * 0.9 / 20 * (1 - 1 / 21),
    )  # variances of shares, and of counts given them
    assert shares.var() == pytest.approx(drawn + of_multinomial, rel=0.1)


def test_dirichlet_by_client_is_more_skewed_the_smaller_alpha() -> None:
    skews = [skew(dirichlet_by_client(LABELS, 10, stream(), alpha=alpha)) for alpha in (0.01, 1.0, 10.0, 1e4)]
    assert skews == sorted(skews, reverse=True)
    assert skews[0] > 0.6
    assert skews[-1] < 0.2


def test_quantity_skew_is_of_sizes_and_not_of_labels() -> None:
    labels = np.repeat(np.arange(10), 2000)
    sizes = []
    for alpha in (0.5, 50.0):
        parts = quantity_skew(labels, 10, stream(1), alpha=alpha, min_samples=100)
        sizes.append(np.std([len(part) for part in parts]))
        for part in parts:
            if len(part) > 1000:
                assert np.bincount(labels[part], minlength=10) / len(part) == pytest.approx(np.full(10, 0.1), abs=0.05)
        assert min(map(len, parts)) >= 100
    assert sizes[0] > 3 * sizes[1]
    drawn = [len(quantity_skew(labels, 5, stream(s), alpha=2.0)[0]) / len(labels) for s in range(400)]
    assert np.var(drawn) == pytest.approx(0.2 * 0.8 / 11, rel=0.15)


def test_natural_takes_people_as_they_are() -> None:
    clients = np.array([3, 3, 9, 7, 7, 7, 9, 9, 9])
    assert [part.tolist() for part in natural(clients, 3, stream())] == [[0, 1], [3, 4, 5], [2, 6, 7, 8]]
    assert [part.tolist() for part in natural(clients, 2, stream())] == [[3, 4, 5], [2, 6, 7, 8]]
    drawn = {tuple(map(tuple, natural(clients, 1, stream(s), keep="random"))) for s in range(30)}
    assert len(drawn) == 3
    with pytest.raises(ValueError, match="the data have 3 clients by nature, not 4"):
        natural(clients, 4, stream())
