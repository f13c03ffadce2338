"""What a beginner gets wrong about a rule or an attack is said in a sentence with the file and the line."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import fedpoison
from fedpoison import cli
from fedpoison.checking import CONTRACTS, Subject, findings
from fedpoison.common.errors import AlgorithmError, ConfigError, RunError
from fedpoison.contract.lookup import find, in_file
from fedpoison.contract.registry import register
from fedpoison.types import Gram, Weights

HEAD = """import random
import sys
import numpy as np
import torch
from fedpoison import aggregator, data_attack, preaggregator, update_attack
from fedpoison.types import Chosen, Crafted, Mixing, Noisy, State, Update, Updates, Weights
"""
"""Six lines stand above each function: its decorator is in line 7."""

RETURNS = [
    ("a list", "return updates.mean(dim=0).tolist()", "7: mine must return a tensor [d], not list (torch.tensor makes"),
    ("an array", "return updates.numpy().mean(axis=0)", "7: mine must return a tensor [d], not ndarray (torch.from_n"),
    ("no return", "updates.mean(dim=0)", "7: mine must return a tensor [d], not NoneType (is a return missing?)"),
    ("a number", "return float(updates.mean())", "7: mine must return a tensor [d], not float"),
    (
        "other axis",
        "return updates.mean(dim=1)",
        "7: mine must return 4 floating-point numbers, not (5,) of torch.float",
    ),
    ("one number", "return updates.mean()", "7: mine must return 4 floating-point numbers, not () of torch.float32"),
    (
        "whole numbers",
        "return updates.sum(dim=0).long()",
        "7: mine must return 4 floating-point numbers, not (4,) of torc",
    ),
    ("a pair", "return updates.mean(dim=0), {}", "7: mine must return a tensor [d], not tuple"),
    ("an exception", "return updates[len(updates)]", "10: mine fails with IndexError: index 5 is out of bounds"),
    ("an exception of torch", "return updates @ updates", "10: mine fails with RuntimeError: mat1 and mat2"),
    ("an assertion", "assert f > 9", "10: mine fails with AssertionError"),
    ("an exit", "sys.exit(0)", "10: mine fails with SystemExit: 0"),
    (
        "sparse",
        "return updates.mean(dim=0).to_sparse()",
        "7: mine must return a dense tensor [d] on the CPU, not torch.sp",
    ),
    ("changed in place", "return updates.sub_(1)[0]", "7: mine changed in place what it was shown"),
]
"""Mistakes in the body of a rule that takes five updates of four numbers."""


def rule(body: str, returns: str = "Update", asks: str = "updates: Updates, f: int", decorator: str = "()") -> str:
    return f'{HEAD}@aggregator{decorator}\ndef mine({asks}) -> {returns}:\n    """A rule."""\n    {body}\n'


OTHERS = [
    (
        "weights",
        rule("return torch.ones(len(updates))", "Weights"),
        "7: mine must return 5 weights that sum to 1: (5,), 5",
    ),
    ("weights of all", rule("return updates / 5", "Weights"), "7: mine must return 5 weights that sum to 1: (5, 4)"),
    (
        "kept",
        rule("return Chosen(updates[0], torch.ones(3) > 0)", "Chosen"),
        "7: mine must say of 5 clients whether they are kept, not (3,) of torch.bool",
    ),
    (
        "no state",
        rule("return updates[0]", "tuple[Update, State]", "updates, state: State"),
        "7: mine asks for state and must return (result, state), not Tensor",
    ),
    (
        "a list in the state",
        rule("return updates[0], {'seen': [1]}", "tuple[Update, State]", "updates, state: State"),
        "7: mine may keep tensors by name in its state, and state['seen'] is list",
    ),
    (
        "sparse memory",
        rule("return updates[0], {'seen': updates.to_sparse()}", "tuple[Update, State]", "updates, state: State"),
        "7: mine must return a dense tensor as state['seen'] on the CPU, not torch.sparse_coo on cpu",
    ),
    (
        "a bound that cannot be told",
        rule("return updates[0]", asks="updates, *, k: int | None = None", decorator="(needs='n > k')"),
        "7: mine says 'n > k', which fails with TypeError: '>' not supported",
    ),
    (
        "columns",
        rule("return updates.mean()", decorator="(coordinatewise=True)"),
        "7: mine must return 4 floating-point numbers, not () of torch.float32",
    ),
]

IMPORTS = [
    (
        "parentheses",
        rule("return updates[0]", decorator=""),
        r"line 7\)",
        r"@aggregator needs parentheses: @aggregator\(\) above mine",
    ),
    ("no docstring", rule("return updates[0]").replace('"""A rule."""', "pass"), r"line 7\)", "mine needs a docstring"),
    (
        "an unknown word",
        rule("return grads[0]", asks="grads"),
        r"line 7\)",
        "nothing supplies grads .* may ask for n, f, upd",
    ),
    (
        "no result",
        rule("return updates[0]").replace(" -> Update", ""),
        r"line 7\)",
        "must say by its return annotation",
    ),
    (
        "an untyped option",
        rule("return updates[0]", asks="updates, k=1"),
        r"line 7\)",
        "the options k need a type annotation",
    ),
    (
        "another trait",
        rule("return updates[0]", decorator="(need='n > f')"),
        r"line 7\)",
        "unexpected keyword argument 'need'",
    ),
    (
        "no bound",
        rule("return updates[0]", decorator="(needs='n > 2f')"),
        r"line 7\)",
        "needs = 'n > 2f' is no condition",
    ),
    (
        "a bound of no option",
        rule("return updates[0]", asks="updates, *, k: int = 1", decorator="(base_rows=lambda n, f: n)"),
        r"line 7\)",
        r"mine: base_rows must be a function that is called as base_rows\(n, f, k=…\): got an unexpected",
    ),
    (
        "an unknown name",
        rule("return updates[0]", "Aggregate"),
        r"line 8\)",
        "NameError: name 'Aggregate' is not defined",
    ),
    ("no such module", "import torhc\n", r"line 1\)", "No module named 'torhc'"),
    ("a syntax error", "def mine(:\n", r"line 1\)", "SyntaxError: invalid syntax"),
    ("an exit", "import sys\nsys.exit(0)\n", r"line 2\)", "SystemExit: 0"),
]
"""Mistakes that are seen when the file is imported, with the line and the sentence."""


def written(folder: Path, source: str) -> str:
    (folder / "mine.py").write_text(source)
    return f"{folder / 'mine.py'}:mine"


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        *(pytest.param(rule(body), sentence, id=name) for name, body, sentence in RETURNS),
        *(pytest.param(source, sentence, id=name) for name, source, sentence in OTHERS),
    ],
)
def test_a_mistake_is_told_with_its_line_by_aggregate_and_check(source: str, sentence: str, tmp_path: Path) -> None:
    name = written(tmp_path, source)
    with pytest.raises(AlgorithmError, match=re.escape(f"{tmp_path}/mine.py:{sentence}")):
        fedpoison.aggregate(name, torch.randn(5, 4))
    finding = next(iter(findings(find("aggregator", name), effort=1)))
    assert (finding.contract, finding.outcome) == ("result", "broken")
    assert f"{tmp_path}/mine.py:{sentence.partition(':')[0]}: mine " in finding.sentence


@pytest.mark.parametrize(("source", "line", "sentence"), [pytest.param(*rest, id=name) for name, *rest in IMPORTS])
def test_a_mistake_that_the_import_shows_is_told_with_its_line(
    source: str, line: str, sentence: str, tmp_path: Path
) -> None:
    for look in (
        lambda: fedpoison.aggregate(written(tmp_path, source), torch.ones(3, 4)),
        lambda: in_file("aggregator", tmp_path / "mine.py"),
    ):
        with pytest.raises(ValueError, match=rf"/mine\.py cannot be imported: .*{sentence}.*{line}$"):
            look()


@pytest.mark.parametrize(
    ("kind", "trait", "given", "sentence"),
    [
        (
            "aggregator",
            "base_rows",
            3,
            r"mine: base_rows must be a function that is called as base_rows\(n, f, k=…\): 3 is not a callable",
        ),
        ("preaggregator", "rows", lambda: 1, r"rows must be a function that is called as rows\(n, k=…\): too many"),
        ("data_attack", "goal", lambda n: "backdoor", r"called as goal\(k=…\): missing a"),
        ("data_attack", "aim", lambda images: images, r"called as aim\(images, labels, n_classes, k=…\)"),
        (
            "data_attack",
            "check",
            lambda n, *, m: [],
            r"check\(n_classes, k=…\): missing a required",
        ),
    ],
)
def test_a_trait_that_is_a_function_takes_what_it_is_called_with(
    kind: str, trait: str, given: Any, sentence: str
) -> None:
    def mine(*, k: int = 1) -> Weights:
        """A function."""
        return torch.ones(k)

    with pytest.raises(TypeError, match=sentence):
        register(kind, mine, **{trait: given})
    register("preaggregator", mine, rows=lambda n, **options: n)


def test_a_function_without_the_decorator_is_told_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = written(tmp_path, HEAD + "\ndef mine(updates):\n    return updates[0]\n")
    sentence = re.escape(
        f"{tmp_path}/mine.py:8: mine is not a function with the aggregator decorator: write @aggregator() above it"
    )
    with pytest.raises(ValueError, match=sentence):
        fedpoison.aggregate(name, torch.ones(3, 4))
    with pytest.raises(ValueError, match=sentence):
        in_file("aggregator", tmp_path / "mine.py")
    with pytest.raises(
        ValueError, match=r"test_beginners.py:\d+: rule is not a function with the aggregator decorator"
    ):
        fedpoison.aggregate(rule, torch.ones(3, 4))
    assert cli.main(["check", str(tmp_path / "mine.py")]) == 2
    assert (
        "mine is not a function with the aggregator decorator: write @aggregator() above it" in capsys.readouterr().err
    )


# ---- in a run


def table(**changes: Any) -> dict[str, Any]:
    base = {"name": "beginner", "rounds": 1, "data": "digits", "model": "logistic"}
    return {**base, "clients": {"count": 5, "local": {"steps": 1}}, **changes}


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (rule("return updates[len(updates)]"), "10: mine fails with IndexError: index 5 is out of bounds"),
        (rule("sys.exit(0)"), "10: mine fails with SystemExit: 0"),
        (rule("return updates[0].tolist()"), "7: mine must return a tensor [d], not list"),
    ],
    ids=["an exception", "an exit", "a list"],
)
def test_a_rule_that_fails_in_a_run_ends_it_with_its_line(source: str, sentence: str, tmp_path: Path) -> None:
    name = written(tmp_path, source)
    with pytest.raises(RunError, match=re.escape(f": {tmp_path}/mine.py:{sentence}")):
        fedpoison.run(table(defence={"aggregator": name}), out=tmp_path)


def test_a_run_without_a_bound_that_can_be_told_is_not_begun(tmp_path: Path) -> None:
    name = written(tmp_path, next(source for what, source, _ in OTHERS if what == "a bound that cannot be told"))
    with pytest.raises(ConfigError, match=r"mine\.py:7: mine says 'n > k', which fails"):
        fedpoison.run(table(defence={"aggregator": name}), out=tmp_path)


ATTACKS = [
    (
        "update_attack()",
        "mine(benign, n_malicious)",
        "return benign.tolist()",
        "7: mine must return a tensor [n_malicious, ",
    ),
    ("update_attack()", "mine(benign, n_malicious)", "return benign[99]", "10: mine fails with IndexError"),
    ("update_attack()", "mine(own, state)", "return own", "7: mine asks for state and must return (result, state)"),
    (
        "data_attack(goal='availability', aim=lambda i, l, n: (i, l))",
        "mine(images, labels)",
        "return images",
        "7: mine must return (images, labels), not Tensor",
    ),
    (
        "data_attack(goal='availability', aim=lambda i, l, n: (i, l))",
        "mine(images, labels)",
        "return images, [0]",
        "7: mine must return a tensor of labels, not list",
    ),
    (
        "data_attack(goal='availability', aim=lambda i, l, n: i)",
        "mine(images, labels)",
        "return images, labels",
        "7: mine must return by its aim (images, labels), not Tensor",
    ),
    (
        "data_attack(goal='availability', aim=lambda i, l, n: 1 / 0)",
        "mine(images, labels)",
        "return images, labels",
        "7: mine fails with ZeroDivisionError",
    ),
    (
        "data_attack(goal=lambda: 'harm', aim=lambda i, l, n: (i, l))",
        "mine(images, labels)",
        "return images, labels",
        "7: mine says that its goal is 'harm'; there are availability",
    ),
]


@pytest.mark.parametrize(("decorator", "signature", "body", "sentence"), ATTACKS)
def test_an_attack_that_fails_in_a_run_is_named_with_its_line(
    decorator: str, signature: str, body: str, sentence: str, tmp_path: Path
) -> None:
    name = written(tmp_path, f'{HEAD}@{decorator}\ndef {signature}:\n    """An attack."""\n    {body}\n')
    kind = "update" if decorator.startswith("update") else "data"
    with pytest.raises((RunError, ConfigError), match=re.escape(f"{tmp_path}/mine.py:{sentence}")):
        fedpoison.run(table(threat={"malicious": 1, kind: name}), out=tmp_path)


STEPS = [
    ("()", "return torch.eye(3).tolist()", "7: mine must return a tensor [m, n], not list"),
    ("()", "return torch.eye(3)[:2]", "7: mine must return a mixing of (3, 3) as its rows say, not (2, 3)"),
    (
        "(rows=lambda n: n - 1)",
        "return torch.eye(3)",
        "7: mine must return a mixing of (2, 3) as its rows say, not (3, 3)",
    ),
    ("()", "return 2 * torch.eye(3)", '7: mine must return rows that sum to 1, or say references=("origin",)'),
    (
        "(rows=lambda n: n / 2)",
        "return torch.eye(3)",
        "7: mine must say by rows how many rows there are, a whole number",
    ),
    ("(rows=lambda n: n // 0)", "return torch.eye(3)", "7: mine fails with ZeroDivisionError"),
]


@pytest.mark.parametrize(("decorator", "body", "sentence"), STEPS)
def test_a_pre_aggregator_is_named_with_its_line(decorator: str, body: str, sentence: str, tmp_path: Path) -> None:
    source = f'{HEAD}@preaggregator{decorator}\ndef mine(updates) -> Mixing:\n    """A step."""\n    {body}\n'
    with pytest.raises(AlgorithmError, match=re.escape(f"{tmp_path}/mine.py:{sentence}")):
        fedpoison.aggregate("median", torch.ones(3, 4), pre=[written(tmp_path, source)])


@pytest.mark.parametrize("kind", ["preaggregator", "update_attack", "data_attack", "dataset", "partition", "model"])
def test_every_decorator_without_parentheses_says_so(kind: str) -> None:
    with pytest.raises(TypeError, match=rf"@{kind} needs parentheses: @{kind}\(\) above rule"):
        getattr(fedpoison, kind)(rule)


# ---- only `check` sees it

SEEN_BY_CHECK = [
    (
        "NumPy's generator",
        rule("return updates[np.random.randint(len(updates))].clone()"),
        "seed",
        "it draws from numpy's global generator; ask for rng",
    ),
    (
        "a fresh generator",
        rule("return updates[np.random.default_rng().integers(len(updates))].clone()"),
        "seed",
        "when called again: what is drawn comes from rng, what is remembered lies in state",
    ),
    (
        "a module's global",
        rule("seen.append(1)\n    return updates[0] * len(seen)").replace("@", "seen = []\n@", 1),
        "seed",
        "when called again: what is drawn comes from rng, what is remembered lies in state",
    ),
    (
        "float64",
        rule("return updates.double().mean(dim=0)"),
        "result",
        "the aggregate is of torch.float64, and the upda",
    ),
    (
        "a memory by row",
        rule(
            "seen = state.get('seen', 0 * updates) + updates\n    return seen.mean(dim=0), {'seen': seen}",
            "tuple[Update, State]",
            "updates, state: State",
        ),
        "memory",
        "mine fails with RuntimeError: The size of tensor a",
    ),
]


@pytest.mark.parametrize(("source", "contract", "sentence"), [pytest.param(*rest, id=n) for n, *rest in SEEN_BY_CHECK])
def test_what_a_single_call_does_not_show_is_found_by_check(
    source: str, contract: str, sentence: str, tmp_path: Path
) -> None:
    entry = find("aggregator", written(tmp_path, source))
    finding = CONTRACTS[contract](Subject(entry, entry.validate({}), 2))
    assert finding.outcome == "broken"
    assert sentence in finding.sentence, finding.sentence


def test_weights_in_float32_may_round() -> None:
    @fedpoison.aggregator(withstands="nothing")
    def thirds(n: int) -> Weights:
        """The mean, by weights of float32, whose sum may be 1 + 3e-8."""
        return torch.full((n,), 1 / n)

    subject = Subject(thirds.entry, {}, 1)
    assert CONTRACTS["result"](subject).outcome == "holds"
    for n in range(1, 12):
        assert not fedpoison.aggregate(thirds, torch.randn(n, 4)).skipped


def test_weights_of_more_than_one_are_told_with_their_sum() -> None:
    @fedpoison.aggregator(references=("previous",), withstands="nothing")
    def leaps(n: int, gram: Gram) -> Weights:
        """Away from the last aggregate: the clients' weights are 1.5 in all."""
        return torch.cat([torch.full((n,), 1.5 / n), torch.tensor([-0.5])])

    finding = CONTRACTS["result"](Subject(leaps.entry, {}, 1))
    assert finding.outcome == "broken"
    assert re.search(r"the clients' weights are \[1.5\], which are 1.5 in all", finding.sentence), finding.sentence


