"""Files are UTF-8 whatever the locale is, and what is printed is never in its way."""

import ast
import atexit
import io
import sys
from pathlib import Path

import pytest

import fedpoison
from fedpoison import cli
from fedpoison.common.errors import ConfigError
from fedpoison.config.toml import read_toml

TEXT = 'name = "größe"\nrounds = 1\n'


def is_python(path: Path) -> bool:
    return path.is_file() and (path.suffix == ".py" or path.read_bytes().startswith(b"#!/usr/bin/env python3"))


def by_locale(call: ast.Call) -> bool:
    """Whether a call reads or writes text in the locale's encoding."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if name == "open":
        texts = [value.value for value in (*call.args, *given.values()) if isinstance(value, ast.Constant)]
        of_bytes = any(isinstance(text, str) and "b" in text and len(text) <= 3 for text in texts)
        owner = getattr(call.func.value, "id", "") if isinstance(call.func, ast.Attribute) else ""
        elsewhere = owner in ("Image", "archive", "gzip", "opener", "os", "tarfile")  # these open bytes
        return not (of_bytes or elsewhere or "encoding" in given)
    return (name in ("read_text", "write_text") or ("text" in given and name in ("run", "Popen"))) and (
        "encoding" not in given
    )


ROOT = Path(__file__).parents[2]
PROGRAMS = [
    *Path(fedpoison.__file__).parent.rglob("*.py"),
    *(path for room in ("scripts", "plots", "experiments") for path in (ROOT / room).rglob("*") if is_python(path)),
]


def test_no_file_of_ours_is_read_or_written_by_the_locale() -> None:
    assert len(PROGRAMS) > 250
    found = [
        f"{path.name}:{node.lineno}"
        for path in PROGRAMS
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Call) and by_locale(node)
    ]
    assert not found


@pytest.mark.parametrize(
    ("code", "by"),
    [
        ("path.read_text()", True),
        ("path.read_text(errors='replace')", True),
        ("path.write_text(text, encoding='utf-8')", False),
        ("open(path)", True),
        ("path.open('a')", True),
        ("path.open('rb')", False),
        ("subprocess.run(command, text=True)", True),
        ("subprocess.run(command, capture_output=True)", False),
    ],
)
def test_reading_by_the_locale_is_told(code: str, by: bool) -> None:
    (call,) = (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call))
    assert by_locale(call) == by


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_toml_may_begin_with_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "e.toml"
    file.write_text(TEXT, encoding=encoding)
    assert read_toml(file) == {"name": "größe", "rounds": 1}


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_toml_in_another_encoding_is_refused_with_its_name(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "e.toml"
    file.write_text(TEXT, encoding=encoding)
    with pytest.raises(ConfigError, match=r"e\.toml is not TOML, which is UTF-8: 'utf-8' codec can't"):
        read_toml(file)


def test_a_locale_that_lacks_a_sign_prints_another(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding="ascii"))
    monkeypatch.setattr(cli, "app", lambda arguments, **how: print("8 × 8 · größe"))
    monkeypatch.setattr(atexit, "register", lambda function: None)
    assert cli.main() == 0
    sys.stdout.flush()
    assert printed.getvalue() == b"8 ? 8 ? gr??e\n"
