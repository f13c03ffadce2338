"""`fedpoison check`: what breaks is found, and told by an example that can be followed by hand."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fedpoison
from fedpoison import aggregator, check, cli
from fedpoison.checking import CONTRACTS, Finding, Report, Subject, findings
from fedpoison.checking.cases import Case
from fedpoison.checking.robustness import ratio
from fedpoison.checking.shrinking import shrink
from fedpoison.checking.wording import exactly, number
from fedpoison.common.errors import ConfigError
from fedpoison.contract.entry import Entry
from fedpoison.contract.lookup import entries, find, in_file
from fedpoison.types import State, Update, Updates, Weights

BROKEN = Path(__file__).with_name("broken_rules.py")

# rule, contract, its counterexample's sentence
MISTAKES = [
    (
        "trims_to_nothing",
        "bound",
        r"with updates \[\[0\]\] and f = 0 there is no aggregate: the aggregate is not finite",
    ),
    (
        "mixes_up_indices",
        "permutation",
        r"with updates \[\[0\], \[0\], \[0\], \[1\]\] and f = 0 the aggregate is \[0\]; "
        r"in the order 3, 2, 1, 0 it is \[1\]",
    ),
    (
        "takes_the_lower_middle",
        "scale",
        r"with updates \[\[0\], \[1\]\] and f = 0 all times -1, the aggregate is \[-1\] instead of \[0\]",
    ),
    (
        "sorts_its_input",
        "inputs",
        r"with updates \[\[1\], \[0\]\] and f = 0 it changes updates, which is \[0\] instead of \[1\] at \[0, 0\]",
    ),
    (
        "returns_its_input",
        "inputs",
        r"with updates \[\[0\], \[0\], \[0\]\] and f = 0 what it returns lies in the memory of updates",
    ),
    ("draws_globally", "seed", r"with updates \[\[0\]\] and f = 0 it draws from torch's global generator; ask for rng"),
    (
        "calls_the_mean_robust",
        "bounded",
        r"with updates \[\[1e6\], \[0\], \[1\]\] and f = 1, of which client 0 attacks, the aggregate is \[3.33e5\] and "
        r"the honest mean \[0.5\]; .* withstands=\"nothing\"",
    ),
    (
        "trims_one_too_many",
        "bound",
        r"with updates \[\[0\], \[0\], \[0\]\] and f = 1 .* not finite \(n = 3, f = 1; it declares needs n > 2\*f\)",
    ),
    (
        "subtracts_the_extremes",
        "finite",
        r"with updates \[\[3e38\], \[3e38\], \[0\], \[0\], \[0\]\] and f = 2 .* not finite",
    ),
    (
        "trusts_the_first",
        "permutation",
        r"the weights in the order 3, 2, 1, 0 are \[0.4, 0.2, 0.2, 0.2\] instead of \[0.2, 0.2, 0.2, 0.4\]",
    ),
    (
        "looks_across_coordinates",
        "evaluation",
        r"with updates \[\[1, 1\]\] and f = 0 the aggregate is \[0.707, 0.707\] as a whole and \[1, 1\] column by",
    ),
    # which digits are lost, and so where the search ends, is the processor's business
    ("cancels", "precision", r"the aggregate is \[[^]]+\] in float64 and \[[^]]+\] in float32"),
    ("divides_by_the_honest", "unanimity", r"when all n = 2 send \[1\] and f = 1, the aggregate is \[2\]"),
    ("takes_back", "result", r"with updates \[\[0\], \[0\]\] and f = 0 the clients' weights are \[-1, 2\]"),
    (
        "remembers_by_place",
        "permutation",
        r"the same 2 rounds long, the weights in the order 3, 2, 1, 0 are \[0.4, 0.2, 0.2, 0.2\]",
    ),
    (
        "remembers_by_row",
        "memory",
        r"with updates \[\[0\], \[0\], \[0\], \[1\]\] and f = 0, of which there come clients 0, 1, 2, 3, then "
        r"clients 0, 1, 2, 3, the aggregate is \[0.1\]; "
        r"with the clients of later rounds in reverse order it is \[0.167\]",
    ),
    (
        "takes_the_new_for_another",
        "memory",
        r"and f = 0, of which there come clients 1, 2, 3, then clients 0, 1, 2, 3, the aggregate is \[0.1\]; "
        r"with client_ids = \[4, 1, 2, 3\], where who is new has another, it is \[0.118\]",
    ),
    (
        "always_fails",
        "result",
        r"with updates \[\[0\]\] and f = 0 .*broken_rules\.py:\d+: always_fails fails with NotImplementedError: later",
    ),
    ("divides_by_the_spread", "finite", r"with updates \[\[0\]\] and f = 1 there is no aggregate"),
]


def broken(name: str) -> Entry:
    return find("aggregator", f"{BROKEN}:{name}")


def examined(entry: Entry, contract: str, effort: int = 2, **options: Any) -> Finding:
    return CONTRACTS[contract](Subject(entry, entry.validate(options), effort))


def sure(entry: Entry, **traits: Any) -> Entry:
    return replace(entry, **traits)


# ---- what is found


@pytest.mark.parametrize(("name", "contract", "sentence"), MISTAKES, ids=[name for name, *_ in MISTAKES])
def test_a_mistake_is_found_and_told_by_a_small_example(name: str, contract: str, sentence: str) -> None:
    finding = examined(broken(name), contract)
    assert finding.outcome == "broken"
    assert re.search(sentence, finding.sentence), finding.sentence
    assert finding.counterexample is not None
    updates = torch.tensor(finding.counterexample["updates"])
    assert len(updates) <= 5
    assert updates.shape[1] <= (3 if name == "cancels" else 2)
    assert finding.counterexample["f"] <= 2


def test_every_broken_rule_is_among_the_mistakes() -> None:
    assert [entry.name for entry in in_file("aggregator", BROKEN)] == [name for name, *_ in MISTAKES]


def test_a_counterexample_is_enough_to_make_it_again() -> None:
    found = examined(broken("takes_the_lower_middle"), "scale").counterexample
    assert found is not None
    updates = torch.tensor(found["updates"], dtype=getattr(torch, found["dtype"]))
    function = broken("takes_the_lower_middle").function
    one, other = (fedpoison.aggregate(function, sign * updates, f=found["f"]).update for sign in (1, -1))
    assert not torch.equal(-one, other)


def test_a_rule_that_never_gives_a_result_is_tried_no_further() -> None:
    report = check(broken("always_fails"), effort=1)
    assert [finding.contract for finding in report.findings] == ["result"]
    assert not report.ok


def test_a_rule_that_fails_here_and_there_is_tried_on() -> None:
    report = check(broken("trims_to_nothing"), effort=1)
    assert {finding.contract for finding in report.broken} == {"result", "finite", "bound"}
    assert len(report.findings) == len(CONTRACTS)


def test_needs_that_nothing_satisfies_are_told() -> None:
    (finding,) = findings(sure(entries("aggregator")["krum"], needs="n > 1000"), effort=1)
    assert (finding.outcome, finding.sentence) == ("broken", "no small n satisfies its needs 'n > 1000'")


def test_f_is_what_a_check_varies() -> None:
    with pytest.raises(ConfigError, match="a check tries trimmed_mean with many f; f is no option of it here"):
        check("trimmed_mean", options={"f": 2})


def test_a_rule_that_refuses_by_itself_needs_no_needs() -> None:
    @aggregator()
    def careful(updates: Updates, f: int) -> Update:
        """The mean of more than two clients."""
        if len(updates) < 3:
            raise ValueError("careful takes three clients or more")
        return updates.mean(dim=0)

    @aggregator()
    def careless(updates: Updates, f: int) -> Update:
        """The mean of more than two clients, which an index error says."""
        return updates.mean(dim=0) + 0 * updates[2]

    assert examined(careful.entry, "bound").outcome == "holds"
    finding = examined(careless.entry, "bound")
    assert finding.outcome == "broken"
    assert "IndexError" in finding.sentence
    assert "n = 1, f = 0; it declares no needs" in finding.sentence


def test_past_the_bound_another_sentence_than_the_bound_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **known: Any) -> None:
        raise ValueError("no")

    monkeypatch.setattr("fedpoison.checking.limits.aggregate", refuse)
    finding = examined(entries("aggregator")["krum"], "refusal")
    assert finding.outcome == "broken"
    assert "refused with 'no' instead of 'krum needs n > 2*f + 2: n = " in finding.sentence
    monkeypatch.setattr("fedpoison.checking.limits.aggregate", lambda *arguments, **known: None)
    assert "there is an aggregate, although krum needs" in examined(entries("aggregator")["krum"], "refusal").sentence


# ---- what is claimed


def test_what_is_not_claimed_is_said_with_what_was_found() -> None:
    median = entries("aggregator")["median"]
    assert examined(median, "rotation").sentence == "and a counterexample is easily found"
    finding = examined(sure(median, claims=()), "scale")
    assert finding.outcome == "not claimed"
    assert re.fullmatch(r"but no counterexample was found in \d+ tries", finding.sentence)


@pytest.mark.parametrize(
    ("rule", "claim", "options"),
    [
        ("centered_clipping", "unanimity", {"tau": 10.0}),
        ("centered_clipping", "scale", {"tau": 10.0}),
        ("cge", "translation", {}),
        ("sign_majority", "unanimity", {}),
        ("sign_majority", "translation", {}),
        ("sign_majority", "scale", {}),
        ("rlr", "translation", {}),
        ("meamed", "rotation", {}),
    ],
)
def test_a_claim_that_a_rule_of_ours_does_not_make_would_be_broken(
    rule: str, claim: str, options: dict[str, Any]
) -> None:
    finding = examined(sure(entries("aggregator")[rule], claims=(claim,)), claim, **options)
    assert finding.outcome == "broken"
    assert finding.counterexample is not None
    assert len(finding.counterexample["updates"]) <= 4


@pytest.mark.parametrize("rule", ["mean", "rlr", "dnc"])
def test_who_withstands_less_would_be_found_out(rule: str) -> None:
    finding = examined(sure(entries("aggregator")[rule], withstands="huge rows"), "bounded")
    assert finding.outcome == "broken"
    assert "attack" in finding.sentence


def test_ties_may_be_broken_by_place() -> None:
    @aggregator(claims=("permutation",))
    def longest(updates: Updates) -> Update:
        """The update with the largest sum, of equals the first; rounded to whole numbers, so that there are many."""
        return updates[updates.sum(dim=1).argmax()].clone()

    tie = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    subject = Subject(longest.entry, {}, 1)
    contract = CONTRACTS["permutation"]
    assert contract.breach(subject, subject.case(tie, 0)) is not None  # the order does matter here,
    only = replace(contract, cases=lambda _: [subject.case(tie, 0)])
    assert only(subject).outcome == "holds"  # but only because of the tie


def test_unknown_claims_are_an_error_at_import() -> None:
    with pytest.raises(TypeError, match=r"unknown claims \['translaton'\]; there are permutation, unanimity"):
        aggregator(claims=("translaton",))
    with pytest.raises(TypeError, match=r"unknown withstands \['everything'\]; there are huge rows, huge rows in one"):
        aggregator(withstands="everything")


# ---- rules that look at more than the updates


def test_a_rule_with_a_trusted_root_and_memory_holds() -> None:
    @aggregator(needs="n > 2*f", claims=("permutation", "translation", "scale", "rotation"), withstands="nothing")
    def follows(updates: Updates, root_update: Update, previous: Update, state: State) -> tuple[Update, State]:
        """Half of the mean, a quarter each of the root update and of last round's aggregate."""
        mean = updates.double().mean(dim=0)
        made = mean / 2 + root_update.double() / 4 + previous.double() / 4
        return made.to(updates.dtype), {**state, "rounds": state.get("rounds", torch.zeros(1)) + 1}

    report = check(follows, effort=1)
    assert report.ok, report
    assert "looks at previous, root_update, state besides the updates" in report["kappa"].sentence


