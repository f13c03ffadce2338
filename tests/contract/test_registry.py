"""The registry: names, options, signatures, and what comes from outside the package."""

import datetime
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

import fedpoison
from fedpoison.contract.entry import Entry
from fedpoison.contract.lookup import entries, find
from fedpoison.contract.registry import register
from fedpoison.contract.words import WORDS
from fedpoison.types import Mixing, Update, Updates, Weights

KINDS = [kind for kind in WORDS if entries(kind)]

# Ours


@pytest.mark.parametrize("kind", KINDS)
def test_every_entry_is_found_by_its_name_and_is_its_function(kind: str) -> None:
    for name, entry in entries(kind).items():
        assert find(kind, name) is entry
        assert entry.function.__name__ == name == entry.name
        assert find(kind, entry.function).name == name
        assert set(entry.asks) <= set(WORDS[kind])
        assert entry.summary.endswith((".", ":"))
        described = json.loads(json.dumps(entry.describe()))
        assert described["name"] == name
        assert described["options"].keys() == entry.options.keys()


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("aggregator", "trimed_mean", "there is no aggregator 'trimed_mean'; did you mean 'trimmed_mean'?"),
        ("update_attack", "ali", "there is no update_attack 'ali'; did you mean 'alie'?"),
        ("dataset", "imagenet", "there is no dataset 'imagenet'; "),
        ("aggregator", "", "there is no aggregator ''; the aggregators are "),
        ("engine", "alie", "there is no engine 'alie'; "),
        ("model", "xyzzy", "there is no model 'xyzzy'; the models are "),
    ],
)
def test_an_unknown_name_lists_the_choices(kind: str, name: str, message: str) -> None:
    with pytest.raises(ValueError, match="there is no") as refusal:
        find(kind, name)
    assert str(refusal.value).startswith(message)
    assert ", ".join(sorted(entries(kind))) in str(refusal.value)


def test_a_suggestion_is_made_only_where_one_is_close() -> None:
    with pytest.raises(ValueError, match="model") as refusal:
        find("model", "xyzzy")
    assert "did you mean" not in str(refusal.value)


@pytest.mark.parametrize("thing", [print, fedpoison.aggregate, find("aggregator", "krum").function])
def test_a_function_of_another_kind_is_refused(thing: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="is not a function with the model decorator"):
        find("model", thing)


# Options


@fedpoison.update_attack()
def optional(
    own,  # type: ignore[no-untyped-def]
    *,
    scale: float = 1.0,
    times: int = 1,
    way: Literal["up", "down"] = "up",
    some: list[int] = [1],
    top: int | None = None,
    on: bool = False,
):
    """Have options of all types."""
    return own


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"scale": 2},
        {"scale": float("inf")},
        {"times": 3, "way": "down"},
        {"some": []},
        {"some": [1, 2]},
        {"top": 4},
        {"top": None},
        {"on": True},
    ],
)
def test_options_are_filled_up_with_defaults(given: dict[str, Any]) -> None:
    defaults = {"scale": 1.0, "times": 1, "way": "up", "some": [1], "top": None, "on": False}
    assert optional.entry.validate(given) == {**defaults, **given}


def test_a_list_may_be_given_as_a_tuple() -> None:
    assert optional.entry.validate({"some": (1, 2)})["some"] == [1, 2]


def test_a_default_that_was_handed_out_and_changed_is_still_the_default() -> None:
    optional.entry.validate({})["some"].append(2)
    assert optional.entry.validate({})["some"] == [1]


@pytest.mark.parametrize(
    "given",
    [
        {"scale": "2"},
        {"scale": True},
        {"times": 1.0},
        {"times": True},
        {"times": None},
        {"way": "left"},
        {"some": 1},
        {"some": [1.5]},
        {"some": [1.0]},
        {"some": [True]},
        {"some": [datetime.date(1979, 5, 27)]},  # TOML has dates
        {"top": "4"},
        {"on": 1},
    ],
)
def test_an_option_of_the_wrong_type_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="optional") as refusal:
        optional.entry.validate(given)
    ((name, value),) = given.items()
    assert str(refusal.value).startswith(f"optional.{name} = {value!r}: Input should be")


def test_all_wrong_options_are_named_at_once() -> None:
    with pytest.raises(ValueError, match="optional") as refusal:
        optional.entry.validate({"scale": "a", "tims": 1, "zz": 2, "top": 3})
    sentences = str(refusal.value).split("; ")
    assert any(sentence.startswith("optional.scale = 'a'") for sentence in sentences)
    assert any(sentence.startswith("optional has no option 'tims'") for sentence in sentences)
    assert "did you mean 'times'? the options are on, scale, some, times, top, way" in sentences
    assert any(sentence.startswith("optional has no option 'zz'") for sentence in sentences)
    assert "top" not in str(refusal.value).replace("times, top", "")


def test_an_algorithm_without_options_says_so() -> None:
    with pytest.raises(ValueError, match="median has no option 'f'; it has no options"):
        find("aggregator", "median").validate({"f": 1})


