"""`fedpoison data list`, `fedpoison data fetch` and `fedpoison data describe`."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from fedpoison.cli import app, output

data = App(name="data", help="List the data sets, fetch those that do not come with the package, describe your own.")
app.command(data)


@data.command(name="list")
def list_(*, as_json: Annotated[bool, Parameter(name="--json", negative=())] = False) -> None:
    """List the data sets: what they are, whether they are here, and where they come from.

    Examples:

    fedpoison data list

    fedpoison data list --json

    Parameters
    ----------
    as_json
        The same for machines.
    """
    from fedpoison.contract.lookup import entries
    from fedpoison.data.store import place_of

    rows: list[dict[str, Any]] = [
        {
            "name": entry.name,
            "summary": entry.summary,
            "licence": entry.licence,
            "here": entry.recipe is None or place_of(entry.name, entry.recipe) is not None,
            "yours": bool(entry.contents),
            "sources": [str(source) for source in entry.recipe.sources] if entry.recipe else [],
        }
        for _, entry in sorted(entries("dataset").items())
    ]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    from rich.table import Column, Table

    heads = ("what it is", "licence", "here", "comes from")
    table = Table(Column("name", no_wrap=True), *(Column(head, overflow="fold") for head in heads))
    for row in rows:
        where = ", or ".join(row["sources"]) or ("you" if row["yours"] else "the package")
        table.add_row(row["name"], row["summary"], row["licence"], "yes" if row["here"] else "no", where)
    output().print(table)


@data.command
def fetch(names: list[str], /) -> None:
    """Fetch data sets into the cache; what is there already is left alone.

    The cache is $FEDPOISON_DATA, or else fedpoison/data in the user's cache folder.

    Examples:

    fedpoison data fetch mnist cifar10

    Parameters
    ----------
    names
        As `fedpoison data list` has them.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from fedpoison.common.errors import ConfigError, FetchError
    from fedpoison.contract.lookup import find
    from fedpoison.data.fetch import fetch as bring
    from fedpoison.data.store import place_of

    entries, problems, failures = [], [], []
    for name in names:
        try:
            entries.append(find("dataset", name))
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError(problems)
    console = output()
    for entry in entries:
        if entry.recipe is None:
            whence = "reads files of yours" if entry.contents else "comes with the package"
            console.print(f"{entry.name} {whence}")
            continue
        if place := place_of(entry.name, entry.recipe):
            console.print(f"{entry.name} is in {place} already")
            continue
        columns = TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn()
        if not console.is_terminal:
            print(f"fetching {entry.name} ...", file=sys.stderr)
        with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bars:
            bar = bars.add_task(entry.name, total=None)
            try:
                file = bring(
                    entry,
                    lambda what, done, total: bars.update(bar, description=what, completed=done, total=total),  # noqa: B023
                )
            except FetchError as error:  # the others are fetched all the same
                failures.append(str(error))
                continue
        console.print(f"{entry.name} is in {file.parent}")
    if failures:
        raise FetchError("\n".join(failures))


Several = Annotated[list[str] | None, Parameter(negative=())]


@data.command
def describe(
    file: Path,
    /,
    *,
    label: str = "label",
    client: str | None = None,
    test_share: float = 0.2,
    sample: str = "",
    missing: Several = None,
    drop: Several = None,
    columns: Several = None,
    categories: int | None = None,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> None:
    """Show how a table is read: what becomes of each column, which numbers labels and clients get.

    What would be refused is said below the tables.

    Examples:

    fedpoison data describe bank.csv --label default --client site

    fedpoison data describe bank.csv --label default --drop id --drop opened --missing unbekannt

    Parameters
    ----------
    file
        A CSV file, or a folder of parquet files; the options are those of `[data]`.
    label
        The column of classes.
    client
        The column that says whom a row belongs to.
    test_share
        Of a CSV file: how much of each class is for testing.
    sample
        Of parquet files: the column of pictures or lists.
    missing
        What stands for a missing value, besides the usual signs among numbers; may be given several times.
    drop
        A column to leave out; may be given several times.
    columns
        A column to take, and no others than those that are given so.
    categories
        How many different words a column may have.
    as_json
        The same for machines.
    """
    from fedpoison.common.errors import ConfigError
    from fedpoison.data.columns import Choice
    from fedpoison.data.files import describe as read
    from fedpoison.preview.described import tables

    chosen = None if columns is None else tuple(columns)
    choice = Choice(tuple(missing or ()), tuple(drop or ()), chosen, categories)
    try:
        reading = read(file.expanduser(), label, client, test_share, sample, choice)
    except ValueError as error:
        raise ConfigError([str(error)]) from error
    if as_json:
        print(json.dumps(reading.describe(), indent=1))
        return
    console = output()
    for part in tables(reading):
        console.print(part)
    for line in reading.wrong():
        console.print(line)