def test_a_rule_built_around_another_is_given_the_median() -> None:
    @aggregator(claims=("permutation", "unanimity", "translation", "scale"))
    def around(updates: Updates, base: Callable[[Tensor, int], Tensor], f: int) -> Update:
        """What the base makes of the updates."""
        return base(updates, f)

    report = check(around, effort=1)
    assert report.ok, report


def test_draws_from_rng_hold() -> None:
    @aggregator(claims=("unanimity",), withstands="nothing")
    def one_of_them(updates: Updates, n: int, rng: torch.Generator) -> Weights:
        """A client drawn by lot."""
        chosen = torch.randint(n, (), generator=rng)
        return torch.nn.functional.one_hot(chosen, n).double()

    assert check(one_of_them, effort=1).ok


def test_pythons_generator_is_found_too() -> None:
    import random

    @aggregator(claims=(), withstands="nothing")
    def shuffles(updates: Updates) -> Update:
        """A client drawn by Python."""
        return random.choice([*updates]).clone()

    finding = examined(shuffles.entry, "seed")
    assert finding.outcome == "broken"
    assert re.search(r"and seed 0 the aggregate is \[.*\], and \[.*\] when called again", finding.sentence)


# ---- κ and breakdown


def test_the_search_finds_what_is_known_of_kappa() -> None:
    trimmed, median = (examined(entries("aggregator")[name], "kappa", 5) for name in ("trimmed_mean", "median"))
    for n, f in ((5, 1), (9, 3), (7, 2)):
        assert trimmed.figures[f"n={n}, f={f}"] == pytest.approx(f / (n - 2 * f), rel=1e-3)
        assert median.figures[f"n={n}, f={f}"] == pytest.approx((n - 1) / (n + 1 - 2 * f), rel=1e-2)
    assert "κ ≥ 0.333 at n = 5, f = 1 (any rule 0.333, published 0.333)" in trimmed.sentence
    assert "unbounded at n = 9, f = 3" in examined(entries("aggregator")["mean"], "kappa").sentence


