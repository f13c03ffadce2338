"""What made runs others than those that were asked for, by their records."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fedpoison.contract.vocabulary import NOTHING_LEFT, Record, stopped
from fedpoison.runs.files import RunFiles


def happened(folders: Sequence[RunFiles]) -> list[str]:
    """What happened to these runs that no number shows, a sentence each with the rounds and runs it happened in."""
    counts: dict[tuple[str, str], list[tuple[int, int]]] = {}
    known = {folder.path: folder.records() for folder in folders}
    spans = _spans(event["detail"] for records in known.values() for r in records for event in _events(r, "attack"))
    for folder in folders:
        records = known[folder.path]
        for note, count in _rounds(records, folder.described()[1], spans).items():
            counts.setdefault(note, []).append((count, len(records)))
    said = []
    for (what, why), found in counts.items():
        rounds, played = (_span(values) for values in zip(*found, strict=True))
        among = f" in {len(found)} of {len(folders)} runs" if len(folders) > 1 else ""
        said.append(f"{rounds} of {played} rounds{what}{among}: {why}")
    return said


def unattacked(records: Sequence[Record], labels: Mapping[str, Any]) -> bool:
    """Whether a run with an attack was played without it: no malicious client took part, or all did as honest ones."""
    return labels["attack"] != "none" and all(
        set(record["malicious"]) <= {client for event in _events(record, "unattacked") for client in event["clients"]}
        for record in records
    )


def unlearned(records: Sequence[Record]) -> bool:
    """Whether every round was skipped: the model is the one it was at the start."""
    return all(record["skipped"] for record in records)


_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w])")


def _spans(details: Iterable[str]) -> dict[str, str]:
    """For each remark of an attack, one for all that differ from it in numbers alone: with the least and the most."""
    alike: dict[str, list[str]] = {}
    for detail in dict.fromkeys(details):
        alike.setdefault(_NUMBER.sub("\0", detail), []).append(detail)
    return {detail: _one_of(details) for details in alike.values() for detail in details}


def _one_of(details: Sequence[str]) -> str:
    columns = iter(zip(*(_NUMBER.findall(detail) for detail in details), strict=True))

    def span(_: re.Match[str]) -> str:
        values = next(columns)
        least, most = min(values, key=float), max(values, key=float)
        return least if float(least) == float(most) else f"{least} to {most}"

    return _NUMBER.sub(span, details[0])


def _rounds(
    records: Sequence[Record], labels: Mapping[str, Any], spans: Mapping[str, str]
) -> dict[tuple[str, str], int]:
    """By what happened and why: in how many of a run's rounds."""
    found: dict[tuple[str, str], int] = {}
    for record in records:
        for note in dict.fromkeys((what, spans.get(why, why)) for what, why in _round(record)):
            found[note] = found.get(note, 0) + 1
    played = [record for record in records if not record["skipped"]]
    said = [{event["detail"] for event in _events(record, "defence")} for record in played]
    found |= {("", each): len(played) for each in sorted(set.intersection(*said) if said else ())}
    if records and labels["attack"] != "none" and not any(record["malicious"] for record in records):
        found["", f"{labels['attack']}: no malicious client took part"] = len(records)
    return found


def _round(record: Record) -> Iterator[tuple[str, str]]:
    malicious = set(record["malicious"])
    aside = _events(record, "set_aside")
    for event in _events(record, "skipped"):
        yield " were skipped", event["detail"] + (_left_nothing(aside) if event["detail"] == NOTHING_LEFT else "")
    for event in _events(record, "attack", "unattacked", "uncounted"):
        yield "", event["detail"]
    if _events(record, "not_finite"):
        yield "", "outputs of the model are not finite for some samples, which count as wrong"
    for event in _events(record, "monitor_failed"):
        yield "", f"a monitor failed: {event['detail']}"
    for event in _events(record, "alarm"):
        yield " had an alarm", event["detail"].partition(":")[0]
    if _events(record, "rollback"):
        yield " were taken back", "a monitor's alarm"
    if stopped(record):
        yield " ended the run", "a monitor's alarm"
    if _events(record, "quarantine"):
        yield " put suspects in quarantine", "a monitor's alarm"
    theirs = [event for event in aside if malicious.intersection(event["clients"])]
    if malicious and malicious <= {client for event in theirs for client in event["clients"]} and not record["skipped"]:
        yield "", f"what the attackers sent was set aside ({' or '.join(event['detail'] for event in theirs)})"


def _events(record: Record, *what: str) -> list[Mapping[str, Any]]:
    return [event for event in record["events"] if event["what"] in what]


def _left_nothing(aside: Sequence[Mapping[str, Any]]) -> str:
    why = " or ".join(event["detail"] for event in aside)
    return (f" (all {why})" if why else "") + ("; is the learning rate too large?" if why == "not finite" else "")


def _span(values: Iterable[int]) -> str:
    """One number, or the least and the most."""
    found = sorted(set(values))
    return f"{found[0]}" if len(found) == 1 else f"{found[0]} to {found[-1]}"
