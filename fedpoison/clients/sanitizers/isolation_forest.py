"""Samples that random cuts part from their class at once."""

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from annotated_types import Interval
from torch import Tensor

from fedpoison.clients.sanitizers.classes import Judged, by_class
from fedpoison.contract.registry import sanitizer
from fedpoison.types import Cleaned, Count, Features, Labels


@sanitizer(
    paper="Liu, Ting and Zhou 2008",
    source="read: scikit-learn, which does it",
    evidence="tests/clients/test_sanitizers_by_hand.py::test_isolation_forest_scores_by_the_depths_of_its_trees",
)
def isolation_forest(
    features: Features,
    labels: Labels,
    rng: torch.Generator,
    say: Callable[[str], None],
    *,
    trees: Count = 100,
    contamination: Annotated[float, Interval(gt=0, le=0.5)] | Literal["auto"] = "auto",
) -> Cleaned:
    """Take out of each class what random trees of its features isolate after few cuts.

    Scored 2^(−E[h]/c(ψ)), h being a sample's depth in trees that are grown on ψ = min(256, n) samples each, c(ψ) the
    mean depth of a search that fails: above .5 it is out, as in the paper; or that share of the class, poisoned or
    not. Classes of fewer than 16 samples are left alone. Rare styles of a class are outliers too.
    """
    from sklearn.ensemble import IsolationForest  # slow to import

    def judge(rows: Tensor) -> Judged:
        seed = int(torch.randint(2**31, (), generator=rng))
        forest = IsolationForest(n_estimators=trees, contamination=contamination, random_state=seed)
        out = torch.from_numpy(forest.fit_predict(rows.numpy()) < 0)
        return out, torch.from_numpy(-forest.score_samples(rows.numpy()))

    return by_class(features, labels, say, 16, judge)
