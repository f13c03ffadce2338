"""Mistakes in sanitizers and in what is made of them."""

SANITIZERS = "tests/clients/test_sanitizers.py"

MUTANTS = (
    (
        "a sample votes for itself",
        "clients/sanitizers/knn_labels.py",
        "distances.fill_diagonal_(torch.inf)",
        "distances.fill_diagonal_(0)",
        SANITIZERS,
    ),
    (
        "any neighbour of another label takes it out",
        "clients/sanitizers/knn_labels.py",
        "keep = own >= votes.amax(dim=1)",
        "keep = own >= nearest",
        SANITIZERS,
    ),
    (
        "a tie takes it out",
        "clients/sanitizers/knn_labels.py",
        "keep = own >= votes.amax(dim=1)",
        "keep = own > votes.scatter(1, labels.unsqueeze(1), -1).amax(dim=1)",
        SANITIZERS,
    ),
    (
        "attackers clean too",
        "round.py",
        "honest = [task for task in cast if task.client not in bad]",
        "bad = set()\n    honest = list(cast)",
        SANITIZERS,
    ),
    (
        "a victim of an outsider does not clean",
        "round.py",
        "bad = hostile(world.threats, cohort.clients[cohort.malicious])",
        "bad = {*cohort.clients[cohort.malicious].tolist()}",
        SANITIZERS,
    ),
    ("what is kept is forgotten", "round.py", '"cleaning": harvest.cleaning.memory,', '"cleaning": {},', SANITIZERS),
    (
        "they train on all the same",
        "clients/training.py",
        "return shard if self.kept is None else shard.of(self.kept)",
        "return shard",
        SANITIZERS,
    ),
    (
        "a later step's places are the first's",
        "clients/cleaning.py",
        "kept = kept[keep]",
        "kept = keep.nonzero().flatten()",
        SANITIZERS,
    ),
    (
        "the most suspect is spared",
        "clients/cleaning.py",
        "suspicion[own].argmin()",
        "suspicion[own].argmax()",
        SANITIZERS,
    ),
    (
        "changed labels are no poison",
        "attacks/poisoning.py",
        " | (crafted[1] != labels)",
        "",
        SANITIZERS,
    ),
    (
        "precision is of the poisoned",
        "clients/cleaning.py",
        '"precision": right / removed if removed else None',
        '"precision": right / poisoned if poisoned else None',
        SANITIZERS,
    ),
    (
        "what is kept does not travel",
        "engines/messages.py",
        '"drill": drill, "kept": kept}',
        '"drill": drill, "kept": None}',
        SANITIZERS,
    ),
)
