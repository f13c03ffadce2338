"""`fedpoison list`."""

import json
from typing import Annotated, Literal

from cyclopts import Parameter

from fedpoison.cli import app, output

KINDS = {
    "aggregators": ("aggregator",),
    "preaggregators": ("preaggregator",),
    "attacks": ("data_attack", "update_attack"),
    "datasets": ("dataset",),
    "models": ("model",),
    "partitions": ("partition",),
    "engines": ("engine",),
}
Kind = Literal["aggregators", "preaggregators", "attacks", "datasets", "models", "partitions", "engines"]


@app.command(name="list")
def list_(kind: Kind, *, as_json: Annotated[bool, Parameter(name="--json", negative=())] = False) -> None:
    """List what there is of a kind.

    Examples:

    fedpoison list aggregators

    fedpoison list attacks --json

    Parameters
    ----------
    kind
        What to list.
    as_json
        Everything that is known of each, for machines.
    """
    from fedpoison.lookup import entries

    found = [entry for k in KINDS[kind] for _, entry in sorted(entries(k).items())]
    if as_json:
        print(json.dumps([{"kind": entry.kind, **entry.describe()} for entry in found], indent=1))
        return
    from rich.table import Table

    table = Table("name", "what it does", "options", "needs" if kind in ("aggregators", "preaggregators") else "kind")
    for entry in found:
        defaults = entry.describe()["options"].items()
        options = ", ".join(f"{name} = {'–' if value is None else json.dumps(value)}" for name, value in defaults)
        last = (entry.needs or "") if "aggregator" in entry.kind else entry.kind
        table.add_row(entry.name, entry.summary, options, last)
    output().print(table)