# ---- what does no harm


@pytest.mark.parametrize(
    ("body", "returns"),
    [
        ("updates.numpy()[:] = 0; return torch.ones(4)", "Update"),
        ("torch.set_grad_enabled(False); torch.set_default_dtype(torch.float64); return updates.mean(dim=0)", "Update"),
        ("return updates.mean(dim=0).double().requires_grad_()", "Update"),
        ("return updates[0]", "Update"),
        ("return torch.full((5,), 0.2, requires_grad=True)", "Weights"),
    ],
)
def test_what_a_rule_does_besides_is_nobody_elses(body: str, returns: str, tmp_path: Path) -> None:
    rows = torch.randn(5, 4)
    before = rows.clone()
    verdict = fedpoison.aggregate(written(tmp_path, rule(body, returns)), rows)
    verdict.update.add_(1)
    assert not verdict.skipped
    assert verdict.update.dtype == torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()
    assert not verdict.update.requires_grad
    assert torch.equal(rows, before)


def test_an_attack_changes_no_honest_update_through_numpy(tmp_path: Path) -> None:
    body = "benign.numpy()[:] = 0\n    return benign[:n_malicious]"
    source = f'{HEAD}@update_attack()\ndef mine(benign, n_malicious):\n    """An attack."""\n    {body}\n'
    benign = torch.randn(5, 4)
    before = benign.clone()
    assert not torch.as_tensor(fedpoison.craft(written(tmp_path, source), benign=benign, n_malicious=2)).any()
    assert torch.equal(benign, before)


