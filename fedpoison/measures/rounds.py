"""What is measured of a round besides the model: detection, distances, norms."""

import math
import statistics
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fedpoison.linalg.blocks import of_each, weighted_sum
from fedpoison.linalg.ranking import auroc, ranks
from fedpoison.tasks.task import Measured
from fedpoison.types import Norms, Update, Updates, Verdict


def detection(verdict: Verdict, bad: Tensor) -> Measured:
    """How well attackers were told from the rest.

    From `flagged`: precision, recall and F1 (None without attackers) and the false-positive rate. From the
    weights: the attackers' share of weight, and the chance that an honest client weighs more than a malicious one.
    From `scores`: the chance that a malicious client is more suspect than an honest one.
    """
    measured: Measured = dict.fromkeys(
        ("precision", "recall", "f1", "false_positive_rate", "malicious_weight", "auroc", "score_auroc")
    )
    if verdict.flagged is not None:
        flagged = verdict.flagged
        true, false = int((flagged & bad).sum()), int((flagged & ~bad).sum())
        if bad.any():
            measured["precision"] = true / (true + false) if true + false else None
            measured["recall"] = true / int(bad.sum())
            measured["f1"] = 2 * true / (2 * true + false + int((~flagged & bad).sum()))
        if (~bad).any():
            measured["false_positive_rate"] = false / int((~bad).sum())
    if verdict.weights is not None and bad.any():
        weights = verdict.weights
        measured["malicious_weight"] = float(weights[bad].sum() / weights.sum()) if weights.sum() else 0.0
        if (~bad).any():
            measured["auroc"] = auroc(weights, ~bad)
    if verdict.scores is not None and bad.any() and (~bad).any():
        measured["score_auroc"] = auroc(verdict.scores, bad)
    return measured


def by_group(verdict: Verdict, members: Sequence[Tensor], scores: Sequence[Measured] | None) -> list[Measured] | None:
    """Of each of several groups of attackers (masks [n]): how many sent, who of them was flagged, what all weigh.

    And how well its attack does, from `scores` if the model was evaluated. None of one group: the whole record is its.
    """
    if len(members) < 2:
        return None
    total = None if verdict.weights is None else float(verdict.weights.sum())
    measured: list[Measured] = []
    for place, mask in enumerate(members):
        recall = None if verdict.flagged is None or not mask.any() else float(verdict.flagged[mask].double().mean())
        weight = None if verdict.weights is None else float(verdict.weights[mask].sum()) / total if total else 0.0
        own = {"clients": int(mask.sum()), "detection_recall": recall, "weight": weight}
        measured.append(own | (dict(scores[place]) if scores else {}))
    return measured


def spread_of(verdict: Verdict, updates: Updates | Sequence[Tensor], honest: Tensor) -> Measured:
    """How the aggregate lies to the honest ones of the updates (a mask [n]); None where there is nothing to measure.

    `heterogeneity`: the honest updates' mean squared distance to their mean x̄. `distance_to_honest_mean`: of the
    aggregate. `kappa`: that distance squared in units of the heterogeneity, the empirical κ of Allouah et al. 2023.
    `angle_to_honest_mean`: between aggregate and x̄, in degrees.
    """
    measured: Measured = dict.fromkeys(("heterogeneity", "distance_to_honest_mean", "kappa", "angle_to_honest_mean"))
    usable = honest & torch.isfinite(verdict.norms)
    if verdict.skipped or not usable.any():
        return measured
    kept = usable.nonzero().flatten().tolist()
    if not isinstance(updates, Tensor):
        updates, usable, kept = torch.stack([updates[i] for i in kept]), usable[usable], list(range(len(kept)))
    centre = weighted_sum(usable.double() / usable.sum(), updates)
    distance = float(torch.linalg.vector_norm(verdict.update - centre, dtype=torch.float64))
    rows = [updates[i] for i in kept]
    gaps = of_each(lambda row: float(torch.linalg.vector_norm(row - centre, dtype=torch.float64)), rows)
    variance = statistics.fmean(gap**2 for gap in gaps)
    measured["heterogeneity"] = finite(variance)
    measured["distance_to_honest_mean"] = finite(distance)
    measured["kappa"] = finite(distance**2 / variance) if variance else None
    measured["angle_to_honest_mean"] = _angle(verdict.update, centre, distance)
    return measured


def _angle(a: Update, b: Update, distance: float) -> float | None:
    """Between two vectors whose distance is known, in degrees; None if one is 0. Exact for small angles too."""
    lengths = [float(torch.linalg.vector_norm(v, dtype=torch.float64)) for v in (a, b)]
    if not (min(lengths) > 0 and math.isfinite(sum(lengths) + distance)):
        return None
    sine = math.sqrt(max(0.0, distance**2 - (lengths[0] - lengths[1]) ** 2) / (4 * lengths[0] * lengths[1]))
    return math.degrees(2 * math.asin(min(1.0, sine)))


def rejection_skew(verdict: Verdict, bad: Tensor, skew: Tensor) -> float | None:
    """Whether a defence turns away honest clients for their unusual labels, from −1 to 1.

    Spearman's correlation, over the honest clients, of label skew with being flagged, or where nobody is flagged by
    the rule with having little weight. None where either does not vary.
    """
    if verdict.flagged is not None:
        rejection = verdict.flagged.double()
    elif verdict.weights is not None:
        rejection = -verdict.weights.double()
    else:
        return None
    a, b = rejection[~bad], skew[~bad]
    if len(a) < 3 or a.min() == a.max() or b.min() == b.max():
        return None
    return finite(float(np.corrcoef(ranks(a), ranks(b))[0, 1]))


def summary_of_norms(norms: Norms, bad: Tensor) -> Measured:
    """Median and largest update norm of the honest and of the malicious clients; None where none is finite."""
    measured = {}
    for name, mask in (("honest", ~bad), ("malicious", bad)):
        group = norms[mask & torch.isfinite(norms)]
        measured[name] = {"median": float(group.quantile(0.5)), "max": float(group.max())} if len(group) else None
    return measured


def finite(value: float) -> float | None:
    """The value, or None where JSON has no number for it."""
    return value if math.isfinite(value) else None
