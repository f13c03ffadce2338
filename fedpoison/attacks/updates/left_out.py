"""Attacks on updates that the field has and this package has not: `fedpoison list` says so, with what is missing."""

from fedpoison.contract.registry import leave_out

leave_out(
    "update_attack",
    darkfed="not built yet: clients without data send what they trained on shadow data",
    fedsa="not built yet: it steers the updates by sliding mode control",
    hammer_and_anvil="not built yet: two groups of attackers send unlike updates that help each other",
    mix="the attackers of a run share one data attack and one update attack",
    scaled="it is model_replacement with a scale of one's own",
    sparse="it hides large deviations where pruning scores of the net say, and no attack on updates is shown the net",
)
