"""What a rule owes and what it claims, tried until a counterexample is found: `fedpoison check`.

A contract is a function of a subject (a rule with its options) and a case that returns how the case breaks it. The
first case that does is shrunk to one that can be followed by hand.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fedpoison.checking.cases import Subject
from fedpoison.checking.conduct import CONDUCT, result
from fedpoison.checking.contract import Contract as Contract
from fedpoison.checking.contract import Finding as Finding
from fedpoison.checking.contract import Report as Report
from fedpoison.checking.contract import playable
from fedpoison.checking.evaluation import evaluation
from fedpoison.checking.limits import LIMITS, breakdown
from fedpoison.checking.memory import memory
from fedpoison.checking.robustness import kappa
from fedpoison.checking.speed import speed
from fedpoison.checking.symmetries import SYMMETRIES
from fedpoison.common import parallel
from fedpoison.common.errors import AlgorithmError, ConfigError
from fedpoison.contract.entry import Entry, own_f
from fedpoison.contract.lookup import find

EFFORT = 10
CONTRACTS: dict[str, Callable[[Subject], Finding]] = {
    **{each.name: each for each in (result, *SYMMETRIES, *CONDUCT, memory, evaluation, *LIMITS)},
    "breakdown": breakdown,
    "kappa": kappa,
    "speed": speed,
}


def findings(
    rule: str | Callable[..., Any] | Entry, *, options: Mapping[str, Any] | None = None, effort: int = EFFORT
) -> Iterator[Finding]:
    """One finding after the other, as they are made; a rule that never gives a result is tried no further."""
    entry = rule if isinstance(rule, Entry) else find("aggregator", rule)
    chosen = entry.validate(options or {})
    if own_f((entry, chosen)) is not None:
        raise ConfigError([f"a check tries {entry.name} with many f; f is no option of it here"])
    subject = Subject(entry, chosen, effort)
    try:
        unmet = None if subject.shapes else f"no small n satisfies its needs {entry.needs!r}"
    except AlgorithmError as error:
        unmet = error.sentence
    if unmet:
        yield Finding("result", "broken", unmet)
        return
    for examine in CONTRACTS.values():
        with parallel.using(parallel.workers()):
            found = examine(subject)
        yield found
        broken = found.contract == "result" and found.outcome == "broken"
        if broken and not any(playable(subject, case) for case in subject.ordinary()):
            return


def check(
    rule: str | Callable[..., Any] | Entry, *, options: Mapping[str, Any] | None = None, effort: int = EFFORT
) -> Report:
    """Hold a rule to all contracts: a registered name, "file.py:name" or a decorated function.

    `options`: the rule's. `effort`: how many draws each contract tries; the search for κ takes a hundred steps for
    each. The same call makes the same tries.
    """
    found = tuple(findings(rule, options=options, effort=effort))
    name = rule if isinstance(rule, str) else rule.name if isinstance(rule, Entry) else rule.__name__
    return Report(name, dict(options or {}), found)
