"""The planted mistakes are still there to be planted."""

from pathlib import Path
from runpy import run_path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "scripts" / "mutants").glob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_mistake_has_its_text_and_its_tests(file: Path) -> None:
    for what, source, text, replacement, tests in run_path(str(file))["MUTANTS"]:
        assert text in (ROOT / "fedpoison" / source).read_text(), what
        assert text != replacement, what
        for word in tests.split():
            assert not word.startswith("tests/") or (ROOT / word.split("::")[0]).exists(), (what, word)