def test_a_kappa_above_the_published_one_is_broken() -> None:
    median = entries("aggregator")["median"]
    finding = examined(sure(median, kappa="f/(n-2*f)"), "kappa")
    assert finding.outcome == "broken"
    assert re.search(r"and f = 1 .* κ is at least \S+ and not 0\.\d+", finding.sentence), finding.sentence
    assert finding.counterexample is not None
    updates = torch.tensor(finding.counterexample["updates"], dtype=torch.float64)
    assert len(updates) <= 5
    n, f = len(updates), finding.counterexample["f"]
    assert ratio(updates, fedpoison.aggregate("median", updates).update, f)[0] > f / (n - 2 * f)


def test_a_published_kappa_is_held_and_printed() -> None:
    krum = sure(entries("aggregator")["krum"], kappa="6*(1+f/(n-2*f))")
    finding = examined(krum, "kappa")
    assert finding.outcome == "holds"
    assert "(any rule 0.333, published 8)" in finding.sentence


def test_kappa_of_an_aggregate_by_hand() -> None:
    updates = torch.tensor([[0.0], [0.0], [3.0]])
    needed, honest = ratio(updates, torch.tensor([0.0]), 1)
    assert honest == [0, 2]  # their mean is 1.5, its distance 1.5, and so is their standard deviation
    assert needed == pytest.approx(1)
    assert ratio(updates, torch.tensor([1.0]), 1)[0] == torch.inf  # 0 and 0 have no spread
    assert ratio(updates[:2], torch.tensor([0.0]), 1)[0] == 0


