"""The kernels in C against the plain routes, and that these are taken wherever the kernels may not be."""

import ctypes
import os
import platform
import shutil
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
import torch
from torch import Tensor

import fedpoison
from fedpoison.common.errors import ConfigError
from fedpoison.contract.lookup import entries
from fedpoison.linalg import kernels
from fedpoison.linalg.blocks import GROUP, weighted_sum
from fedpoison.linalg.gram import geometry
from fedpoison.linalg.sorting import column_medians, mean_rows, middle_row, sort_columns, trimmed_column_means

built = pytest.mark.skipif(kernels.level() == 0, reason="the kernels were not built here")
multiplied = pytest.mark.skipif(kernels.level() < 2, reason="there are no kernels for inner products here")
SIZES = (1, 2, 3, 4, 5, 8, 9, 31, 64, 101)
D = 192


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def integers(low: int, high: int, *shape: int) -> Tensor:
    return torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(1)).float()


KINDS: dict[str, Callable[[int], Tensor]] = {
    "ordinary": lambda n: normal(n, D),
    "all zero": lambda n: torch.zeros(n, D),
    "zeros of both signs": lambda n: 0.0 * normal(n, D),
    "few values": lambda n: integers(-2, 2, n, D) * normal(n, D, seed=2).sign(),
    "every second one zero": lambda n: normal(n, D) * integers(0, 1, n, D),
    "neighbours": lambda n: (torch.ones(n, D).view(torch.int32) + integers(-3, 3, n, D).int()).view(torch.float32),
    "around 2 to the 16 in the bits": lambda n: (0x3F80FFFE + integers(0, 4, n, D).int()).view(torch.float32),
    "denormal": lambda n: integers(-5, 5, n, D) * 1e-45,
    "smallest below zero": lambda n: torch.where(integers(0, 1, n, D) > 0, 0.0, -1e-45),
    "of all sizes": lambda n: normal(n, D) * 10.0 ** integers(-44, 37, n, D),
    "huge": lambda n: normal(n, D).sign() * 3.4e38,
    "one huge": lambda n: torch.cat([torch.full((1, D), 3e38), normal(n, D)[1:]]),
    "negative": lambda n: -normal(n, D).abs() - 1,
}


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], Any]:
    """Call something by the plain routes."""

    def call(function: Callable[[], Any]) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "level", lambda: 0)
            return function()

    return call


@built
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_medians_are_those_of_sorted_columns_to_the_bit(kind: str, n: int) -> None:
    updates = KINDS[kind](n)
    assert kernels.sorts(updates) == D
    assert torch.equal(kernels.trimmed_means(updates, None), middle_row(sort_columns(updates)))


