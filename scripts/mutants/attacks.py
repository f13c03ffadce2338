"""Mistakes in attacks, on the updates above all, most of them those of published code."""

FANG = "tests/attacks/test_fang.py"
TAILORED = "tests/attacks/test_tailored.py"
MEMORY = "tests/attacks/test_memorious_attacks.py"
USELESS = "tests/attacks/test_useless_updates.py"

MUTANTS = (
    ("Fang goes with the mean", "attacks/updates/fang_trimmed_mean.py", "up = mean < 0", "up = mean > 0", FANG),
    (
        "Fang's factor points inwards",
        "attacks/updates/fang_trimmed_mean.py",
        "torch.where(up == (edge > 0), b * edge, edge / b)",
        "torch.where(up == (edge > 0), edge / b, b * edge)",
        FANG,
    ),
    (
        "Fang's copies do not count for Krum",
        "attacks/updates/fang_krum.py",
        "max(0, near - copies + 1)",
        "max(0, near)",
        FANG,
    ),
    (
        "Fang's first length is doubled",
        "attacks/updates/fang_krum.py",
        "length /= math.sqrt",
        "length /= 0.7 * math.sqrt",
        FANG,
    ),
    (
        "a chosen honest client is damage",
        "attacks/updates/searching.py",
        "float((trial(start + strength * step) - mean.double()) @ towards)",
        "float((trial(start + strength * step) - mean.double()).norm())",
        TAILORED,
    ),
    (
        "the last that was tried is sent",
        "attacks/updates/searching.py",
        "return max(found, key=lambda strength: found[strength])",
        "return list(found)[-1]",
        TAILORED,
    ),
    (
        "attackers are the first rows",
        "attacks/updates/searching.py",
        "self._rows[self._malicious] = crafted",
        "self._rows[: len(self._malicious[self._malicious])] = crafted",
        TAILORED,
    ),
    ("PGA descends", "attacks/updates/pga.py", "(-row_norms(benign)", "(row_norms(benign)", TAILORED),
    (
        "mimic copies the first client",
        "attacks/updates/mimic.py",
        'int((benign.double() @ state["direction"].double()).argmax())',
        "0",
        MEMORY,
    ),
    (
        "mimic never settles",
        "attacks/updates/mimic.py",
        "if turn >= warm_up else benign_ids[:0]",
        "if turn < 0 else benign_ids[:0]",
        MEMORY,
    ),
    (
        "ROP turns the other way",
        "attacks/updates/rop.py",
        "math.sin(turned) * across",
        "-math.sin(turned) * across",
        MEMORY,
    ),
    (
        "PoisonedFL counts its own part",
        "attacks/updates/poisonedfl.py",
        "previous - sent * (length",
        "previous - 0 * sent * (length",
        MEMORY,
    ),
    ("PoisonedFL draws its signs anew", "attacks/updates/poisonedfl.py", "    if not state:", "    if True:", MEMORY),
    (
        "MPAF runs away from its model",
        "attacks/updates/mpaf.py",
        'state["base"] - params',
        'params - state["base"]',
        MEMORY,
    ),
    (
        "the edge is where the class is thickest",
        "attacks/data/edge_case.py",
        ".argsort(descending=True, stable=True)",
        ".argsort(descending=False, stable=True)",
        "tests/attacks/test_edge_case.py",
    ),
    ("a free rider sends zeros", "attacks/updates/idle.py", "(previous + drawn)", "(0 * previous + drawn)", USELESS),
)
