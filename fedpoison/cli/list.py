"""`fedpoison list`."""

import inspect
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from fedpoison.cli import app, output
from fedpoison.common.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from fedpoison.contract.entry import Entry

KINDS = {
    "aggregators": ("aggregator",),
    "preaggregators": ("preaggregator",),
    "attacks": ("data_attack", "update_attack", "training_attack"),
    "datasets": ("dataset",),
    "models": ("model",),
    "partitions": ("partition",),
    "losses": ("loss",),
    "sanitizers": ("sanitizer",),
    "monitors": ("monitor",),
    "engines": ("engine",),
}
Kind = Literal[
    "aggregators",
    "preaggregators",
    "attacks",
    "datasets",
    "models",
    "partitions",
    "losses",
    "sanitizers",
    "monitors",
    "engines",
    "words",
]

_WORDS, _DESCRIPTION = 16, 30
"""The least width of a column of words, and of what each does."""


@app.command(name="list")
def list_(
    kind: Kind | None = None,
    /,
    *,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
    markdown: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """List what there is of a kind, and what was left out and why.

    Examples:

    fedpoison list aggregators

    fedpoison list attacks --json

    fedpoison list words

    Parameters
    ----------
    kind
        What to list; "words" are those by which an algorithm asks for what it needs.
    as_json
        Everything that is known of each, for machines; what was left out has "left_out", the reason.
    markdown
        The table as Markdown.
    """
    from fedpoison.contract.lookup import entries, left_out

    if kind is None:
        raise ConfigError([f"say what to list: {', '.join(KINDS)}, words"])
    if kind == "words":
        _print_words(as_json, markdown)
        return
    found = [entry for k in KINDS[kind] for _, entry in sorted(entries(k).items())]
    missing = [(k, name, why) for k in KINDS[kind] for name, why in sorted(left_out(k).items())]
    if as_json:
        described = [{"kind": entry.kind, **entry.describe(), **_threat_model(entry)} for entry in found]
        described += [{"kind": k, "name": name, "left_out": why} for k, name, why in missing]
        print(json.dumps(described, indent=1))
        return
    by_need = "aggregator" in kind
    heads = ["name", "what it does", "options", *(["needs", "looks at"] if by_need else ["kind"])]
    rows = [_row(entry, by_need) for entry in found]
    if markdown:
        print(_as_markdown(heads, rows))
        return
    console = output()
    console.print(_table(heads, rows, console.width))
    for _, name, why in missing:
        console.print(f"left out: {name}: {why}")


def _print_words(as_json: bool, markdown: bool) -> None:
    """What each kind of algorithm may ask for, from the table that supplies it."""
    from fedpoison.contract.words import WORDS, Word

    known = [(kind, name, word) for kind, words in WORDS.items() for name, word in words.items()]
    kinds: dict[tuple[str, Word], list[str]] = {}
    for kind, name, word in known:
        kinds.setdefault((name, word), []).append(kind.replace("_", " "))
    heads = ["word", "what it is", "type", "for", "from"]
    rows = [[name, word.text, word.type, ", ".join(asking), word.by] for (name, word), asking in kinds.items()]
    if as_json:
        print(json.dumps([{"kind": kind, "name": name, **vars(word)} for kind, name, word in known], indent=1))
    elif markdown:
        print(_as_markdown(heads, rows))
    else:
        console = output()
        console.print(_table(heads, rows, console.width))


def _threat_model(entry: "Entry") -> dict[str, object]:
    """What an attack on updates or training has to know and remember, and where its docstring says that it must win."""
    if entry.kind not in ("update_attack", "training_attack"):
        return {}
    whose = "all" if "benign_ids" in entry.asks else "colluders" if "benign" in entry.asks else None
    knows = [whose, "defence" if "defend" in entry.asks else None]
    wins = (inspect.getdoc(entry.function) or "").partition("Must win: ")[2]
    return {
        "knows": [word for word in knows if word],
        "memory": "state" in entry.asks,
        "must_win": " ".join(wins.split()) or None,
    }


def _as_markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> "Table":
    """A column a heading; where this leaves too little for what each does, all that is said of one in one column."""
    from rich.table import Column, Table
    from rich.text import Text

    needs = [max(_WORDS, *(len(word) for row in rows for word in row[k].split())) for k in range(2, len(heads))]
    room = width - max(len(row[0]) for row in rows) - sum(needs) - 3 * len(heads) - 1
    if room < _DESCRIPTION:
        made = Table(Column(heads[0], no_wrap=True), Column(heads[1], overflow="fold"), show_lines=True)
        for name, does, *said in rows:
            more = [f"{head}: {text}" for head, text in zip(heads[2:], said, strict=True) if text]
            made.add_row(name, Text("\n".join([does, *more])))
        return made
    # a width beside a ratio is the least that a column has
    columns = [Column(head, width=need, ratio=2) for head, need in zip(heads[2:], needs, strict=True)]
    made = Table(Column(heads[0], no_wrap=True), Column(heads[1], ratio=3), *columns, expand=True)
    for row in rows:
        made.add_row(*map(Text, row))
    return made


def _row(entry: "Entry", by_need: bool) -> list[str]:
    defaults = entry.describe()["options"].items()
    options = ", ".join(f"{name} = {_shown(value)}" for name, value in defaults)
    if not by_need:
        known = entry.describe()
        aimed = f": {known['goal'].replace('_', ' ')}, in {', '.join(known['samples'])}" if entry.goal else ""
        return [entry.name, entry.summary, options, entry.kind.replace("_", " ") + aimed]
    given = [word for word in entry.asks if word not in ("n", "f", "rng")]
    return [entry.name, entry.summary, options, entry.needs or "", ", ".join([*given, *entry.references])]


def _shown(value: object) -> str:
    if isinstance(value, float):
        return repr(float(f"{value:.4g}"))
    return "–" if value is None else json.dumps(value)