def test_breakdown_tells_how_far_the_worst_attack_goes() -> None:
    robust = examined(entries("aggregator")["median"], "breakdown")
    assert 1 < robust.figures["moved"] < 5
    assert "f = 5 of n = 11 clients move it by up to" in robust.sentence
    assert examined(entries("aggregator")["mean"], "breakdown").figures["moved"] > 1e28


def test_speed_is_told_beside_mean_and_median() -> None:
    finding = examined(entries("aggregator")["median"], "speed")
    assert finding.outcome == "told"
    assert all(seconds > 0 for seconds in finding.figures.values())
    assert re.fullmatch(r"\S+ s for 20 × 200,000 numbers: \S+ times the mean, \S+ times the median", finding.sentence)


# ---- shrinking, words


def case(updates: Tensor, f: int = 0, **known: Any) -> Case:
    n = len(updates)
    return Case(updates, f, sizes=torch.arange(1.0, n + 1).double(), client_ids=torch.arange(n) * 3, **known)


def test_shrinking_keeps_what_breaks_and_nothing_else() -> None:
    start = case(torch.randn(9, 12, generator=torch.Generator().manual_seed(0)) * 10, f=3, move=7, seed=4, rounds=2)

    def breaks(smaller: Case) -> bool:
        return bool((smaller.updates > 5).any()) and smaller.f >= 1

    small = shrink(start, breaks)
    assert small.shape == (1, 1)
    assert small.updates.item() in (6, 7, 8, 9, 10, 20)
    assert (small.f, small.move, small.seed, small.rounds) == (1, 0, 0, 1)
    assert small.sizes.tolist() == [1]
    assert shrink(start, breaks, budget=0) is start


