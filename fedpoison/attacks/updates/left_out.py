"""Attacks on updates that the field has and this package has not: `fedpoison list` says so, with what is missing."""

from fedpoison.contract.registry import leave_out

leave_out(
    "update_attack",
    agr_tailored="not built yet: it searches for the longest deviation that a known rule still takes in",
    darkfed="not built yet: clients without data send what they trained on shadow data",
    fang_krum="not built yet: it searches for the longest step against the honest that Krum still picks",
    fang_trim="not built yet: it goes beyond the honest extreme of each coordinate, against the mean's sign",
    fedsa="not built yet: it steers the updates by sliding mode control",
    hammer_and_anvil="not built yet: two groups of attackers send unlike updates that help each other",
    mimic="not built yet: all send the update of one honest client, whose share so grows",
    mix="the attackers of a run share one data attack and one update attack",
    mpaf="not built yet: clients without data drag the model towards a fixed one",
    pga="not built yet: it ascends the loss on the attackers' data and searches for the length",
    poisonedfl="not built yet: it keeps to signs drawn once, at a length that it learns from the rounds before",
    rop="not built yet: it sends what is orthogonal to the last aggregate, against clipping around that",
    sparse="not built yet: it hides large deviations in few coordinates and small ones in the others",
)
