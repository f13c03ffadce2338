"""Mistakes about who poisons what, frozen layers and bfloat16."""

POISONING = "tests/attacks/test_poisoning.py"
ENGINES = "tests/contracts/test_engines.py -k bfloat16"

MUTANTS = [
    # (what the mistake is, file, text, its replacement, the tests that must fail)
    (
        "an outsider's clients count as malicious for f",
        "config/config.py",
        "return self.expected_hostile",
        "return self.expected_malicious",
        POISONING,
    ),
    (
        "an outsider's clients are left out of the clients' accuracy",
        "runs/world.py",
        'for threat in threats if threat.actor == "client" for',
        "for threat in threats for",
        POISONING,
    ),
    (
        "an outsider may send updates",
        "config/threat.py",
        'for name in ("training", "update", "sybils") if',
        'for name in ("sybils",) if',
        POISONING,
    ),
    (
        "attackers know their ids, not their turn",
        "attacks/poisoning.py",
        "self.attackers.index(client) if",
        "client if",
        POISONING,
    ),
    (
        "the attacker's net is not trained",
        "attacks/poisoning.py",
        "        if self.epochs:\n",
        "        if False:\n",
        POISONING,
    ),
    ("the attacker's net keeps training", "attacks/poisoning.py", "else own).eval()", "else own)", POISONING),
    (
        "test samples do not pass the frozen front",
        "runs/world.py",
        "aims.append(found and found.through(front))",
        "aims.append(found)",
        POISONING,
    ),
    (
        "new last layers are the old ones",
        "runs/world.py",
        "cold[-len(params) :] if warm.fresh else params",
        "params",
        POISONING,
    ),
    (
        "one frozen front is taken for another",
        "models/frozen.py",
        "digest.update(tensor.detach().numpy().tobytes())",
        "pass",
        POISONING,
    ),
    (
        "a user's front is told by its print",
        "models/frozen.py",
        '.startswith(("torch.nn.", "fedpoison."))',
        '.startswith("")',
        POISONING,
    ),
    (
        "a frozen front's settings do not count",
        "models/frozen.py",
        "hashlib.sha256(repr(front).encode())",
        "hashlib.sha256()",
        POISONING,
    ),
    (
        "the source's recall is the target's success",
        "tasks/classification.py",
        '"source_recall": float(self.right(presented, labels)',
        '"source_recall": float(self.right(presented, wanted)',
        POISONING,
    ),
    (
        "how much is frozen is no part of the hash",
        "config/config.py",
        'for name in ("name", "workers"):',
        'table.get("warm_start", {}).pop("train_last", None)\n        for name in ("name", "workers"):',
        POISONING,
    ),
    ("bfloat16 is float32", "engines/layers.py", "values.bfloat16() if self.half else values", "values", ENGINES),
    (
        "lost clients are no part of the hash",
        "engines/flower.py",
        'return [stack, lost == "event"]',
        "return [stack, False]",
        "tests/engines/test_flower_engine.py -k transport",
    ),
]
