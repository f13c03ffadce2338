"""How a table was read, as tables to print."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from fedpoison.data.reading import Named, Reading

_SHOWN = 20


def tables(reading: Reading) -> list[Table]:
    """What became of each column, and which numbers labels and clients got."""
    made = Table(title=_summary(reading), title_justify="left")
    made.add_column("column", overflow="fold")
    made.add_column("kind")
    made.add_column("missing", justify="right")
    made.add_column("what it became", overflow="fold")
    for column in reading.columns:
        style = "red" if column.problem else "dim" if not column.features and column.became.startswith("left") else ""
        made.add_row(
            column.name, column.kind, f"{column.missing:,}" if column.missing else "", column.became, style=style
        )
    parts = [made]
    for noun, named in (("label", reading.labels), ("client", reading.clients)):
        parts += [_numbers(noun, named)] if named else []
    return parts


def _summary(reading: Reading) -> str:
    features = sum(column.features for column in reading.columns)
    return f"{len(reading.columns):,} columns, {features:,} features"


def _numbers(noun: str, named: Sequence[Named]) -> Table:
    made = Table(noun, title=f"{len(named):,} {noun}{'' if len(named) == 1 else 's'}", title_justify="left")
    made.add_column("number", justify="right")
    made.add_column("train", justify="right")
    tested = any(one.test is not None for one in named)
    if tested:
        made.add_column("test", justify="right")
    for number, one in enumerate(named):
        if _SHOWN // 2 <= number < len(named) - _SHOWN // 2:
            if number == _SHOWN // 2:
                made.add_row(f"… {len(named) - _SHOWN:,} more")
            continue
        made.add_row(Text(one.name), str(number), f"{one.train:,}", *([f"{one.test:,}"] if tested else []))
    return made
