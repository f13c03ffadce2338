"""Threads over pieces: order, one intra-op thread each, nothing left behind."""

import threading

import pytest
import torch

from fedpoison.common import parallel


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/", {"cpu.max": "max 100000\n"}, 64),
        ("0::/a/b", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n"}, 2),
        ("0::/a/b", {"a/b/cpu.max": "300000 100000\n", "a/cpu.max": "800000 100000\n"}, 3),
        ("0::/on/the/host", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/", {}, 64),
        ("0::/", {"cpu.max": "9900000 100000\n"}, 64),
        (
            "5:memory:/a\n4:cpu,cpuacct:/a\n0::/a",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "400000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"},
            4,
        ),
        ("4:cpu:/", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ("4:cpuset:/", {"cpuset/cpu.max": "100000 100000\n"}, 64),
    ],
)
def test_a_container_s_quota_counts_as_cores(groups, files, cores, tmp_path, monkeypatch):
    given = {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()}}
    for name, text in given.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(parallel, "Path", lambda root: tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(64)), raising=False)
    assert parallel.available_cores() == cores


def test_where_there_are_no_control_groups_the_affinity_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "Path", lambda root: tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 3, 5}, raising=False)
    assert parallel.available_cores() == 3


@pytest.fixture(autouse=True)
def two_threads_an_operation():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_results_come_in_order_from_as_many_threads_as_asked_for(count):
    barrier = threading.Barrier(count)

    def piece(i: int) -> tuple[int, str, int]:
        barrier.wait(timeout=10)  # all workers are at work at once
        return i, threading.current_thread().name, torch.get_num_threads()

    with parallel.using(count):
        results = list(parallel.in_parallel(piece, range(count)))
    assert [i for i, _, _ in results] == list(range(count))
    assert len({name for _, name, _ in results}) == count
    assert {threads for _, _, threads in results} == {1}


def test_the_caller_has_one_thread_an_operation_meanwhile_and_its_own_number_again():
    running = parallel.in_parallel(lambda i: i, range(3))
    assert next(running) == 0
    assert torch.get_num_threads() == 1  # MKL has one number for the whole process
    assert list(running) == [1, 2]
    assert torch.get_num_threads() == 2
    with parallel.using(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_a_piece_that_fails_fails_the_call_and_leaves_nothing_behind():
    def piece(i: int) -> float:
        return 1 / i

    with pytest.raises(ZeroDivisionError):
        list(parallel.in_parallel(piece, [1, 0, 2]))
    assert torch.get_num_threads() == 2


def test_pieces_within_pieces_do_not_wait_for_each_other():
    def outer(i: int) -> list[int]:
        return list(parallel.in_parallel(lambda j: 10 * i + j, range(3)))

    with parallel.using(2):
        assert list(parallel.in_parallel(outer, range(4))) == [[10 * i + j for j in range(3)] for i in range(4)]


def test_a_piece_that_is_alone_runs_in_the_callers_thread():
    assert list(parallel.in_parallel(lambda _: threading.get_ident(), [0])) == [threading.get_ident()]
    assert threading.get_ident() not in parallel.in_parallel(lambda _: threading.get_ident(), [0, 1])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_what_the_callers_thread_is_set_to_reaches_no_piece(mode):
    def state(_):
        return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")

    with mode():
        for pieces in ([0], [0, 1]):
            assert set(parallel.in_parallel(state, pieces)) == {(True, False, False)}
