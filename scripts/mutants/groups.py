"""Mistakes about several groups of attackers."""

GROUPS = "tests/attacks/test_groups.py"

MUTANTS = [
    # (what the mistake is, file, text, its replacement, the tests that must fail)
    (
        "a group sees the others",
        "round.py",
        "cohort.only((cohort.group == threat.number) | ~cohort.malicious)",
        "cohort",
        GROUPS,
    ),
    ("groups share a memory", "attacks/threat.py", 'f"{memory}/{self.number}" if self.number else', "", GROUPS),
    ("groups draw alike", "round.py", '"attack", number, threat.number)', '"attack", number)', GROUPS),
    (
        "a named client is drawn too",
        "runs/world.py",
        "config.clients.count, count, taken)",
        "config.clients.count, count)",
        GROUPS,
    ),
    ("all groups poison as the first does", "attacks/poisoning.py", "if client in ids)", ")", GROUPS),
    ("the last group's success is told", "measures/evaluation.py", "in reversed(groups):", "in groups:", GROUPS),
    ("a record's group is of others", "round.py", "threat.members(ids, bad) for", "bad for", GROUPS),
    (
        "a group's rows go to another",
        "clients/harvest.py",
        "sent[masks[group]] =",
        "sent[self.cohort.malicious] =",
        GROUPS,
    ),
    ("the clean run is not measured", "config/config.py", "if len(aiming) > 1", "if False", GROUPS),
]
