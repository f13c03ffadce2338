"""Labels that a net or a classifier is confident are others."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor

from fedpoison.contract.registry import sanitizer
from fedpoison.types import Cleaned, Features, Labels, Logits


def _missing(**options: Any) -> list[str]:
    there = find_spec("cleanlab") is not None
    return (
        [] if there else ["confident_learning is cleanlab's, which is not installed: pip install 'fedpoison[layers]'"]
    )


@sanitizer(
    paper="arXiv:1911.00068",
    source="read: cleanlab, the authors' code, which does it",
    evidence="tests/clients/test_sanitizers_by_hand.py::test_confident_learning_by_hand",
    check=_missing,
)
def confident_learning(
    features: Features,
    logits: Logits,
    labels: Labels,
    rng: torch.Generator,
    say: Callable[[str], None],
    *,
    by: Literal[
        "prune_by_noise_rate", "prune_by_class", "both", "confident_learning", "predicted_neq_given"
    ] = "prune_by_noise_rate",
    probabilities: Literal["folds", "model"] = "folds",
) -> Cleaned:
    """Take out samples whose label is probably wrong, as counted from who is confident of what.

    Northcutt et al. 2021. A sample counts for class k where its probability of k is at least the mean one of the
    samples labelled k; the counts of labels against that say how many of each pair are mislabelled, and `by` which:
    the least likely of their class, or those for which another class is likelier by most. `probabilities`: of samples
    that were not trained on, "folds": by a logistic regression on the features of the other folds, five or as many as
    the rarest class has samples; "model": the global model's, which has seen these samples in earlier rounds. A class
    with one sample is left alone, and with one class everything is.
    """
    present, place, sizes = labels.unique(return_inverse=True, return_counts=True)
    judged = sizes[place] > 1
    seen = features if probabilities == "folds" else logits
    if (sizes > 1).sum() < 2 or not seen.isfinite().all():
        say("fewer than two classes have two samples, or features are not finite: all is left alone")
        return Cleaned(torch.ones_like(judged), torch.zeros(len(labels), dtype=torch.float64))
    known = present[sizes > 1]
    given = torch.searchsorted(known, labels[judged])
    if probabilities == "folds":
        p = _out_of_sample(features[judged], given, rng)
    else:
        p = logits[judged][:, known].softmax(dim=1)
    from cleanlab.filter import find_label_issues  # slow to import

    issues = find_label_issues(given.numpy(), p.numpy(), filter_by=by, n_jobs=1)
    keep, suspicion = torch.ones_like(judged), torch.zeros(len(labels), dtype=torch.float64)
    keep[judged] = ~torch.from_numpy(issues)
    own = p.gather(1, given.unsqueeze(1)).squeeze(1)
    suspicion[judged] = p.scatter(1, given.unsqueeze(1), 0).amax(dim=1) - own
    return Cleaned(keep, suspicion)


def _out_of_sample(features: Features, labels: Labels, rng: torch.Generator) -> Tensor:
    """Each sample's probabilities [n, classes], by a regression that was fitted on the other folds."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = StratifiedKFold(
        min(5, int(torch.bincount(labels).min())),
        shuffle=True,
        random_state=int(torch.randint(2**31, (), generator=rng)),
    )
    head = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    return torch.from_numpy(cross_val_predict(head, features.numpy(), labels.numpy(), cv=folds, method="predict_proba"))
