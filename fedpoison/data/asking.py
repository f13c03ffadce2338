"""What a registry on the network answers, as far as it may: by http and https alone, so many bytes, so many seconds."""

import http.client
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_SILENCE = 60.0
"""Seconds that nothing may come for; and what each answer may take besides the time for its size."""
_SLOWEST = 20_000
"""Bytes a second below which an answer is given up."""
_PIECE = 1 << 18


def ask(
    url: str,
    most: int,
    *,
    accept: str = "*/*",
    seconds: float | None = None,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> Iterator[bytes]:
    """The pieces of an answer of at most so many bytes; OSError if there is none, if it is longer, slow or cut.

    A registry that the user has set may be a folder, by file://; nothing that a registry answers may.
    """
    limit = _SILENCE + most / _SLOWEST if seconds is None else seconds
    with _within(limit) as (opener, over):
        try:
            request = urllib.request.Request(url, headers={"Accept": accept})
            with opener.open(request, timeout=_SILENCE) as answer:
                total = int(answer.headers["content-length"] or 0) or None
                if total is not None and total > most:
                    raise OSError(f"{url}: it is {total} bytes long, and at most {most} are expected")
                done = 0
                while piece := answer.read1(_PIECE) if hasattr(answer, "read1") else answer.read(_PIECE):
                    done += len(piece)
                    if done > most:
                        raise OSError(f"{url}: it goes on after {most} bytes, which is all that is expected")
                    progress(done, total)
                    yield piece
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ValueError) as error:
            raise OSError(f"{url}: {'it took too long' if over.is_set() else error}") from error
        if over.is_set():
            raise OSError(f"{url}: it took too long")
        if total is not None and done < total:
            raise OSError(f"{url}: the connection ended after {done} of {total} bytes")


def only_from_the_network(url: str) -> str:
    """An address that a registry gave, if it is one of the network's; OSError otherwise."""
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise OSError(f"the registry names {url}, which is not of the network")
    return url


def save(pieces: Iterator[bytes], to: Path) -> Path:
    """Write an answer to a file."""
    with to.open("wb") as file:
        for piece in pieces:
            file.write(piece)
    return to


@contextmanager
def _within(seconds: float) -> Iterator[tuple[urllib.request.OpenerDirector, threading.Event]]:
    """An opener whose connections are cut after so many seconds, and whether they were.

    A limit on each wait is none on an answer that comes byte by byte.
    """
    connections: list[socket.socket] = []
    over = threading.Event()

    def connect(*where: Any, **how: Any) -> socket.socket:
        made = socket.create_connection(*where, **how)
        connections.append(made.dup())  # TLS takes the other one over
        if over.is_set():
            raise OSError("it took too long")
        return made

    class Plain(http.client.HTTPConnection):
        def __init__(self, *where: Any, **how: Any) -> None:
            super().__init__(*where, **how)
            self._create_connection = connect

    class Safe(http.client.HTTPSConnection):
        def __init__(self, *where: Any, **how: Any) -> None:
            super().__init__(*where, **how)
            self._create_connection = connect

    class OverPlain(urllib.request.HTTPHandler):
        def http_open(self, request: urllib.request.Request) -> Any:
            return self.do_open(Plain, request)

    class OverSafe(urllib.request.HTTPSHandler):
        def https_open(self, request: urllib.request.Request) -> Any:
            return self.do_open(Safe, request)

    def end() -> None:
        over.set()
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # it is over
                continue

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield urllib.request.build_opener(OverPlain, OverSafe, _Redirects), over
    finally:
        timer.cancel()
        for connection in connections:
            connection.close()


class _Redirects(urllib.request.HTTPRedirectHandler):
    """As usual, within the network."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """The request that a redirection makes."""
        return super().redirect_request(req, fp, code, msg, headers, only_from_the_network(newurl))