def test_shrinking_takes_the_attackers_with_their_rows() -> None:
    start = case(torch.tensor([[1.0], [1e9], [3.0], [1e9]]), f=2, attackers=(1, 3))
    smaller = start.of_rows([0, 2, 3])
    assert (smaller.f, smaller.attackers, smaller.honest) == (1, (2,), [0, 1])
    assert shrink(start, lambda tried: bool((tried.updates > 100).any())).updates.tolist() == [[1e9]]


def test_numbers_are_short_and_can_be_typed_again() -> None:
    assert [number(value) for value in (0.0, -0.0, 1e9, 2 / 3, 1e-7, 300.0)] == [
        "0",
        "0",
        "1e9",
        "0.667",
        "1e-7",
        "300",
    ]
    assert exactly(0.1, torch.float32) == "0.1"
    assert exactly(3001.0, torch.float64) == "3001"


# ---- the report, the command line


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(["check", *map(str, arguments), "--effort", "1"])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_the_same_call_finds_the_same() -> None:
    def told(report: Report) -> list[str]:
        return [f.sentence for f in report.findings if f.contract != "speed"]

    assert told(check("dnc", effort=1)) == told(check("dnc", effort=1))


def test_a_registered_rule_passes(call: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = call("krum")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    claims = "permutation, unanimity, translation, scale, rotation"
    assert lines[0] == f"krum needs n > 2*f + 2, claims {claims}, withstands huge rows"
    assert [line.split()[0] for line in lines[1:-1]] == list(CONTRACTS)
    assert lines[-1] == "krum: no contract broken"


def test_all_rules_of_a_file_are_checked(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    path = tmp_path / "two.py"
    path.write_text(
        "from fedpoison import aggregator, preaggregator\n"
        "from fedpoison.defences.aggregators.krum import krum\n"
        "from fedpoison.types import Update, Updates\n\n\n"
        '@aggregator(withstands="nothing")\n'
        "def good(updates: Updates, *, share: float = 1.0) -> Update:\n"
        '    """The mean."""\n'
        "    return updates.mean(dim=0) * share\n\n\n"
        "@aggregator()\n"
        "def bad(updates: Updates) -> Update:\n"
        '    """The first."""\n'
        "    return updates[0].clone()\n"
    )
    code, out, _ = call(path)
    assert code == 1
    assert "good: no contract broken" in out
    assert "bad: 2 contracts broken" in out
    assert "krum" not in out
    assert "permutation broken      with updates [[0], [0], [0], [1]] and f = 0 the aggregate is [0]; in the" in out
    code, out, err = call(f"{path}:good", "--json")
    assert (code, err) == (0, "")
    (report,) = json.loads(out)
    assert (report["rule"], report["ok"]) == ("good", True)
    code, out, _ = call(f"{path}:good", "--json", "--option", "share=0.5")
    assert code == 1
    (report,) = json.loads(out)
    assert report["options"] == {"share": 0.5}
    (wrong,) = [f for f in report["findings"] if f["outcome"] == "broken"]
    assert wrong["contract"] == "unanimity"
    assert wrong["counterexample"]["updates"] == [[1.0]]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("krumm", "did you mean 'krum'?"),
        ("nowhere.py", "there is no file"),
        (f"{BROKEN}:nobody", "has no aggregator 'nobody'"),
        (str(Path(__file__).parents[1] / "making.py"), "has no aggregator"),
    ],
)
def test_a_wrong_name_or_file_is_the_users_mistake(
    call: Callable[..., tuple[int, str, str]], rule: str, said: str
) -> None:
    code, out, err = call(rule)
    assert (code, out) == (2, "")
    assert said in err


def test_wrong_options_are_the_users_mistake(call: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = call("krum", "--option", "m=2")
    assert code == 2
    assert "krum has no option 'm'" in err
    assert cli.main(["check", "krum", "--effort", "0"]) == 2


def test_a_report_reads_as_lines() -> None:
    report = check("mean", effort=1)
    assert report.ok
    assert str(report).splitlines()[0] == "mean"
    assert len(str(report).splitlines()) == 1 + len(CONTRACTS)
    assert json.loads(json.dumps(report.as_dict()))["ok"] is True


def test_check_is_loaded_when_it_is_used() -> None:
    code = "import sys, fedpoison; assert 'torch' not in sys.modules; assert callable(fedpoison.check)"
    subprocess.run([sys.executable, "-c", code], check=True)
