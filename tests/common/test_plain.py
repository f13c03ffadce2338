"""Names and words of the user's reach terminal, documents and figures as they are, and do nothing there."""

import json
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import pytest

import fedpoison
from fedpoison import cli
from fedpoison.cli import Output
from fedpoison.common.plain import lettered
from fedpoison.report import figures
from fedpoison.report.formats import markdown
from fedpoison.types import Event

NAMES = ("_mine.py", "[red]x.py", "a:tada:b.py", "a\x1b[31m\u202eb.py", "a$b$c|d<e>.py")
RULE = """
from fedpoison import aggregator
from fedpoison.types import Update, Updates

@aggregator()
def mean(updates: Updates) -> Update:
    "The mean."
    return updates.mean(dim=0)

@aggregator()
def fails(updates: Updates) -> Update:
    "It fails."
    raise ValueError("[red]\x1b[2J:tada:")
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("named")
    for name in NAMES:
        (folder / name).write_text(f"{RULE}# {NAMES.index(name)}")
    table = {"name": "x", "rounds": 1, "data": "digits", "model": "logistic", "clients": {"count": 3}}
    rules = [f"{folder}/{name}:mean" for name in NAMES]
    fedpoison.run({**table, "sweep": {"defence.aggregator.name": rules}}, out=folder)
    return folder / "x"


@pytest.mark.parametrize("form", ["text", "markdown", "latex", "csv", "json"])
def test_tables_have_names_as_they_are(
    form: str, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    command = ["table", str(results), "--rows", "rule", "--format", form]
    assert cli.main(command) == 0
    shown = capsys.readouterr().out
    assert cli.main([*command, "--out", str(tmp_path / "out")]) == 0
    for made in (shown, (tmp_path / "out").read_text()):
        assert "\x1b" not in made
        assert "\u202e" not in made
        if form == "text":
            for name in (*NAMES[:3], "a\\x1b[31m\\u202eb.py", NAMES[4]):
                assert f"{name}:mean" in made
    if form == "markdown":
        assert "| \\[red]x.py:mean " in shown
        assert "| a$b$c\\|d\\<e>.py:mean " in shown
    if form in ("csv", "json"):
        assert ("a\\x1b" if form == "csv" else json.dumps("a\\x1b")[1:-1]) in shown


def test_every_rule_is_in_the_legend_and_no_name_is_a_formula(results: Path) -> None:
    runs = fedpoison.load(results)
    out = figures.plot(runs, results / "x.pdf")
    assert out.is_file()


def test_letters_of_a_figure_are_what_they_are() -> None:
    figure, ax = plt.subplots()
    for name in NAMES:
        ax.plot([0, 1], label=lettered(name))
    handles, labels = ax.get_legend_handles_labels()
    assert len(labels) == len(NAMES)
    legend = figure.legend(handles, labels)
    figure.draw_without_rendering()
    assert [text.get_text() for text in legend.get_texts()] == [*map(lettered, NAMES)]
    assert lettered("_a$b") == r"$\_$a\$b"
    assert lettered("krum\nmean") == "krum\nmean"
    plt.close(figure)


def test_a_failure_is_told_in_plain_words(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "[red]y.py").write_text(RULE)
    text = 'name = "y"\nrounds = 1\ndata = "digits"\nmodel = "logistic"\nclients = { count = 3 }\n'
    (tmp_path / "y.toml").write_text(text + 'defence.aggregator = "[red]y.py:fails"\n')
    assert cli.main(["run", str(tmp_path / "y.toml"), "--out", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    (error,) = tmp_path.glob("y/*/error.txt")
    assert "\x1b" not in err + error.read_text()
    assert "[red]y.py:13: fails fails with ValueError: [red]\\x1b[2J:tada:" in err
    assert cli.main(["check", str(tmp_path / "[red]y.py") + ":fails"]) == 1
    assert "\x1b" not in capsys.readouterr().out
    assert cli.main(["show", str(tmp_path / "y\x1b[31m")]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_what_is_printed_is_no_markup_and_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table

    table = Table(title="[b]:tada:\x1b")
    table.add_column("[red]h")
    table.add_row("a:smile:\x07")
    Output(width=60).print("[red]x[/red] :smile: \x1b[2J", table)
    out = capsys.readouterr().out
    for part in ("[red]x[/red] :smile: \\x1b[2J", "[b]:tada:\\x1b", "[red]h", "a:smile:"):
        assert part in out
    assert "\x1b" not in out


def test_an_event_is_one_line_that_can_be_printed() -> None:
    assert Event("defence", detail="a\x1b[2J\nb").detail == "a\\x1b[2J\\nb"


def test_a_markdown_table_of_usual_names_is_as_it_was() -> None:
    assert markdown(["rule", "x"], [["norm_clipping+krum(median)", "0.5±0.1"]], 1).splitlines()[2] == (
        "| norm_clipping+krum(median) | 0.5±0.1 |"
    )
