"""The names of what is measured, as tables and figures take them; measures.py and evaluation.py do the measuring."""

from collections.abc import Collection, Sequence

from fedpoison.common.errors import ConfigError
from fedpoison.common.spelling import folded, hint

QUALITY = ("accuracy", "loss", "balanced_accuracy", "auc", "average_precision", "rare_recall", "rare_f1")
"""Of a model on a set of samples."""
TWO_CLASSES = ("auc", "average_precision", "rare_recall", "rare_f1")
"""Those that need two classes; `rare` is the rarer one of the training data."""
CLIENTS = ("client_accuracy", "worst_decile_accuracy", "client_auc", "worst_decile_auc")
"""Of the global model on what each honest client holds out."""
MODEL = (*QUALITY, *CLIENTS, "source_recall")
"""Of the global model on samples without a trigger: what an attack may damage."""
_LOWER_IS_BETTER = ("loss",)
DAMAGE = {"damage" if name == "accuracy" else f"damage_{name}": name for name in MODEL}
"""By how much a run is worse than its paired clean one, for each metric of the model."""
VALIDATION = {f"validation_{name}": name for name in QUALITY}
DETECTION = {
    "detection_precision": "precision",
    "detection_recall": "recall",
    "detection_f1": "f1",
    "detection_false_positive_rate": "false_positive_rate",
    "detection_auroc": "auroc",
    "detection_score_auroc": "score_auroc",
    "malicious_weight": "malicious_weight",
}
"""Of the detection of attackers, with what a record calls them."""
SANITISED = {
    "sanitised_removed": "removed",
    "sanitised_precision": "precision",
    "sanitised_recall": "recall",
    "sanitised_clean_lost": "clean_lost",
}
"""Of what honest clients take out of their samples, with what a record calls it."""
SCORES = (*MODEL, "asr", "asr_untriggered", "target_success", *VALIDATION)
"""What an evaluation gives."""
SPREAD = ("distance_to_honest_mean", "kappa", "heterogeneity", "angle_to_honest_mean", "rejection_skew")
"""Of a round's updates."""
METRICS = (
    *("accuracy", "attack_success", *SCORES[1:], *SPREAD, *DETECTION, *SANITISED, *(f"clean_{name}" for name in MODEL)),
    *("clean_success", *DAMAGE),
)
"""Of a round; attack_success is asr, or target_success where there is no trigger."""
RUN_METRICS = ("durability",)
"""What a run as a whole has one of."""
_MODELS_OWN = {"recall": "rare_recall", "f1": "rare_f1", "auroc": "auc"}
_RENAMED = {
    old: f"{old} is of the detection of attackers, and called {new} now"
    + (f"; the model's own is {_MODELS_OWN[old]}" if old in _MODELS_OWN else "")
    for new, old in DETECTION.items()
    if new != old
} | {"damage_accuracy": "damage_accuracy is called damage"}


def spelled(asked: Sequence[str], known: Collection[str]) -> list[str]:
    """The metrics asked for, by the names that they have here: "attack success" and "attack-success" are alike.

    ConfigError with a sentence for each that is not among the known ones.
    """
    names = [folded(name) for name in asked]
    has = f"there are {', '.join(known)}"
    unknown = [
        _RENAMED.get(name, f"there is no metric {word!r}; {hint(word, known)}{has}")
        for name, word in zip(names, asked, strict=True)
        if name not in known
    ]
    if unknown:
        raise ConfigError(unknown)
    return names


def worth(name: str, value: float) -> float:
    """A value of a metric of the model, turned so that more is better."""
    return -value if name in _LOWER_IS_BETTER else value