@pytest.mark.parametrize(
    ("name", "n", "f", "options", "sentence"),
    [
        ("krum", 9, 3, {}, None),
        ("krum", 8, 3, {}, "krum needs n > 2*f + 2: n = 8, f = 3"),
        ("trimmed_mean", 7, 3, {}, None),
        ("trimmed_mean", 6, 3, {}, "trimmed_mean needs n > 2*f: n = 6, f = 3"),
        ("mean", 1, 5, {}, None),
    ],
)
def test_a_need_is_a_sentence_where_it_is_broken(
    name: str, n: int, f: int, options: dict[str, Any], sentence: str | None
) -> None:
    assert find("aggregator", name).requirement(n, f, options) == sentence


@fedpoison.preaggregator(needs="n >= s * f and s > 0")
def in_groups(n: int, *, s: int = 2, t: int = 1) -> Mixing:
    """Need something of an option."""
    return torch.eye(n)


def test_a_need_may_name_options() -> None:
    assert in_groups.entry.requirement(6, 2, {"s": 3, "t": 1}) is None
    assert (
        in_groups.entry.requirement(5, 2, {"s": 3, "t": 1})
        == "in_groups needs n >= s * f and s > 0: n = 5, f = 2, s = 3"
    )


@fedpoison.aggregator(needs="comb(n, f) < 20; n > f", kappa="2*f/(n - f) if s == 1 else None", kappa_source="a test")
def of_subsets(n: int, f: int, *, s: int = 1) -> Weights:
    """Need few subsets, and be robust unless told otherwise."""
    return torch.full((n,), s / n, dtype=torch.float64)


def test_a_need_may_count_subsets() -> None:
    assert of_subsets.entry.requirement(6, 2, {"s": 1}) is None
    assert of_subsets.entry.requirement(6, 3, {"s": 1}) == "of_subsets needs comb(n, f) < 20: n = 6, f = 3"
    assert of_subsets.entry.requirement(2, 3, {"s": 1}) == "of_subsets needs n > f: n = 2, f = 3"  # no such subset
    assert of_subsets.entry.requirement(6, -1, {"s": 1}) is None


def test_a_robustness_is_a_number_where_it_is_known() -> None:
    entry = of_subsets.entry
    assert entry.robustness(6, 2, {"s": 1}) == 1.0
    assert entry.robustness(5, 0, {"s": 1}) == 0.0
    assert entry.robustness(6, 2, {"s": 2}) is None  # not with these options
    assert entry.robustness(40, 2, {"s": 1}) is None  # its needs are not met
    assert entry.robustness(4, 2, {"s": 1}) is None  # half of the rows: nothing is robust
    assert entry.robustness(4, -1, {"s": 1}) is None
    assert find("aggregator", "mean").robustness(9, 1, {"weighting": "uniform"}) is None
    described = entry.describe()
    assert (described["kappa"], described["kappa_source"]) == ("2*f/(n - f) if s == 1 else None", "a test")


# Signatures


def test_a_signature_is_checked_when_it_is_registered() -> None:
    def astray(updates, weather):  # type: ignore[no-untyped-def]
        """Ask for what nobody has."""

    with pytest.raises(
        TypeError, match=r"update_attack astray: nothing supplies updates, weather .*may ask for benign"
    ):
        register("update_attack", astray)

    def untyped(own, *, scale=1.0):  # type: ignore[no-untyped-def]
        """Have an option without a type."""

    with pytest.raises(TypeError, match="update_attack untyped: the options scale need a type annotation"):
        register("update_attack", untyped)

    def mute(own):  # type: ignore[no-untyped-def]
        return own

    with pytest.raises(TypeError, match="update_attack mute needs a docstring"):
        register("update_attack", mute)

    def vague(updates):  # type: ignore[no-untyped-def]
        """Return nobody knows what."""

    with pytest.raises(TypeError, match="aggregator vague must say by its return annotation"):
        register("aggregator", vague)


def test_an_unknown_reference_is_refused() -> None:
    with pytest.raises(TypeError, match=r"unknown references \['next'\]; there are origin, previous"):
        fedpoison.aggregator(references=("next",))


def test_a_decorated_function_stays_itself() -> None:
    @fedpoison.aggregator(needs="n > f")
    def first(updates: Updates) -> Update:
        """Take the first."""
        return updates[0]

    @fedpoison.aggregator()
    def weigh(n) -> Weights:  # type: ignore[no-untyped-def]
        """Weigh all alike."""
        return torch.full((n,), 1 / n, dtype=torch.float64)

    assert torch.equal(first(torch.eye(3)), torch.eye(3)[0])
    assert first.entry.returns == "update"
    assert weigh.entry.returns == "weights"
    assert first.entry.asks == ("updates",)
    assert first.entry.needs == "n > f"
    assert first.entry.paper == ""
    assert not hasattr(first.entry, "no_such_trait")
    assert "first" not in entries("aggregator")
    assert find("aggregator", first) is first.entry


