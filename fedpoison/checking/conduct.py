"""How a rule behaves as a function: what it returns, what it leaves alone, and that it can be repeated."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedpoison.checking.cases import Case, Subject, drawn
from fedpoison.checking.contract import contract
from fedpoison.checking.evaluation import directly, statistics
from fedpoison.checking.symmetries import differ
from fedpoison.checking.wording import apart, situation, vector
from fedpoison.common import parallel
from fedpoison.contract.results import sums_to_one
from fedpoison.linalg.blocks import GROUP

_FAR = 3000
_WIDE = 2 * GROUP + 1000
"""Coordinates of the rounds that several workers share: three tasks."""


@contract(
    "a finite vector of the updates' length and precision; weights are shares", Subject.ordinary, about_failures=True
)
def result(subject: Subject, case: Case) -> str | None:
    """The aggregate's form, and the weights': one a client, none negative, at most 1 in all.

    A rule that scales updates up, against the origin, may give more than 1.
    """
    verdict, n, entry = subject.play(case), len(case.updates), subject.entry
    where = situation(subject, case)
    if entry.returns == "update":
        made, _ = directly(subject, statistics(subject, case))
        if made.dtype != case.updates.dtype:
            return f"{where} the aggregate is of {made.dtype}, and the updates are of {case.updates.dtype}"
    if verdict.weights is not None:
        weights = verdict.weights
        if weights.shape != (n,) or not (weights >= 0).all():
            return f"{where} the clients' weights are {vector(weights)}"
        if "origin" not in entry.references and not sums_to_one(weights) and weights.sum() > 1:
            return f"{where} the clients' weights are {vector(weights)}, which are {float(weights.sum()):.9g} in all"
    if (verdict.flagged is not None) != bool(entry.decides):
        return f"{where} it says decides={entry.decides} and flags {verdict.flagged}"
    return None


def _near_and_far(subject: Subject) -> Iterator[Case]:
    """Ordinary rounds, and such as lie far from the origin, where careless distances cancel."""
    for case in subject.ordinary((torch.float32,)):
        yield case
        yield case.mapped(lambda values: values + _FAR, but=("params",))


@contract("float32 and float64 agree", _near_and_far, ties_aside=True)
def precision(subject: Subject, case: Case) -> str | None:
    """The same numbers in both precisions."""
    rounded = subject.play(case).update.double()
    exact = subject.play(case.mapped(Tensor.double)).update
    spread = float((case.updates - case.updates.mean(dim=0)).abs().max())
    if not differ(rounded, exact, 1e-6, 1e-4 * spread):
        return None
    single, double = apart(rounded, exact)
    return f"{situation(subject, case)} the aggregate is {double} in float64 and {single} in float32"


@contract("its input is neither changed nor returned", Subject.ordinary)
def inputs(subject: Subject, case: Case) -> str | None:
    """Called directly, and in the defence, whose result belongs to the caller."""
    supply, before = statistics(subject, case), statistics(subject, case)
    made, _ = directly(subject, supply)
    where = situation(subject, case)
    for word, value in _tensors(supply).items():
        if not torch.equal(value, before[word]):
            return f"{where} it changes {word}, which {_become(before[word], value)}"
    for word, value in _tensors(supply).items():
        if made.untyped_storage().data_ptr() == value.untyped_storage().data_ptr():
            return f"{where} what it returns lies in the memory of {word}: who writes to the one changes the other"
    kept = replace(case.mapped(Tensor.clone), sizes=case.sizes.clone(), client_ids=case.client_ids.clone())
    verdict = subject.play(case)
    for part in (verdict.update, verdict.norms, verdict.weights):
        if part is not None:
            part.fill_(-1)
    given = ("updates", "sizes", "client_ids", *kept.vectors)
    if all(torch.equal(getattr(case, name), getattr(kept, name)) for name in given):
        return None
    return f"{situation(subject, kept)} who writes to the aggregate changes what was sent"


def _tensors(supply: dict[str, Any]) -> dict[str, Tensor]:
    return {word: value for word, value in supply.items() if isinstance(value, Tensor)}


def _become(before: Tensor, after: Tensor) -> str:
    places = (before != after).nonzero()
    first = tuple(places[0].tolist())
    was, now = apart(before[first].reshape(1), after[first].reshape(1))
    return f"is {now} instead of {was} at {list(first)}"


def _global_states() -> dict[str, Any]:
    numpys: Any = np.random.get_state()  # noqa: NPY002 (to see that nobody used it)
    return {"torch's": torch.get_rng_state().numpy().tobytes(), "numpy's": (numpys[1].tobytes(), numpys[2:])}


@contextmanager
def _global_seed(number: int) -> Iterator[None]:
    """Torch's, NumPy's and Python's global generators in a state of this number, and as they were afterwards."""
    before, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002 (rules may draw from it)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(number)  # torch.manual_seed also writes the stack down, for GPUs
            np.random.seed(number)  # noqa: NPY002
            random.seed(number)
            yield
    finally:
        random.setstate(before)
        np.random.set_state(numpys)  # noqa: NPY002


