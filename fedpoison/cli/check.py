"""`fedpoison check`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console

from fedpoison.cli import Output, app, output

if TYPE_CHECKING:
    from fedpoison.checking import Finding
    from fedpoison.contract.entry import Entry

_STYLES = {"holds": "green", "broken": "bold red", "not claimed": "yellow", "told": "cyan"}


@app.command
def check(
    rule: str,
    /,
    *,
    option: Annotated[list[str] | None, Parameter(name=["--option", "-o"], negative=())] = None,
    effort: int = 10,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> int:
    """Hold an aggregation rule to its contracts, and show the smallest counterexample to each that it breaks.

    Examples:

    fedpoison check my_rule.py

    fedpoison check my_rule.py:mine --option keep=0.5

    fedpoison check krum --json

    Parameters
    ----------
    rule
        A file (all its rules), file.py:name, or the name of one of ours.
    option
        key=value: an option of the rule; may be repeated. The value is TOML, or else a string.
    effort
        How many random draws each contract tries; all else grows with it.
    as_json
        For machines: a list with an object a rule.
    """
    from fedpoison.checking import Report, findings
    from fedpoison.common.errors import ConfigError
    from fedpoison.config.choice import parse_assignment
    from fedpoison.contract.lookup import find, in_file

    if not 1 <= effort <= 10_000:
        raise ConfigError([f"--effort must be from 1 to 10000, it is {effort}"])
    options = dict(map(parse_assignment, option or []))
    try:
        entries = in_file("aggregator", Path(rule)) if rule.endswith(".py") else [find("aggregator", rule)]
        for entry in entries:
            entry.validate(options)
    except ValueError as error:
        raise ConfigError([str(error)]) from error
    reports = []
    for entry in entries:
        console = Output(stderr=True) if as_json else output()
        if not as_json:
            console.print(_title(entry), soft_wrap=True)
        found = []
        with console.status(f"checking {entry.name}"):
            for finding in findings(entry, options=options, effort=effort):
                found.append(finding)
                if not as_json:
                    _print(console, finding)
        reports.append(Report(entry.name, options, tuple(found)))
        if not as_json:
            broken = len(reports[-1].broken)
            console.print(f"{entry.name}: {broken or 'no'} contract{'s' * (broken > 1)} broken")
    if as_json:
        print(json.dumps([report.as_dict() for report in reports], indent=1))
    return int(not all(report.ok for report in reports))


def _title(entry: "Entry") -> str:
    needs = f" needs {entry.needs}," if entry.needs else ""
    return f"{entry.name}{needs} claims {', '.join(entry.claims) or 'no symmetry'}, withstands {entry.withstands}"


def _print(console: Console, finding: "Finding") -> None:
    """One line a finding; a terminal wraps long ones."""
    from rich.text import Text

    line = Text(f"  {finding.contract:<12}")
    line.append(f"{finding.outcome:<12}", style=_STYLES[finding.outcome])
    line.append(finding.sentence)
    console.print(line, soft_wrap=True)