@built
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_trimmed_means_are_those_of_sorted_columns(kind: str, n: int) -> None:
    updates = KINDS[kind](n)
    values = sort_columns(updates)
    for cut in {0, 1, n // 4, (n - 1) // 2}:
        if n > 2 * cut:
            made, expected = kernels.trimmed_means(updates, cut), mean_rows(values[cut : n - cut])
            largest = values[cut : n - cut].abs().amax(dim=0)
            assert ((made.double() - expected.double()).abs() <= 2e-7 * largest + 1.5e-45).all(), cut


@built
@pytest.mark.parametrize("d", [1, 63, 64, 65, 200])
def test_columns_that_fill_no_strip_are_sorted(d: int) -> None:
    matrix = normal(7, 400)[:, 3 : 3 + d]  # rows that are not side by side, at an odd address
    assert kernels.sorts(matrix) == d // 64 * 64
    assert torch.equal(column_medians(matrix), middle_row(sort_columns(matrix)))
    torch.testing.assert_close(trimmed_column_means(matrix, 2), mean_rows(sort_columns(matrix)[2:5]))


@built
@pytest.mark.parametrize("layout", [lambda m: m.T.contiguous().T, lambda m: torch._neg_view(-m)])
def test_how_rows_are_laid_out_changes_no_bit(layout: Callable[[Tensor], Tensor]) -> None:
    matrix, weights = normal(7, 300), torch.linspace(-1, 2, 7)
    other = layout(matrix)
    for function in (
        geometry,
        column_medians,
        lambda m: trimmed_column_means(m, 2),
        lambda m: weighted_sum(weights, m),
    ):
        made, expected = function(other), function(matrix)
        assert torch.equal(made, expected) if isinstance(made, Tensor) else all(map(torch.equal, made, expected))


@built
@pytest.mark.parametrize("cut", [-1, 2, 3])
def test_no_more_is_cut_than_there_is(cut: int) -> None:
    with pytest.raises(ValueError, match=f"of 4 values, {cut} cannot be cut"):
        kernels.trimmed_means(normal(4, 64), cut)


def test_no_columns_have_no_medians() -> None:
    assert column_medians(torch.empty(3, 0)).shape == (0,)


@built
def test_more_rows_than_a_short_can_count_are_sorted() -> None:
    assert kernels.sorts(torch.zeros(2**15 - 1, 64)) == 64
    assert kernels.sorts(torch.zeros(2**15, 64)) == 0
    many = normal(2**15 - 1, 64)
    assert torch.equal(column_medians(many), middle_row(sort_columns(many)))


@built
@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda m: m.double(), id="float64"),
        pytest.param(lambda m: m.T.contiguous().T, id="turned"),
        pytest.param(lambda m: torch._neg_view(m), id="negated when read"),
        pytest.param(lambda m: m.clone().requires_grad_(), id="differentiated"),
        pytest.param(lambda m: m.to("meta"), id="on another device"),
    ],
)
def test_the_kernels_do_not_take_what_they_cannot_read(other: Callable[[Tensor], Tensor]) -> None:
    matrix = other(normal(4, 128))
    assert kernels.sorts(matrix) == 0
    assert not kernels.sums(list(matrix.unbind()))
    assert not kernels.multiplies([normal(4, 128), matrix])


@built
@pytest.mark.parametrize("d", [1, 100, 4096, 4097, GROUP + 5000])
@pytest.mark.parametrize("n", [1, 3, 4, 5, 12])
def test_weighted_sums_are_those_of_the_plain_route(n: int, d: int, plain: Callable[..., Any]) -> None:
    updates, weights = normal(n, d), torch.linspace(-1, 2, n, dtype=torch.float64)
    made = weighted_sum(weights, updates)
    torch.testing.assert_close(made, plain(lambda: weighted_sum(weights, updates)), rtol=1e-6, atol=1e-7)
    exact = weights @ updates.double()
    torch.testing.assert_close(made.double(), exact, rtol=1e-7, atol=0)


@built
def test_a_row_without_weight_is_not_read() -> None:
    updates = normal(5, 300)
    updates[[0, 3]] = torch.nan
    weights = torch.tensor([0, 0.5, 0.25, 0, 0.25], dtype=torch.float64)
    assert torch.equal(weighted_sum(weights, updates), weighted_sum(weights[[1, 2, 4]], updates[[1, 2, 4]]))
    for matrix in (updates, updates.double()):
        assert torch.equal(weighted_sum(torch.zeros(5), matrix), torch.zeros(300, dtype=matrix.dtype))


@multiplied
@pytest.mark.parametrize("d", [1, 15, 1024, 1025, 5000])
@pytest.mark.parametrize("n", [1, 2, 4, 7, 33, 94, 95, 201])
def test_inner_products_are_those_of_the_plain_route(n: int, d: int, plain: Callable[..., Any]) -> None:
    rows, references = normal(n, d) + 3, normal(2, d, seed=5)
    made, expected = (call(lambda: geometry(rows, None, references)) for call in (lambda f: f(), plain))
    for ours, theirs in zip(made, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.max()))


@multiplied
@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_torch_s_default_precision_does_not_matter(default: torch.dtype) -> None:
    rows = normal(11, 3000)
    expected = geometry(rows)
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        made = geometry(rows)
    finally:
        torch.set_default_dtype(before)
    assert all(map(torch.equal, made, expected))


@built
def test_denormals_count_where_torch_flushes_them() -> None:
    column = torch.tensor([[-5.0], [-1.0], [0.0]]).expand(3, 64).contiguous()
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot")
    try:
        assert (kernels.trimmed_means(column, None) == -1).all()
        assert (kernels.trimmed_means(column, 1) == -1).all()
        flushed = torch.tensor([1e-40]) * 1  # the setting is as it was
    finally:
        torch.set_flush_denormal(False)
    assert flushed == 0


