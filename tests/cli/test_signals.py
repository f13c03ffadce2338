"""What asks a command to end is answered as Ctrl-C is."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda sent: sent.name)
def test_what_asks_to_end_is_answered_as_ctrl_c_is(sent: signal.Signals, tmp_path: Path) -> None:
    process = watching(tmp_path)
    process.send_signal(sent)
    _, said = process.communicate(timeout=30)
    assert said == "interrupted; the same command goes on from here\n"
    assert process.returncode == 128 + sent


def test_who_is_told_to_ignore_a_hangup_does(tmp_path: Path) -> None:
    process = watching(tmp_path, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    assert process.stdout
    assert process.stdout.readline()
    assert process.poll() is None
    process.kill()
    process.communicate(timeout=30)


def watching(folder: Path, **options: Any) -> subprocess.Popen[str]:
    """`fedpoison watch` of a sweep that never ends, which has begun to look."""
    runs = [{"hash": "a", "name": "a", "rounds": 3}]
    (folder / "plan.json").write_text(json.dumps({"started": time.time(), "runs": runs}))
    command = [sys.executable, "-m", "fedpoison.cli", "watch", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    assert process.stdout
    assert "1 waiting" in process.stdout.readline()
    return process