def test_options_may_have_any_name(tmp_path: Path) -> None:
    source = rule("return trait * function * updates[0]", asks="updates, *, trait: float = 2.0, function: float = 2.0")
    rows = torch.ones(3, 4)
    assert fedpoison.aggregate(written(tmp_path, source), rows, function=3.0).update.tolist() == [6.0] * 4


PARTS = [
    (
        "partition()",
        "mine(labels, n_clients)",
        "return None",
        "data.partition",
        "7: mine must return a list with an index array",
    ),
    (
        "partition()",
        "mine(labels, n_clients)",
        "return [[0.5]] * n_clients",
        "data.partition",
        "7: mine must return index arrays of",
    ),
    ("partition()", "mine(labels, n_clients)", "sys.exit(0)", "data.partition", "10: mine fails with SystemExit: 0"),
    ("dataset(licence='')", "mine()", "sys.exit(0)", "data.name", "10: mine fails with SystemExit: 0"),
]


@pytest.mark.parametrize(("decorator", "signature", "body", "key", "sentence"), PARTS)
def test_a_partition_or_data_set_that_fails_is_named_with_its_line(
    decorator: str, signature: str, body: str, key: str, sentence: str, tmp_path: Path
) -> None:
    source = f'{HEAD}@{decorator}\ndef {signature}:\n    """A part."""\n    {body}\n'
    source = source.replace("import aggregator,", "import aggregator, dataset, partition,")
    given = table(data={"name": "digits"})
    with pytest.raises(ConfigError, match=re.escape(f"{tmp_path}/mine.py:{sentence}")):
        fedpoison.run(given, {key: written(tmp_path, source)}, out=tmp_path)


def test_a_file_with_another_kind_of_algorithm_says_what_it_has(tmp_path: Path) -> None:
    function = "def mine(logits, labels):\n    'Nothing.'\n    return logits.sum(dim=1) * 0\n"
    (tmp_path / "mine.py").write_text("from fedpoison import loss\n\n@loss()\n" + function)
    with pytest.raises(ValueError, match=r"mine\.py has no aggregator, it has the loss mine$"):
        in_file("aggregator", tmp_path / "mine.py")