@multiplied
@pytest.mark.parametrize("scale", [1e-35, 1e-20, 1e20, 1e35])
def test_inner_products_of_very_small_and_large_rows(scale: float) -> None:
    rows = normal(6, 700)
    expected = geometry(rows)[1].double() * scale**2
    torch.testing.assert_close(geometry(rows * scale)[1], expected, rtol=1e-5, atol=0)


def of_updates_alone() -> list[str]:
    more = {"root_update", "probe", "layers", "base"}
    return [name for name, entry in entries("aggregator").items() if not more & {*entry.asks, *entry.references}]


@built
@pytest.mark.parametrize("name", of_updates_alone())
def test_every_rule_gives_the_same_by_both_routes(name: str, plain: Callable[..., Any]) -> None:
    updates = normal(11, 1000)
    updates[:2] += 3
    made, expected = (call(lambda: fedpoison.aggregate(name, updates, f=2)) for call in (lambda f: f(), plain))
    torch.testing.assert_close(made.update, expected.update, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("word", ["off", "0", "No"])
def test_they_can_be_turned_off(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDPOISON_KERNELS", word)
    assert kernels.level.__wrapped__() == 0


@pytest.mark.parametrize("word", ["none", "of", "2"])
def test_another_word_is_refused_with_those_that_are_taken(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDPOISON_KERNELS", word)
    with pytest.raises(ConfigError, match=rf"KERNELS = '{word}' .* may be on, 1, yes, off, 0, no"):
        kernels.level.__wrapped__()
    for taken in ("", "on", "YES"):
        monkeypatch.setenv("FEDPOISON_KERNELS", taken)
        assert kernels.allowed()


def test_without_a_library_the_plain_routes_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> ctypes.CDLL:
        raise OSError("_kernels.so: cannot open shared object file")

    monkeypatch.setattr(kernels, "_library", missing)
    assert kernels.level.__wrapped__() == 0


@built
def test_a_library_of_another_version_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_library", kernels._library.__wrapped__)
    assert kernels.level.__wrapped__() > 0
    changed = tmp_path / "kernels.c"
    changed.write_text(kernels._SOURCE.read_text() + "\n")
    (library,) = kernels._SOURCE.parent.glob("_kernels-*.so")
    shutil.copy(library, tmp_path)
    monkeypatch.setattr(kernels, "_SOURCE", changed)
    assert kernels.level.__wrapped__() == 0


# ---- how they are built

ROOT = Path(__file__).parents[2]
SCRIPT = run_path(str(ROOT / "scripts" / "build_kernels.py"))


def tree(folder: Path, source: str) -> Path:
    """What is needed to build them."""
    (folder / SCRIPT["SOURCE"].parent).mkdir(parents=True)
    (folder / SCRIPT["SOURCE"]).write_text(source)
    return folder


def test_git_ignores_what_is_built() -> None:
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert any(fnmatch(SCRIPT["library"](ROOT).name, pattern) for pattern in ignored)


@pytest.mark.parametrize("compiler", ["", "no-such-compiler", "false"])
def test_a_compiler_that_is_missing_or_fails_says_why(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", compiler)
    root = tree(tmp_path, "this is not C")
    assert SCRIPT["build"](root)
    assert [file.name for file in (root / SCRIPT["SOURCE"]).parent.iterdir()] == ["kernels.c"]


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="they are for x86-64 Linux")
def test_where_they_can_be_built_they_are_used(tmp_path: Path) -> None:
    trial = tree(tmp_path / "trial", "#include <immintrin.h>\n#include <stdint.h>\n")
    root = tree(tmp_path / "own", kernels._SOURCE.read_text())
    if SCRIPT["build"](trial):
        pytest.skip("there is no compiler")
    (root / SCRIPT["SOURCE"]).with_name("_kernels-of-another-version.so").touch()
    assert SCRIPT["build"](root) is None
    made = root / SCRIPT["library"](root)
    assert [*made.parent.glob("*.so")] == [made]
    written = made.stat().st_mtime_ns
    assert SCRIPT["build"](root) is None
    assert made.stat().st_mtime_ns == written
    if torch.backends.cpu.get_cpu_capability() != "DEFAULT" and "FEDPOISON_KERNELS" not in os.environ:
        assert kernels.level() > 0
