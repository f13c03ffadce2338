"""FLTrust: the server trains on samples of its own and trusts whoever goes its way."""

import torch

from fedpoison.contract.registry import aggregator
from fedpoison.linalg.angles import cosines_to
from fedpoison.linalg.blocks import row_norms
from fedpoison.types import Update, Updates, Weights


@aggregator(
    paper="arXiv:2012.13995",
    source="secondary: the paper's abstract (read), and libraries that agree on the formulas",
    evidence="tests/defences/test_detection_rules.py::test_fltrust_equals_its_definition",
    references=("origin",),
    claims=("permutation",),
)
def fltrust(updates: Updates, root_update: Update) -> Weights:
    """Average the updates by their trust score, each brought to the length of the server's own update.

    Cao et al. 2021, Algorithm 2: the trust score is ReLU(cos(g_i, g_0)), and g_i counts as g_i · ‖g_0‖ / ‖g_i‖. If
    nobody is trusted the aggregate is zero. The cosines are taken from the updates, one product each, and not from
    Gram matrices, whose centre a majority of far-away rows could move: the paper withstands a majority of attackers.
    Its limit is the root set: who sends an update close to the server's in direction is trusted, whatever it does
    besides.
    """
    n = len(updates)
    trust = cosines_to(root_update, updates).clamp(min=0)
    weights = torch.zeros(n + 1, dtype=torch.float64)
    trusted = (trust > 0).nonzero().flatten()
    if len(trusted):
        shares = trust[trusted] / trust.sum()
        weights[trusted] = shares * row_norms(root_update.unsqueeze(0)) / row_norms(updates[trusted])
    weights[n] = 1 - weights.sum()
    return weights