@contract("the same bits for the same seed, without any global generator", Subject.ordinary)
def seed(subject: Subject, case: Case) -> str | None:
    """Two calls with one seed, the global generators in different states before them."""
    where = situation(subject, case)
    with _global_seed(98):
        before = _global_states()
        first = subject.play(case).update
        for owner, state in _global_states().items():
            if state != before[owner]:
                return f"{where} it draws from {owner} global generator; ask for rng"
    with _global_seed(99):
        again = subject.play(case).update
    if torch.equal(first, again):
        return None
    one, other = apart(first, again)
    twice = f"{where} and seed {case.seed} the aggregate is {one}, and {other} when called again"
    return f"{twice}: what is drawn comes from rng, what is remembered lies in state"


def _wide(subject: Subject) -> Iterator[Case]:
    for n, f in subject.shapes[:1]:
        yield subject.case(drawn(5, n, _WIDE).float(), f, seed=3)


@contract("the same bits for any number of workers", _wide)
def workers(subject: Subject, case: Case) -> str | None:
    """Rounds of several blocks of columns, which one, two and three workers share."""
    first = subject.play(case).update
    for count in (1, 2, 3):
        with parallel.using(count):
            update = subject.play(case).update
        if not torch.equal(update, first):
            place = int((update != first).nonzero()[0])
            one, other = apart(first[place : place + 1], update[place : place + 1])
            return f"{situation(subject, case)} coordinate {place} is {one}, and {other} with {count} workers"
    return None


def _extremes(subject: Subject) -> Iterator[Case]:
    """Huge rows of f attackers, the largest there are if the rule withstands such; all rows zero, huge or equal."""
    for case in replace(subject, effort=1).ordinary():
        largest = 3e38 if case.updates.dtype == torch.float32 else 1e100
        bad = list(range(case.f))
        for size in (1e3, 1e9, 1e30, *((largest,) if subject.entry.withstands != "nothing" else ())):
            for rows in (torch.ones_like(case.updates), case.updates.sign(), -case.updates / case.updates.abs().max()):
                updates = case.updates.clone()
                updates[bad] = size * rows[bad]
                yield replace(case, updates=updates, attackers=tuple(bad))
        for updates in (0 * case.updates, 1e30 * case.updates.sign(), case.updates[:1].repeat(len(case.updates), 1)):
            yield replace(case, updates=updates)


@contract("zero, equal and huge rows leave the aggregate finite", _extremes, about_failures=True)
def finite(subject: Subject, case: Case) -> str | None:
    """No aggregate is a failure, which breaks this contract by itself."""
    subject.play(case)
    return None


CONDUCT = (precision, inputs, seed, workers, finite)
