"""Mistakes in what a run writes, how it is taken up, and how processes end."""

DAMAGE = "tests/runs/test_damage.py -m 'not exhaustive'"
INTERRUPTS = "tests/runs/test_interrupts.py -m 'not exhaustive'"

MUTANTS = [
    # (what the mistake is, file, text, its replacement, the tests that must fail)
    (
        "a checkpoint is of a round that has no line",
        "runs/records.py",
        "        line, check = seal(record, self._check)\n        with",
        "        line, check = seal(record, self._check)\n        self._last = state\n        with",
        INTERRUPTS,
    ),
    (
        "a checkpoint's tensors are trusted",
        "runs/checkpoints.py",
        '!= _digest(tensors, head) and [*head] != ["round"]',
        "is None and [*head] != ['round']",
        DAMAGE,
    ),
    (
        "a model's numbers are trusted",
        "runs/files.py",
        "(thorough or name != self.model.name)",
        "name != self.model.name",
        DAMAGE,
    ),
    ("rounds may come twice", "runs/sealing.py", ' or record.get("round") != number', "", DAMAGE),
    ("one damaged run hides the others", "runs/frame.py", "if len(damages) == len(folders):", "if damages:", DAMAGE),
    ("tables mix cut runs with others", "report/pivot.py", "runs if at.isdigit() else runs.finished()", "runs", DAMAGE),
    (
        "a checkpoint outlasts its log",
        "runs/records.py",
        '        sync(self.path / "rounds.jsonl")  # the checkpoint',
        "        #",
        DAMAGE,
    ),
    (
        "workers outlive their parent",
        "runs/running.py",
        ", initializer=lifeline.hold",
        "",
        "tests/runs/test_running.py -k 'lifeline'",
    ),
    (
        "a hangup tears workers off",
        "common/lifeline.py",
        "{signal.SIGINT, signal.SIGHUP}",
        "set()",
        "tests/common/test_lifeline.py",
    ),
    (
        "SIGTERM is answered by nobody",
        "cli/__init__.py",
        '("SIGTERM", "SIGHUP")',
        '("SIGHUP",)',
        "tests/cli/test_signals.py",
    ),
]
