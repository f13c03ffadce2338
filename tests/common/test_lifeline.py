"""Processes end with the one that started them, and leave Ctrl-C to it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

PARENT = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from fedpoison.common import lifeline

if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=lifeline.hold)
    with lifeline.deaf_children():
        worker = pool.submit(os.getpid)
    worker = worker.result()
    try:
        print(worker, flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print(pool.submit(os.getpid).result(), flush=True)
    pool.submit(time.sleep, 60)
    time.sleep(60)
"""


def test_a_worker_ends_with_its_parent_and_leaves_ctrl_c_to_it(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "parent.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout
    worker = process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)
    assert process.stdout.readline() == worker  # it is the same one that answers, and it heard nothing
    process.kill()
    said, errors = process.communicate(timeout=30)  # which waits for all who could still print
    assert said == ""
    assert "Traceback" not in errors  # Python's tracker of resources may say what it cleared away
