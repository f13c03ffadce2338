"""Streams: the same for the same name, another for any other, and nothing global is touched."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpoison.common.seeding import PURPOSES, Stream

names = st.builds(
    Stream,
    seed=st.integers(0, 2**70),
    purpose=st.sampled_from(PURPOSES),
    round=st.integers(0, 10_000),
    client=st.integers(0, 10_000),
)
exactly = settings(derandomize=True, deadline=None, max_examples=60)


def numpy_numbers(stream: Stream) -> list[int]:
    return stream.numpy().integers(0, 2**63, 4).tolist()


def torch_numbers(stream: Stream) -> list[int]:
    return torch.randint(2**62, (4,), generator=stream.torch()).tolist()


@exactly
@given(name=names)
def test_a_stream_starts_alike_whenever_it_is_opened(name: Stream) -> None:
    first, second = numpy_numbers(name), torch_numbers(name)
    Stream(1, "attack").numpy().random(3)
    assert numpy_numbers(Stream(*name)) == first
    assert torch_numbers(Stream(*name)) == second
    assert 0 <= name.integer() < 2**63
    assert name.integer() == Stream(*name).integer()


@exactly
@given(a=names, b=names)
def test_streams_of_different_names_differ(a: Stream, b: Stream) -> None:
    assert (numpy_numbers(a) == numpy_numbers(b)) == (a == b)
    assert (a.integer() == b.integer()) == (a == b)


@pytest.mark.parametrize("numbers", [numpy_numbers, torch_numbers, Stream.integer])
def test_every_part_of_the_name_counts(numbers) -> None:  # type: ignore[no-untyped-def]
    base = Stream(3, "attack", 4, 5)
    others = [
        Stream(2, "attack", 4, 5),
        Stream(3, "defence", 4, 5),
        Stream(3, "attack", 5, 5),
        Stream(3, "attack", 4, 4),
        Stream(3, "attack", 5, 4),
        Stream(4, "attack", 3, 5),
        Stream(3 + 2**32, "attack", 4, 5),
    ]
    drawn = [numbers(stream) for stream in (base, *others)]
    assert all(drawn.count(result) == 1 for result in drawn)


def test_no_two_of_a_runs_streams_are_the_same() -> None:
    numbers = {
        Stream(seed, purpose, round, client).integer()
        for seed in range(3)
        for purpose in PURPOSES
        for round in range(12)
        for client in range(12)
    }
    assert len(numbers) == 3 * len(PURPOSES) * 12 * 12


def test_a_stream_leaves_the_global_generators_alone_and_does_not_heed_them() -> None:
    drawn = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
        name = Stream(7, "cohort", 1)
        drawn.append((numpy_numbers(name), torch_numbers(name), name.integer()))
        after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
        assert before == after
    assert drawn[0] == drawn[1]