# From outside

RULE = """
import fedpoison
from fedpoison.types import Update, Updates

@fedpoison.aggregator(needs="n > f")
def krum(updates: Updates, *, row: int = 0) -> Update:
    \"\"\"Take one row.\"\"\"
    return updates[row]

@fedpoison.update_attack()
def quiet(own):
    \"\"\"Do nothing.\"\"\"
    return own
"""


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(RULE)
    return path


def test_a_users_file_never_shadows_ours(user_file: Path) -> None:
    ours = entries("aggregator")["krum"]
    theirs = find("aggregator", "mine.py:krum", user_file.parent)
    assert theirs.function is not ours.function
    assert theirs.options.keys() == {"row"}
    assert theirs.name == "krum"
    assert find("aggregator", "krum") is ours
    assert find("aggregator", "krum", user_file.parent) is ours
    assert entries("aggregator")["krum"] is ours
    rows = torch.eye(3)
    assert torch.equal(fedpoison.aggregate(f"{user_file}:krum", rows, row=2).update, rows[2])
    assert torch.equal(fedpoison.aggregate(theirs.function, rows, row=1).update, rows[1])


def test_a_users_file_is_loaded_once_for_each_content(user_file: Path) -> None:
    def load() -> Entry:
        return find("aggregator", "mine.py:krum", user_file.parent)

    first, again = load(), load()
    assert first.function is again.function
    assert first.file_hash == again.file_hash
    assert len(first.file_hash) == 16
    user_file.write_text(RULE.replace("row: int = 0", "row: int = 1"))
    changed = load()
    assert changed.options["row"].default == 1
    assert changed.file_hash != first.file_hash
    assert first.options["row"].default == 0
    user_file.write_text(RULE)
    assert load().options["row"].default == 0
    assert load().file_hash == first.file_hash
    assert entries("aggregator")["krum"].file_hash is None


def test_a_file_may_define_classes_that_need_their_module(user_file: Path) -> None:
    user_file.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Memory:\n    rounds: int = 0\n" + RULE
    )
    assert find("update_attack", f"{user_file}:quiet").name == "quiet"


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (RULE, "nowhere.py:krum", "aggregator 'nowhere.py:krum': there is no file .*nowhere.py"),
        (RULE, "mine.py:kru", r"mine.py has no aggregator 'kru'; it has \['krum'\]"),
        (RULE, "mine.py:quiet", r"mine.py has no aggregator 'quiet'; it has \['krum'\]"),
        (RULE, "mine.py:", "mine.py has no aggregator ''"),
        ("x = 1", "mine.py:x", "mine.py has no aggregator 'x'; it has none"),
        ("def f(:", "mine.py:f", "mine.py cannot be imported: SyntaxError"),
        ("1 / 0", "mine.py:f", "mine.py cannot be imported: ZeroDivisionError: division by zero"),
        ("import no_such_module", "mine.py:f", "cannot be imported: ModuleNotFoundError: .*no_such_module"),
        (
            RULE.replace("updates: Updates,", "wether,"),
            "mine.py:krum",
            "cannot be imported: TypeError: .*supplies wether",
        ),
        (RULE.replace("-> Update", ""), "mine.py:krum", "cannot be imported: TypeError: .*return annotation"),
    ],
)
def test_what_is_wrong_with_a_users_file_is_a_sentence(user_file: Path, content: str, name: str, message: str) -> None:
    user_file.write_text(content)
    loaded = set(sys.modules)
    with pytest.raises(ValueError, match=message):
        find("aggregator", name, user_file.parent)
    if "cannot be imported" in message:
        assert not {module for module in set(sys.modules) - loaded if module.startswith("user_")}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An importable package `outside_<n>` with a module `rules`; the name is new in each test."""
    name = f"outside_{abs(hash(tmp_path))}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / name / "rules.py").write_text(RULE)
    (tmp_path / name / "broken.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_a_packages_rule_is_found_by_module_and_name(package: str) -> None:
    theirs = find("aggregator", f"{package}.rules:krum")
    assert theirs.function.__module__.endswith(f".{package}.rules")
    assert theirs.file_hash
    assert entries("aggregator")["krum"].function is not theirs.function


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{package}.nothing:krum", "cannot import outside_.*nothing"),
        ("no_such_package:krum", "cannot import no_such_package"),
        ("{package}.rules:quiet", r"rules has no aggregator 'quiet'; it has \['krum'\]"),
        ("{package}.broken:krum", "cannot import outside_.*broken: .*division by zero"),
        (".rules:krum", "rules"),
        (":krum", "krum"),
        ("json:krum", "json has no aggregator 'krum'"),
        ("sys:krum", "sys has no aggregator 'krum'"),
    ],
)
def test_what_is_wrong_with_a_module_is_a_sentence(package: str, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find("aggregator", name.format(package=package))
