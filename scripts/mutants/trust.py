"""Mistakes about what users, clients, registries and numbers bring."""

RECEIVED = "tests/engines/test_received.py"

MUTANTS = [
    (
        "outputs that are no numbers are of class 0",
        "tasks/classification.py",
        "masked_fill(~self.usable(outputs), -1)",
        "masked_fill(~self.usable(outputs), 0)",
        "tests/measures/test_evaluation.py",
    ),
    (
        "a Flower client speaks for others",
        "engines/received.py",
        "if clients not in ([], [client]) or",
        "if len(clients) > 1 or",
        RECEIVED,
    ),
    (
        "a Flower client's array is read whatever its length",
        "engines/received.py",
        "np.dtype(dtype).itemsize + _HEADER",
        "np.dtype(dtype).itemsize + 10**12",
        RECEIVED,
    ),
    (
        "an exit in a user's net ends a probe",
        "runs/planning.py",
        "except (Exception, SystemExit):",
        "except Exception:",
        "tests/contract/test_misbehaviour.py",
    ),
    (
        "a registry may name a file of this machine",
        "data/asking.py",
        'not in ("http", "https")',
        'not in ("http", "https", "file")',
        "tests/data/test_lying_registry.py",
    ),
    (
        "memory is reckoned without the clients' updates",
        "runs/reckoning.py",
        "vectors = 3 + cohort +",
        "vectors = 3 +",
        "tests/config/test_numbers.py",
    ),
]
