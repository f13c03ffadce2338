"""What an algorithm may say of itself, and what a round records; what it may ask for is in words.py."""

from typing import Any

REFERENCES = ("origin", "previous", "root_update", "zero_model")
"""Rows that may follow the clients': the zero update, last round's aggregate, the root set's update, and the update
that would set all parameters to 0, about which inner products of updates are those of whole models."""
CLAIMS = ("permutation", "unanimity", "translation", "scale", "rotation")
"""What a rule may claim of its aggregate: see fedpoison/checking/symmetries.py."""
WITHSTANDS = ("huge rows", "huge rows in one direction", "nothing")
"""What f clients may send without carrying the aggregate away."""

NOTHING_LEFT = "no update is left"
"""Why a round is skipped of which every update was set aside."""

Record = dict[str, Any]
"""One line of rounds.jsonl; what was not measured is None."""


def stopped(record: Record) -> bool:
    """Whether a monitor ended the run with this round."""
    return any(event["what"] == "stop" for event in record["events"])


GOALS = ("availability", "targeted", "source_to_target", "backdoor")
"""What an attack on the data is after: no use of the model at all; certain test samples taken for another class; a
class taken for another; whatever has a trigger taken for a class."""
SAMPLES = ("pictures", "rows", "tokens")
"""Kinds of samples: [channels, height, width] in [0, 1], [features] of any size, [length] int64."""
PHASES = ("train", "attack", "defence", "evaluate")
"""The parts of a round whose seconds are recorded."""
