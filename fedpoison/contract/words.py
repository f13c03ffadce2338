"""The words by which algorithms ask: a parameter without a default must be one of those of its kind.

This is the one table of them: what registers, supplies, checks and lists (`fedpoison list words`) reads it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Word:
    """What may be asked for: its type or shape, what it is, and who supplies it.

    `lent`: it is somebody else's, and whoever asks for it must leave it as it is. `whole`: it means nothing where only
    a block of columns is shown. `of_clients`: it means nothing where no client is behind a row, as in a rule's base.
    """

    type: str
    text: str
    by: str
    lent: bool = False
    whole: bool = False
    of_clients: bool = False


_ROUND = {
    "params": Word("[d]", "the global parameters of this round", "server", lent=True, whole=True, of_clients=True),
    "previous": Word(
        "[d]", "last round's aggregate, zero before there was one", "server", lent=True, whole=True, of_clients=True
    ),
    "rng": Word("torch.Generator", "this round's stream", "streams", whole=True),
}
_ROWS = {
    "n": Word("int", "how many rows there are", "rows"),
    "f": Word("int", "how many of them the defence is told to be malicious", "config"),
    "updates": Word("[n, d]", "the rows themselves", "rows", lent=True),
    "gram": Word("[r, r] float64", "inner products of rows and references about a common centre", "rows"),
    "squared_distances": Word("[r, r] float64", "squared Euclidean distances of rows and references", "rows"),
    "norms": Word("[n] float64", "Euclidean norms", "rows"),
    "sizes": Word("[n] float64", "samples behind each row, as the server knows them", "server"),
    "client_ids": Word("[n] int64", "who sent each row", "server", lent=True, of_clients=True),
    **_ROUND,
    "root_update": Word(
        "[d]", "what the same training on the server's root set gives", "server", lent=True, whole=True, of_clients=True
    ),
    "say": Word(
        "str -> None",
        "put a remark among the round's events; one of every round is said with the results",
        "round",
        whole=True,
    ),
    "state": Word("dict[str, Tensor]", "its memory, empty at first; return (result, state)", "memory", whole=True),
}
WORDS: dict[str, dict[str, Word]] = {
    "aggregator": {
        **_ROWS,
        "layers": Word(
            "tuple of Layer(name, columns, shape)",
            "which columns are which parameter tensor's, in the net's order",
            "net",
            whole=True,
            of_clients=True,
        ),
        "base": Word(
            "(rows [m, d'], f) -> [d']",
            "the rule in [defence] base, for rules that are built around another",
            "config",
            whole=True,
            of_clients=True,
        ),
        "probe": Word(
            "update [d] -> (loss, error rate)",
            "of the model moved by it, on the server's root set",
            "server",
            whole=True,
            of_clients=True,
        ),
    },
    "preaggregator": _ROWS,
    "sanitizer": {
        "images": Word("[samples, ...]", "one client's samples, as it has them", "data", lent=True),
        "labels": Word("[samples] int64", "their labels", "data", lent=True),
        "n_classes": Word("int", "how many classes there are", "data"),
        "features": Word("[samples, d] float64", "what the global model's last linear layer sees of them", "net"),
        "logits": Word("[samples, classes] float64", "what the global model makes of them", "net"),
        "losses": Word("[samples] float64", "the global model's cross-entropy of each of them", "net"),
        "say": Word("str -> None", "put a remark among the round's events", "round"),
        "rng": Word("torch.Generator", "this client's stream in this round", "streams"),
    },
    "monitor": {
        "update": Word("[d]", "the round's aggregate, before the server's optimizer", "defence", lent=True),
        "norms": Word(
            "[n] float64", "Euclidean norms of what clients sent, NaN or Inf where set aside", "defence", lent=True
        ),
        "weights": Word("[n] | None", "what each client is credited with, where a rule says it", "defence", lent=True),
        "flagged": Word("[n] bool | None", "whom the rule flags, where it decides", "defence", lent=True),
        "client_ids": _ROWS["client_ids"],
        "params": _ROUND["params"],
        "previous": _ROUND["previous"],
        "reading": Word(
            "str -> float",
            "the round's value of a series: norm, median_norm, or root_ or validation_ accuracy or loss, after it",
            "server",
        ),
        "recalls": Word(
            "str -> ([classes], [classes]) float64",
            "after the round, on root or validation: what share of each class is right (NaN of none), and its samples",
            "server",
        ),
        "state": Word("dict[str, Tensor]", "its memory, empty at first; return (alarm, state)", "memory"),
        "rng": Word("torch.Generator", "this monitor's stream in this round", "streams"),
    },
    "update_attack": {
        "benign": Word("[b, d]", "honest updates that [threat] knows grants, the finite ones", "clients", lent=True),
        "own": Word("[n_malicious, d]", "what the malicious clients' own training gave", "clients", lent=True),
        "benign_ids": Word("[b] int64", "whose updates `benign` are", "clients", lent=True),
        "full_knowledge": Word(
            "bool",
            "whether `benign` are what the honest send, not what the attackers would if they were honest",
            "threat",
        ),
        "n_malicious": Word("int", "how many updates to craft", "threat"),
        "malicious": Word("[n] bool", "which of the rows that `defend` takes are the attackers'", "threat", lent=True),
        "n": Word("int", "clients in this round's cohort", "threat"),
        **_ROUND,
        "server_lr": Word("float", "the server's learning rate in this round", "server"),
        "defend": Word("updates [n, d] -> Verdict", "the defence in use on all clients, its memory frozen", "defence"),
        "say": Word("str -> None", "put a remark among the round's events", "round"),
        "state": Word("dict[str, Tensor]", "its memory, empty at first; return (crafted, state)", "memory"),
    },
    "data_attack": {
        "images": Word("[samples, ...]", "one client's shard: pictures in [0, 1], rows or tokens", "data"),
        "labels": Word("[samples] int64", "their labels", "data"),
        "n_classes": Word("int", "how many classes there are", "data"),
        "attacker": Word(
            "int", "which of the clients that are always attacked at this is, from 0; else the client's id", "threat"
        ),
        "victims": Word("[victims, ...]", "the test samples that it aims at, as they will be presented", "threat"),
        "surrogate": Word(
            "nn.Module", "the attacker's own net, trained on this client's samples, in evaluation mode", "threat"
        ),
        "rng": Word("torch.Generator", "this client's stream", "streams"),
    },
    "training_attack": {
        "own_gradient": Word(
            "[d]", "of the mean loss over this client's clean samples, at the global parameters", "clients", lent=True
        ),
        "local": Word("Local", "how the honest clients train", "config"),
        "layers": Word("tuple of Layer(name, columns, shape)", "which columns are which parameter tensor's", "net"),
        "n_malicious": Word("int", "how many of the cohort are malicious", "threat"),
        "n": Word("int", "clients in this round's cohort", "threat"),
        "params": _ROUND["params"],
        "previous": _ROUND["previous"],
        "say": Word("str -> None", "put a remark among the round's events", "round"),
        "state": Word("dict[str, Tensor]", "this client's memory, empty at first; return (drill, state)", "memory"),
        "rng": Word("torch.Generator", "this client's stream in this round", "streams"),
    },
    "loss": {
        "logits": Word("[samples, classes]", "what the net gives for a minibatch", "net"),
        "labels": Word("[samples] int64", "their classes", "data"),
    },
    "dataset": {},
    "partition": {
        "labels": Word("[samples] int64 numpy array", "their labels", "data"),
        "clients": Word(
            "[samples] int64 numpy array", "whom each belongs to by nature; an error where the data do not say", "data"
        ),
        "n_clients": Word("int", "how many shards to make", "config"),
        "rng": Word("numpy.random.Generator", "the partition's stream", "streams"),
    },
    "model": {
        "input_shape": Word("tuple[int, ...]", "one sample's shape", "data"),
        "n_classes": Word("int", "how many classes there are", "data"),
        "vocabulary": Word("int | None", "how many different tokens there are; None if samples are not text", "data"),
    },
    "engine": {
        "model": Word("nn.Module", "the net", "config"),
        "federation": Word("Federation", "who holds which samples", "clients"),
        "local": Word("Local", "local training's settings", "config"),
        "recipe": Word("Recipe | None", "what another process builds the same from", "config"),
    },
}


def supplied(kind: str, asks: Collection[str], makers: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked for, made by functions without arguments; there must be one for each word of the kind."""
    if differing := makers.keys() ^ WORDS[kind].keys():
        raise KeyError(f"{kind}: {', '.join(sorted(differing))} is not both a word and supplied")
    return {word: makers[word]() for word in asks}
