"""What a contract is, and what is found of one."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from torch import Tensor

from fedpoison.checking.cases import Case, RuleError, Subject
from fedpoison.checking.shrinking import shrink
from fedpoison.checking.wording import as_dict, situation
from fedpoison.contract.entry import Entry

Outcome = Literal["holds", "broken", "not claimed", "told"]
Breach = Callable[[Subject, Case], str | None]
Cases = Callable[[Subject], Iterable[Case]]


@dataclass(frozen=True)
class Finding:
    """What came out of one contract, in a sentence; `counterexample` is enough to make it again, if it is broken."""

    contract: str
    outcome: Outcome
    sentence: str
    counterexample: Mapping[str, Any] | None = None
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """All findings about one rule."""

    rule: str
    options: Mapping[str, Any]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether no contract is broken."""
        return not self.broken

    @property
    def broken(self) -> tuple[Finding, ...]:
        """The findings with a counterexample against a contract."""
        return tuple(finding for finding in self.findings if finding.outcome == "broken")

    def __getitem__(self, contract: str) -> Finding:
        return {finding.contract: finding for finding in self.findings}[contract]

    def __str__(self) -> str:
        lines = [f"{f.contract:<12} {f.outcome:<12} {f.sentence}" for f in self.findings]
        return "\n".join([self.rule, *lines])

    def as_dict(self) -> dict[str, Any]:
        """The report for machines."""
        return {"rule": self.rule, "ok": self.ok, "options": self.options, "findings": [*map(asdict, self.findings)]}


def _everyone(entry: Entry) -> bool:
    return True


@dataclass(frozen=True)
class Contract:
    """A promise, cases to try it on, and what a breach of it is: a sentence, or None.

    `claimed`: whether a rule is held to it. `ties_aside`: a breach that a slight move of the updates heals is none,
    because rules may break ties as they like; nor is one with fewer than four clients, of whom two are always each
    other's nearest. `about_failures`: whether a case without an aggregate breaks this contract; elsewhere it does only
    if the contract's own move made it so. `without_cases`: what is told where there is nothing to try.
    """

    name: str
    promise: str
    cases: Cases
    breach: Breach
    claimed: Callable[[Entry], bool]
    ties_aside: bool = False
    about_failures: bool = False
    without_cases: str = "there is no case to try it on"

    def __call__(self, subject: Subject) -> Finding:
        """Try all cases; shrink the first that breaks."""
        claimed, tried = self.claimed(subject.entry), 0
        for case in self.cases(subject):
            tried += 1
            found = self._breach(subject, case)
            if found and not claimed:
                return Finding(self.name, "not claimed", "and a counterexample is easily found")
            if found:
                return self._broken(subject, case, *found)
        if not tried:
            return Finding(self.name, "told", self.without_cases)
        if not claimed:
            return Finding(self.name, "not claimed", f"but no counterexample was found in {tried} tries")
        return Finding(self.name, "holds", f"{self.promise} ({tried} tries)")

    def _broken(self, subject: Subject, case: Case, kind: str, sentence: str) -> Finding:
        def breaks(smaller: Case) -> bool:
            nonlocal sentence
            if not subject.allows(len(smaller.updates), smaller.f):
                return False
            found = self._breach(subject, smaller)
            if found is None or found[0] != kind:
                return False
            sentence = found[1]  # kept, because a rule that is not the same twice may not break again
            return True

        small = shrink(case, breaks)
        return Finding(self.name, "broken", sentence, as_dict(subject, small))

    def _breach(self, subject: Subject, case: Case) -> tuple[str, str] | None:
        """What kind of breach, and its sentence; a failure is a breach of its own kind."""
        if not self.ties_aside:
            return self._tried(subject, case)
        if len(case.updates) < 4 and not subject.entry.coordinatewise:
            return None
        found = self._tried(subject, case)
        if found and all((other := self._tried(subject, case.jittered(k))) and other[0] == found[0] for k in (1, 2)):
            return found
        return None

    def _tried(self, subject: Subject, case: Case) -> tuple[str, str] | None:
        try:
            sentence = self.breach(subject, case.mapped(Tensor.clone))
        except RuleError as failure:
            if not self.about_failures and not playable(subject, case):
                return None
            return failure.kind, f"{situation(subject, case)} there is no aggregate: {failure.sentence}"
        return ("", sentence) if sentence else None


def playable(subject: Subject, case: Case) -> bool:
    """Whether there is an aggregate at all."""
    try:
        subject.play(case)
    except RuleError:
        return False
    return True


def contract(
    promise: str,
    cases: Cases,
    claimed: Callable[[Entry], bool] = _everyone,
    **traits: Any,
) -> Callable[[Breach], Contract]:
    """Make a contract of a function (subject, case) -> the sentence that tells how the case breaks it, or None."""
    return lambda breach: Contract(breach.__name__, promise, cases, breach, claimed, **traits)


def claim(promise: str, cases: Cases, *, ties_aside: bool = False) -> Callable[[Breach], Contract]:
    """A contract for those who claim it by its name."""

    def named(breach: Breach) -> Contract:
        def claimed(entry: Entry) -> bool:
            return breach.__name__ in entry.claims

        return contract(promise, cases, claimed, ties_aside=ties_aside)(breach)

    return named
