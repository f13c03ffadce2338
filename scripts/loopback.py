"""A Flower deployment on this machine: a SuperLink with TLS and node authentication, SuperNodes, loopback only.

For demonstrations and tests. Every process is started here in a group of its own and ended by that group's id.
"""

import json
import os
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOST = "127.0.0.1"
_BEGIN = 60.0
"""Seconds that a SuperLink may take to answer."""


class Deployment:
    """A SuperLink and its SuperNodes; `flwr` runs Flower's command against it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, _free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        home = folder / "home"
        home.mkdir(parents=True)
        here = str(Path(__file__).parents[1])
        self._environment = {
            **os.environ,
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")])),
            "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]),
        }
        _write_certificates(folder)
        connection = f'[superlink.here]\naddress = "{HOST}:{self.port}"\nroot-certificates = "{folder / "ca.crt"}"\n'
        (home / "config.toml").write_text(f'[superlink]\ndefault = "here"\n\n{connection}', encoding="utf-8")

    def flwr(self, *words: str, patience: float = 120.0) -> dict[str, Any]:
        """What a command of Flower's says as JSON; RuntimeError if it says nothing, or that it failed."""
        command = ["flwr", *words, "--format", "json"]
        done = subprocess.run(command, env=self._environment, capture_output=True, timeout=patience, cwd=self.folder)
        text = done.stdout.decode()
        try:
            said: dict[str, Any] = json.loads(text[text.index("{") :])
        except ValueError:
            raise RuntimeError(f"{' '.join(command)}: {text}{done.stderr.decode()}") from None
        if not said.get("success", True):
            raise RuntimeError(f"{' '.join(command)}: {said}")
        return said

    def start_superlink(self) -> None:
        """Start the SuperLink and wait until it answers."""
        tls = {"--ssl-ca-certfile": "ca.crt", "--ssl-certfile": "server.crt", "--ssl-keyfile": "server.key"}
        where = [part for flag, name in tls.items() for part in (flag, str(self.folder / name))]
        auth = ["--enable-supernode-auth", "--disable-runtime-dependency-installation"]
        self._start("superlink", ["flower-superlink", "--host", HOST, "--port", str(self.port), *where, *auth])
        began = time.monotonic()
        while not _listens(self.port):
            if time.monotonic() - began > _BEGIN or self.processes["superlink"].poll() is not None:
                raise RuntimeError(f"the SuperLink did not start: {self.log('superlink')}")
            time.sleep(0.2)

    def start_supernode(self, partition: int, partitions: int, *, register: bool = True) -> None:
        """Start a SuperNode with a key of its own, which the SuperLink is told unless `register` is false."""
        name = f"supernode{partition}"
        private = _write_key_pair(self.folder / f"{name}.key")
        if register:
            self.flwr("supernode", "register", str(self.folder / f"{name}.key.pub"), "here")
        config = f"partition-id={partition} num-partitions={partitions}"
        link = ["--superlink", f"{HOST}:{self.port}", "--root-certificates", str(self.folder / "ca.crt")]
        own = ["--host", HOST, "--port", str(_free_port()), "--auth-supernode-private-key", str(private)]
        self._start(name, ["flower-supernode", *link, *own, "--node-config", config])

    def _start(self, name: str, command: list[str]) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                command, env=self._environment, stdout=log, stderr=log, cwd=self.folder, start_new_session=True
            )

    def log(self, name: str) -> str:
        """What a process has written."""
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def submit(self, app: Path, config: Mapping[str, str | float]) -> int:
        """Start a run of an app; its id."""
        words = " ".join(f'{key}="{v}"' if isinstance(v, str) else f"{key}={v}" for key, v in config.items())
        said = self.flwr("run", str(app), "here", "--run-config", words)
        return int(said["run-id"])

    def status(self, run: int) -> tuple[str, str]:
        """A run's status, as "running" or "finished:completed", and its details."""
        (found,) = self.flwr("ls", "here", "--run-id", str(run))["runs"]
        return str(found["status"]), str(found["status-details"])

    def wait(self, run: int, patience: float = 300.0) -> None:
        """Wait for a run's end; RuntimeError unless it was completed. The exit code of `flwr run` says nothing."""
        began = time.monotonic()
        while not (status := self.status(run))[0].startswith("finished"):
            if time.monotonic() - began > patience:
                raise RuntimeError(f"run {run} is {status[0]} after {patience:.0f} s")
            time.sleep(2)
        if status[0] != "finished:completed":
            raise RuntimeError(f"run {run} is {': '.join(status)}\n{self.log('superlink')}")

    def kill(self, name: str) -> None:
        """End a process and what it has started at once, as a power cut does."""
        process = self.processes.pop(name)
        _signal(process, signal.SIGKILL)
        process.wait()

    def end(self) -> None:
        """End all processes, those of the nodes first."""
        for name in reversed(list(self.processes)):
            _signal(self.processes[name], signal.SIGTERM)
        for name in reversed(list(self.processes)):
            with suppress(subprocess.TimeoutExpired):
                self.processes[name].wait(10)
            self.kill(name)


@contextmanager
def deployed(folder: Path, nodes: int) -> Iterator[Deployment]:
    """A deployment with so many SuperNodes, one a partition, while the context lasts."""
    deployment = Deployment(folder.resolve())
    try:
        deployment.start_superlink()
        with ThreadPoolExecutor(nodes) as pool:
            list(pool.map(lambda partition: deployment.start_supernode(partition, nodes), range(nodes)))
        yield deployment
    finally:
        deployment.end()


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """Signal a process's group, which is ours; nothing if it is gone."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _write_key_pair(path: Path) -> Path:
    """An ECDSA P-384 key in OpenSSH's form, and its public half beside it."""
    key, ssh = ec.generate_private_key(ec.SECP384R1()), serialization.PrivateFormat.OpenSSH
    _write_secret(path, key.private_bytes(serialization.Encoding.PEM, ssh, serialization.NoEncryption()))
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    Path(f"{path}.pub").write_bytes(public)
    return path


def _write_certificates(folder: Path) -> None:
    """ca.crt, and server.crt with server.key for this machine's loopback, good for a day."""
    authority, server = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedpoison loopback")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    alternative = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address(HOST))])
    root = x509.BasicConstraints(ca=True, path_length=None)
    for name, whose, key, extension, critical in (
        ("ca.crt", issuer, authority, root, True),
        ("server.crt", subject, server, alternative, False),
    ):
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder(issuer, whose, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(extension, critical)
            .sign(authority, hashes.SHA256())
        )
        (folder / name).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.PrivateFormat.PKCS8
    _write_secret(
        folder / "server.key",
        server.private_bytes(serialization.Encoding.PEM, plain, serialization.NoEncryption()),
    )


def _write_secret(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)
