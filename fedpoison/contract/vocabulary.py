"""The words that rooms share: what the round can supply to an algorithm, by kind, and what it records.

A parameter without a default must be one of the words of its kind.
"""

from typing import Any

_ROWS = {
    "n": "how many rows there are",
    "f": "how many of them the defence is told to be malicious",
    "updates": "[n, d] the rows themselves",
    "gram": "[r, r] float64 inner products of rows and references about a common centre",
    "squared_distances": "[r, r] float64 squared Euclidean distances of rows and references",
    "norms": "[n] float64 Euclidean norms",
    "sizes": "[n] samples behind each row, as the server knows them",
    "client_ids": "[n] int64 who sent each row",
    "previous": "[d] last round's aggregate, zero before there was one",
    "root_update": "[d] what the same training on the server's root set gives",
    "params": "[d] the global parameters of this round",
    "say": "str -> None: put a remark among the round's events; one of every round is said with the results",
    "rng": "torch.Generator, this round's stream",
}
VOCABULARY: dict[str, dict[str, str]] = {
    "aggregator": {
        **_ROWS,
        "layers": "tuple of Layer(name, columns, shape): which columns are which parameter tensor's, the net's order",
        "base": "(rows [m, d'], f) -> [d']: the rule in [defence] base, for rules that are built around another",
        "probe": "update [d] -> (loss, error rate) of the model moved by it, on the server's root set",
        "state": "dict[str, Tensor], the rule's memory; return (result, state)",
    },
    "preaggregator": _ROWS,
    "update_attack": {
        "benign": "[b, d] honest updates that [threat] knows grants, the finite ones",
        "own": "[n_malicious, d] what the malicious clients' own training gave",
        "n_malicious": "how many updates to craft",
        "n": "clients in this round's cohort",
        "params": "[d] the global parameters of this round",
        "previous": "[d] last round's aggregate, zero before there was one",
        "server_lr": "the server's learning rate",
        "defend": "updates [n, d] of all clients -> Verdict: the defence in use, its memory frozen, its own stream",
        "say": "str -> None: put a remark among the round's events",
        "state": "dict[str, Tensor], the attack's memory; return (crafted, state)",
        "rng": "torch.Generator, this round's stream",
    },
    "data_attack": {
        "images": "[samples, ...] float32 in [0, 1], one client's shard",
        "labels": "[samples] int64",
        "n_classes": "how many classes there are",
        "attacker": "which of the clients that are always attacked at this is, from 0; else the client's id",
        "victims": "[victims, ...] the test samples that the attack aims at, as they will be presented",
        "surrogate": "nn.Module, the attacker's own net, trained on this client's samples, in evaluation mode",
        "rng": "torch.Generator, this client's stream",
    },
    "dataset": {},
    "partition": {
        "labels": "[samples] int64 numpy array",
        "clients": "[samples] int64 numpy array, whom each belongs to by nature; an error where the data do not say",
        "n_clients": "how many shards to make",
        "rng": "numpy.random.Generator",
    },
    "model": {
        "input_shape": "one sample's shape",
        "n_classes": "how many classes there are",
        "vocabulary": "how many different tokens there are; None where samples are not text",
    },
    "engine": {
        "model": "the net",
        "federation": "who holds which samples",
        "local": "local training's settings",
        "recipe": "what another process builds the same from",
    },
}
LENT = {"updates", "previous", "params", "root_update", "client_ids", "benign", "own"}
"""What is somebody else's: whoever asks for it must leave it as it is."""
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
GOALS = ("availability", "targeted", "source_to_target", "backdoor")
"""What an attack on the data is after: no use of the model at all; certain test samples taken for another class; a
class taken for another; whatever has a trigger taken for a class."""
SAMPLES = ("pictures", "rows", "tokens")
"""Kinds of samples: [channels, height, width] in [0, 1], [features] of any size, [length] int64."""
PHASES = ("train", "attack", "defence", "evaluate")
"""The parts of a round whose seconds are recorded."""
