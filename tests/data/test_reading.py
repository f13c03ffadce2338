"""How a user's table is read: missing values, columns that are refused with advice, what is said of each."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import tomli_w
import torch

from fedpoison import cli
from fedpoison.config.config import parse
from fedpoison.contract.lookup import entries
from fedpoison.data import Dataset
from fedpoison.data.columns import SIGNS
from fedpoison.data.files import describe
from fedpoison.data.tables import Choice, split
from fedpoison.runs.running import run

ROWS = 48


def written(file: Path, **columns: list[Any]) -> Path:
    """A CSV file of these columns, beside a number and a label of two classes."""
    drawn = np.random.default_rng(0).normal(size=ROWS).round(3).tolist()
    cells = {**columns, "b": drawn, "label": [i % 2 for i in range(ROWS)]}
    rows = [",".join(str(column[i]) for column in cells.values()) for i in range(ROWS)]
    file.write_text("\n".join([",".join(cells), *rows]) + "\n", encoding="utf-8")
    return file


def read(file: Path, **options: Any) -> Dataset:
    entry = entries("dataset")["csv"]
    made: Dataset = entry.function(**entry.validate({"file": str(file), **options}))
    return made


AGES: list[Any] = [20 + (7 * i) % 61 for i in range(ROWS)]


@pytest.mark.parametrize("sign", [*sorted(SIGNS), "NA", " ? ", "NaN", "N/A", "NULL", "None"])
def test_the_usual_signs_among_numbers_are_missing_values(tmp_path: Path, sign: str) -> None:
    ages = [sign if i in (3, 40) else age for i, age in enumerate(AGES)]
    made = read(written(tmp_path / "mine.csv", age=ages))
    empty = read(written(tmp_path / "empty.csv", age=["" if i in (3, 40) else age for i, age in enumerate(AGES)]))
    assert made.train_images.shape[1] == 2
    assert torch.equal(made.train_images, empty.train_images)
    assert torch.equal(made.test_images, empty.test_images)
    assert made.reading is not None
    assert made.reading.columns[0].missing == 2
    assert (made.train_images[:, 0] == 0).sum() + (made.test_images[:, 0] == 0).sum() == 2  # the train part's mean


def test_numbers_with_blanks_around_are_numbers(tmp_path: Path) -> None:
    blank, plain = (written(tmp_path / f"{pad}.csv", age=[pad * " " + str(age) for age in AGES]) for pad in (1, 0))
    assert torch.equal(read(blank).train_images, read(plain).train_images)


def test_among_words_a_sign_is_a_word_unless_it_is_listed(tmp_path: Path) -> None:
    file = written(tmp_path / "mine.csv", job=[("nurse", "?", "none")[i % 3] for i in range(ROWS)])
    assert read(file).train_images.shape[1] == 4
    made = read(file, missing=["?"])
    assert made.train_images.shape[1] == 3
    assert made.train_images[:, :2].sum(dim=1).unique().tolist() == [0, 1]
    assert made.reading is not None
    assert made.reading.columns[0].missing == ROWS // 3


@pytest.mark.parametrize("given", ["-999", "-999.0"])
def test_what_is_listed_is_missing_among_numbers_too(tmp_path: Path, given: str) -> None:
    ages = [-999 if i == 5 else age for i, age in enumerate(AGES)]
    made = read(written(tmp_path / "mine.csv", age=ages), missing=[given])
    empty = read(written(tmp_path / "empty.csv", age=["" if i == 5 else age for i, age in enumerate(AGES)]))
    assert torch.equal(made.train_images, empty.train_images)


@pytest.mark.parametrize(("row", "text"), [(0, "inf"), (1, "-inf"), (47, "Infinity")])
def test_an_infinite_value_is_refused_with_its_line_wherever_it_is(tmp_path: Path, row: int, text: str) -> None:
    file = written(tmp_path / "mine.csv", age=[text if i == row else age for i, age in enumerate(AGES)])
    with pytest.raises(ValueError, match=rf"column 'age' has 1 infinite value \(line {row + 2}\)") as refused:
        read(file)
    listed = json.loads(str(refused.value).split("missing = ")[1].splitlines()[0])
    empty = read(written(tmp_path / "empty.csv", age=["" if i == row else age for i, age in enumerate(AGES)]))
    assert torch.equal(read(file, missing=listed).train_images, empty.train_images)


def test_a_row_is_named_by_its_number_where_cells_have_lines(tmp_path: Path) -> None:
    file = written(tmp_path / "mine.csv", note=['"a\nb"'] * ROWS, age=["inf", *AGES[1:]])
    with pytest.raises(ValueError, match=r"column 'age' has 1 infinite value \(row 1\)"):
        read(file)


REFUSED = {
    "identifiers": ([f"patient-{i:03}" for i in range(ROWS)], "has 39 different words in .* identifiers or free text"),
    "commas": ([f'"1,{100 + i}"' for i in range(ROWS)], "holds numbers with commas or signs .*: write them as 1234.5"),
    "percent": ([f"{i} %" for i in range(ROWS)], "holds numbers with commas or signs"),
    "dates": ([f"2024-02-{1 + i % 28:02}" for i in range(ROWS)], "holds dates .*: a number can stand for them"),
    "times": ([f"{1 + i % 28}.2.2024 10:00" for i in range(ROWS)], "holds dates"),
    "stray": (
        ["unbekannt" if i == 3 else age for i, age in enumerate(AGES)],
        r"holds numbers but for 'unbekannt': .*missing",
    ),
    "large": (
        [1e300 * (-1) ** (i // 2) for i in range(ROWS)],
        r"has values up to 1e\+300, too large to be standardised",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_columns_that_would_become_many_features_are_refused_with_advice(tmp_path: Path, name: str) -> None:
    values, message = REFUSED[name]
    file = written(tmp_path / "mine.csv", age=values)
    with pytest.raises(ValueError, match=f"column 'age' {message}") as refused:
        read(file)
    assert str(refused.value).endswith('to leave it out: drop = ["age"]')
    assert read(file, drop=["age"]).train_images.shape[1] == 1
    assert read(file, columns=["b"]).train_images.shape[1] == 1
    if name != "large":
        assert read(file, categories=48).train_images.shape[1] > 20
        with pytest.raises(ValueError, match="more than categories = 3"):
            read(file, categories=3)


def test_more_than_a_hundred_words_are_refused_and_a_hundred_are_not(tmp_path: Path) -> None:
    for count in (100, 101):
        file = tmp_path / f"{count}.csv"
        towns = np.random.default_rng(0).permutation(20 * count) % count
        file.write_text("town,label\n" + "".join(f"t{town},{i % 2}\n" for i, town in enumerate(towns)))
    assert read(tmp_path / "100.csv").train_images.shape[1] == 100
    with pytest.raises(
        ValueError, match=r"'town' has 101 different words .*, more than 100.*categories = 101 takes it"
    ):
        read(tmp_path / "101.csv")
    assert read(tmp_path / "101.csv", categories=101).train_images.shape[1] == 101


def test_all_columns_that_are_refused_are_said_at_once(tmp_path: Path) -> None:
    file = written(tmp_path / "mine.csv", id=REFUSED["identifiers"][0], day=REFUSED["dates"][0])
    with pytest.raises(ValueError, match=r"(?s)'id' .*'day' .*to leave them out: drop = \[\"id\", \"day\"\]"):
        read(file)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop": ["agee"]}, "drop: there is no column 'agee'; there are age, b, label"),
        ({"columns": ["c"]}, "columns: there is no column 'c'"),
        ({"columns": ["age"], "drop": ["b"]}, "are alternatives"),
        ({"label": "class"}, "there is no column 'class'; .*: name the label's, as in label ="),
        ({"client": "site"}, "there is no column 'site'; .*: name the client's, as in client ="),
        (
            {"label": "b"},
            r"'b' has \d\d different values .* numbers to be predicted, it seems, and only classes can be",
        ),
        ({"label": "age"}, "'age' has .* too many to be classes"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        read(written(tmp_path / "mine.csv", age=list(range(ROWS))), **options)
    assert len(str(refused.value)) < 500


def test_a_row_without_a_label_is_named_and_a_file_without_rows_too(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("a,b,label\n1,2,0\n2,1,1\n3,3,\n4,1,?\n5,1,1\n6,2,0\n")
    with pytest.raises(ValueError, match="2 rows without a label, 'label': line 4, line 5"):
        read(file)
    file.write_text("a,b,label\n")
    with pytest.raises(ValueError, match="there is no row below the header"):
        read(file)


def test_a_reading_says_what_became_of_all_columns_labels_and_clients(tmp_path: Path) -> None:
    file = written(
        tmp_path / "mine.csv",
        age=["?", *AGES[1:]],
        site=[("Bonn", "Aachen", "Celle")[i % 3] for i in range(ROWS)],
        job=[("nurse", "clerk")[i % 2] for i in range(ROWS)],
        same=["x"] * ROWS,
        id=range(100, 100 + 2 * ROWS, 2),
    )
    reading = read(file, client="site", drop=["b"]).reading
    assert reading is not None
    train = split(pl.read_csv(file), "label", 0.2)[0]
    known = train.filter(pl.col("age") != "?")["age"].cast(pl.Float64).to_numpy()
    became = {column.name: (column.kind, column.missing, column.features) for column in reading.columns}
    assert became == {
        "age": ("number", 1, 1),
        "site": ("client", 0, 0),
        "job": ("words", 0, 2),
        "same": ("words", 0, 0),
        "id": ("number", 0, 1),
        "b": ("", 0, 0),
        "label": ("label", 0, 0),
    }
    said = {column.name: column.became for column in reading.columns}
    assert said["age"].startswith(f"1 feature: mean {known.mean():.4g}, deviation {known.std():.4g}; what is missing")
    assert said["job"] == "2 features: clerk, nurse"
    assert said["same"] == "left out: always 'x' in the train part"
    assert said["id"].endswith("each row has another: an identifier?")
    assert [(label.name, label.train, label.test) for label in reading.labels] == [("0", 20, 4), ("1", 19, 5)]
    assert [client.name for client in reading.clients] == ["Aachen", "Bonn", "Celle"]
    assert sum(client.train for client in reading.clients) == 39


def test_a_folder_of_parquet_files_is_read_alike(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"age": ["?", *map(str, AGES[1:])], "n": [1.0, float("inf")] * 24, "s": ["a", "b"] * 24, "label": [0, 1] * 24}
    )
    for part in ("train", "test"):
        frame.write_parquet(tmp_path / f"{part}.parquet")
    function = entries("dataset")["parquet"].function
    made = function(folder=str(tmp_path), missing=["inf"])
    assert made.train_images.shape[1] == 3  # n is always 1 but for what is missing
    with pytest.raises(ValueError, match=r"'n' has 48 infinite values \(row 1 of train, row 3 of train"):
        function(folder=str(tmp_path))
    with pytest.raises(ValueError, match="are for tables, and 'age' holds the samples"):
        function(folder=str(tmp_path), sample="age", drop=["n"])


@pytest.mark.parametrize("kind", [pl.Int64, pl.Float32])
def test_pictures_of_a_folder_are_held_to_their_range_too(tmp_path: Path, kind: Any) -> None:
    pixels = pl.Series([[[0, 255]], [[51, 102]]], dtype=pl.List(pl.List(kind)))
    for part in ("train", "test"):
        pl.DataFrame({"pixels": pixels, "label": [0, 1]}).write_parquet(tmp_path / f"{part}.parquet")
    with pytest.raises(ValueError, match=r"train images go from 0 to 255, \[0, 1\] is needed"):
        entries("dataset")["parquet"].function(folder=str(tmp_path), sample="pixels")


def test_a_picture_that_cannot_be_read_is_named_by_its_row(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("L", (4, 4)).save(tmp_path / "p.png")
    sound = (tmp_path / "p.png").read_bytes()
    for part, pictures in (("train", [sound, sound[:30], sound]), ("test", [sound] * 3)):
        pl.DataFrame({"image": pictures, "label": [0, 1, 0]}).write_parquet(tmp_path / f"{part}.parquet")
    with pytest.raises(ValueError, match="row 1 of train: these 30 bytes are no picture that can be read"):
        entries("dataset")["parquet"].function(folder=str(tmp_path))
    pl.DataFrame({"image": [sound] * 3, "label": [0, 2, 0]}).write_parquet(tmp_path / "train.parquet")
    pl.DataFrame({"image": [sound] * 3, "label": [0, 2, 0]}).write_parquet(tmp_path / "test.parquet")
    reading = describe(tmp_path, "label", None, 0.2, "", Choice())
    assert [(label.name, label.train) for label in reading.labels] == [("0", 2), ("1", 0), ("2", 1)]


# As a new user would


def bank(file: Path) -> Path:
    """3,000 customers of four sites: an id, a date, numbers with ? and empty cells, words; 8 % default."""
    rng, rows = np.random.default_rng(1), 3000
    age, income, job = rng.integers(18, 90, rows), rng.normal(3000, 800, rows), rng.integers(0, 3, rows)
    risk = rng.normal(size=rows) + (age < 30) - (income - 3000) / 800 + (job == 1)
    default = risk > np.quantile(risk, 0.92)
    lines = ["id,opened,age,income,job,site,default"]
    for i in range(rows):
        opened = f"{2001 + i % 23}-{1 + i % 12:02}-{1 + i % 28:02}"
        cells = ["?" if i % 31 == 0 else str(age[i]), "" if i % 17 == 0 else f"{income[i]:.2f}"]
        words = [("clerk", "farmer", "nurse")[job[i]], ("Aachen", "Bonn", "Celle", "Düren")[i % 10 // 3]]
        lines.append(",".join([f"P{i:05}", opened, *cells, *words, "yes" if default[i] else "no"]))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_from_a_file_to_results_as_a_new_user_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = bank(tmp_path / "bank.csv")
    assert cli.main(["data", "describe", str(file)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "there is no column 'label'; there are id, opened, age, income, job, site, default" in said
    chosen = ["--label", "default", "--client", "site"]
    assert cli.main(["data", "describe", str(file), *chosen, "--json"]) == 0
    wrong = json.loads(capsys.readouterr().out)["wrong"]
    assert wrong[-1] == 'to leave them out: drop = ["id", "opened"]'
    assert cli.main(["data", "describe", str(file), *chosen, "--drop", "id", "--drop", "opened"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for row in ("│ age │ number │ 97 │ 1 feature: mean", "│ yes │ 1 │ 192 │ 48 │", "│ Düren │ 3 │ 243 │"):
        assert row in said
    data = {"name": "csv", "file": str(file), "label": "default", "client": "site", "drop": ["id", "opened"]}
    table = {
        "name": "bank",
        "rounds": 4,
        "data": {**data, "partition": "natural"},
        "model": "logistic",
        "clients": {"count": 4, "held_out": 0.2, "local": {"lr": 0.5}},
    }
    (tmp_path / "bank.toml").write_text(tomli_w.dumps(table), encoding="utf-8")
    assert cli.main(["preview", str(tmp_path / "bank.toml"), "--out", str(tmp_path / "bank.png")]) == 0
    assert "│ Düren │ 3 │ 243 │" in " ".join(capsys.readouterr().out.split())
    frame = run(table, out=tmp_path / "results").frame()
    assert frame["auc"][-1] > 0.8
    assert frame["worst_decile_auc"][-1] <= frame["client_auc"][-1]  # the worst site, and the mean of the four
    capsys.readouterr()
    assert cli.main(["table", str(tmp_path / "results"), "--metric", "client_auc"]) == 0
    assert f"{frame['client_auc'][-1]:.3f}" in capsys.readouterr().out
    assert "revision" not in parse(table).table()["data"]


def test_describing_what_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "describe", str(tmp_path / "no")]) == 2
    assert "there is no such file or folder" in capsys.readouterr().err
    assert cli.main(["data", "describe", str(tmp_path)]) == 2
    assert "there is no train*.parquet" in capsys.readouterr().err
