"""A rule with memory in a federation that changes: what it keeps belongs to clients, not to their places."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from fedpoison.checking.cases import Case, RuleError, Subject
from fedpoison.checking.contract import contract, playable
from fedpoison.checking.symmetries import unlike
from fedpoison.checking.wording import situation
from fedpoison.types import Verdict


def _changing(subject: Subject) -> Iterator[Case]:
    """All clients twice; one that comes only in the second round; one that is away in the second of three."""
    for case in subject.ordinary():
        if case.rounds > 1:
            everybody = tuple(range(len(case.updates)))
            others = everybody[1:]
            for cohorts in ((everybody, everybody), (others, everybody), (everybody, others, everybody)):
                yield replace(case, rounds=1, cohorts=cohorts)


@contract(
    "it remembers clients whatever their places, who is new and who was away",
    _changing,
    ties_aside=True,
    about_failures=True,
    without_cases="it keeps none",
)
def memory(subject: Subject, case: Case) -> str | None:
    """It gives an aggregate in each round; the order of later rounds does not matter to who claims so, nor a new name.

    A case that fails without a change of clients is another contract's.
    """
    sizes = {len(cohort) for cohort in case.cohorts}
    if not all(subject.allows(n, case.f) for n in sizes) or not playable(subject, replace(case, rounds=2, cohorts=())):
        return None
    first, *later = case.cohorts
    where, single = situation(subject, case), case.updates.dtype == torch.float32
    once = _played(subject, case, "")
    order = torch.arange(len(case.cohorts[-1]))
    if "permutation" in subject.entry.claims:
        turned = replace(case, cohorts=(first, *(cohort[::-1] for cohort in later)))
        how = "with the clients of later rounds in reverse order"
        told = unlike(once, _played(subject, turned, f"{how}, "), order.flip(0), how, single)
        if told:
            return f"{where} {told}"
    new = sorted(set(case.cohorts[-1]).difference(*case.cohorts[:-1]))
    if new and "client_ids" in subject.entry.asks:
        ids = case.client_ids.clone()
        ids[new] = ids.max() + 1 + torch.arange(len(new))
        named = ", ".join(map(str, ids.tolist()))
        how = f"with client_ids = [{named}], where who is new has another,"
        told = unlike(once, _played(subject, replace(case, client_ids=ids), f"{how} "), order, how, single)
        return f"{where} {told}" if told else None
    return None


def _played(subject: Subject, case: Case, how: str) -> Verdict:
    try:
        return subject.play(case)
    except RuleError as failure:
        raise RuleError(failure.kind, f"{how}{failure.sentence}") from failure
