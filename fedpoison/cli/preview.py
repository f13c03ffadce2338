"""`fedpoison preview`."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from fedpoison.cli import app, output


@app.command
def preview(
    experiment: Path,
    /,
    *,
    set: Annotated[list[str] | None, Parameter(name=["--set", "-s"], negative=())] = None,
    out: Path = Path("figures/preview.png"),
    terminal: Annotated[bool, Parameter(negative=())] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> None:
    """Show who would hold what, and what attacks make of it: tables and pictures, before anything runs.

    A table of yours has what became of its columns, and which numbers labels and clients got; each partition of an
    experiment its counts; each attack on data what it changes, in how many samples of whom, and how well detectors
    tell these from clean ones.

    Examples:

    fedpoison preview experiments/quickstart.toml

    fedpoison preview experiments/quickstart.toml --set data.partition.alpha=0.1 --out split.pdf

    fedpoison preview experiments/quickstart.toml --terminal

    Parameters
    ----------
    experiment
        The TOML file; its first seed is shown.
    set
        key=value, as for `fedpoison run`.
    out
        Where the picture goes: .png, .pdf or .svg; that of the poison goes beside it, as split-poison.pdf beside
        split.pdf.
    terminal
        Draw some poisoned pictures in the terminal too.
    as_json
        All this for machines instead of tables; no picture.
    """
    from fedpoison.common.errors import ConfigError
    from fedpoison.config.choice import parse_assignment
    from fedpoison.config.sweep import load
    from fedpoison.preview import figure as poison_figure
    from fedpoison.preview.described import tables as described
    from fedpoison.preview.poison import poisonings
    from fedpoison.preview.split import save, splits, summary, table
    from fedpoison.preview.table import pictures, tables

    loaded = load(experiment, dict(map(parse_assignment, set or [])))
    console = output()
    try:
        found, poison = splits(loaded), poisonings(loaded)
        if as_json:
            of = {split.key: [p.describe() for p in poison if p.split == split.key] for split in found}
            print(json.dumps([{**split.describe(), "poison": of[split.key]} for split in found]))
            return
        for reading in dict.fromkeys(split.reading for split in found if split.reading):
            for of_data in described(reading):
                console.print(of_data)
        for split in found:
            console.print(table(split))
            print(summary(split))
        for attack in poison:
            console.print()
            for part in tables(attack):
                console.print(part)
            for part in pictures(attack, console) if terminal else ():
                console.print(part)
        print(save(found, out))
        drawn = poison_figure.save(poison, out.with_stem(f"{out.stem}-poison"))
        if drawn:
            print(drawn)
    except ValueError as error:
        raise ConfigError([str(error)]) from error
