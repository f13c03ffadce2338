"""What `fedpoison.aggregate` and `fedpoison.craft` take: tensors, arrays, lists; and what they say of anything else."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedpoison import aggregate, aggregator, craft, update_attack
from fedpoison.types import Update, Updates

ROWS = torch.randn(10, 6, generator=torch.Generator().manual_seed(0))
MEDIAN = aggregate("median", ROWS, f=2).update
IPM = craft("ipm", benign=ROWS, n_malicious=2)


def read_only(rows: Tensor) -> Any:
    array = rows.numpy().copy()
    array.flags.writeable = False
    return array


FORMS: dict[str, Callable[[Tensor], Any]] = {
    "an array": lambda rows: rows.numpy(),
    "a list of arrays": lambda rows: [row.numpy() for row in rows],
    "a tuple of tensors": tuple,
    "lists in a list": lambda rows: rows.double().tolist(),
    "a read-only array": read_only,
    "an array that runs backwards": lambda rows: np.ascontiguousarray(rows.numpy()[::-1, ::-1])[::-1, ::-1],
    "an array of another byte order": lambda rows: rows.numpy().astype(">f4"),
    "what requires a gradient": lambda rows: rows.clone().requires_grad_(),
    "rows that require a gradient": lambda rows: [row.clone().requires_grad_() for row in rows],
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_numbers_are_taken_in_any_form(form: Callable[[Tensor], Any]) -> None:
    update, crafted = aggregate("median", form(ROWS), f=2).update, craft("ipm", benign=form(ROWS), n_malicious=2)
    assert isinstance(crafted, Tensor)
    for made, expected in ((update, MEDIAN), (crafted, IPM)):
        torch.testing.assert_close(made, expected, check_dtype=False)
        assert not made.requires_grad


def test_what_a_round_knows_is_taken_in_any_form() -> None:
    sizes, ids, previous = np.arange(1, 11), list(range(10)), MEDIAN.tolist()
    told = aggregate("centered_clipping", ROWS, sizes=sizes, client_ids=ids, previous=MEDIAN, params=ROWS[0])
    lists = aggregate(
        "centered_clipping",
        ROWS,
        sizes=torch.from_numpy(sizes),
        client_ids=np.arange(10),
        previous=previous,
        params=ROWS[0].clone().requires_grad_(),
    )
    assert torch.equal(told.update, lists.update)
    weighted = aggregate("mean", ROWS, sizes=list(map(float, sizes)), weighting="sizes").weights
    assert weighted is not None
    torch.testing.assert_close(weighted, torch.from_numpy(sizes / sizes.sum()))


def test_inference_mode_changes_nothing() -> None:
    with torch.inference_mode():
        rows = ROWS * 1
        assert torch.equal(aggregate("median", rows, f=2).update, MEDIAN)
        assert torch.equal(aggregate("krum", list(rows), f=2).update, aggregate("krum", ROWS, f=2).update)
        crafted = craft("ipm", benign=rows, n_malicious=2)
        assert isinstance(crafted, Tensor)
        assert torch.equal(crafted, IPM)


@pytest.mark.parametrize(
    "row",
    [None, "nothing", {}, 1.0, [1.0, "a"], torch.ones(2, 3), torch.ones(5), torch.ones(6).long(), np.ones((2, 3))],
    ids=str,
)
def test_a_row_that_is_no_vector_is_set_aside(row: Any) -> None:
    verdict = aggregate("median", [*ROWS[:9], row], f=2)
    assert torch.equal(verdict.update, aggregate("median", ROWS[:9], f=1).update)
    (event,) = verdict.events
    assert (event.what, event.clients, event.detail) == ("set_aside", (9,), "not a vector of 6 numbers")


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (
        lambda: aggregate("median", [torch.tensor(1.0)] * 3),
        "none of the 3 updates is a vector of floating-point numbers",
    ),
    (lambda: aggregate("krum", [row.view(2, 3) for row in ROWS], f=2), r"the first is \(2, 3\) of torch.float32"),
    (lambda: aggregate("median", [None, None]), "none of the 2 updates is a vector"),
    (lambda: aggregate("median", [[1, 2], [3, 4]]), r"none of the 2 updates .* \(2,\) of torch.int64"),
    (lambda: aggregate("median", ROWS[:, :0]), r"updates must be a floating-point matrix \[n, d\], not \(10, 0\)"),
    (lambda: aggregate("median", ROWS.long().numpy()), r"updates must be a floating-point matrix .* torch.int64"),
    (lambda: aggregate("median", np.float16(ROWS.numpy())), r"updates must be float32 or float64, not torch.float16"),
    (
        lambda: aggregate("median", ROWS.to_sparse()),
        "updates must be dense and on the CPU, not torch.sparse_coo on cpu",
    ),
    (
        lambda: craft("ipm", benign=ROWS.to("meta"), n_malicious=2),
        "benign must be dense and on the CPU, not .* on meta",
    ),
    (lambda: aggregate("median", ROWS, previous=MEDIAN[:3], params=MEDIAN), r"previous must be a vector of 6 numbers"),
    (lambda: aggregate("median", ROWS, params=ROWS), r"params must be a vector \[d\], not \(10, 6\)"),
    (lambda: aggregate("median", ROWS, sizes=[1, 2]), r"sizes must be a vector of 10 numbers, not \(2,\)"),
    (lambda: aggregate("median", ROWS, client_ids=np.ones(10)), "client_ids must be whole numbers, not torch.float64"),
    (lambda: aggregate("median", ROWS, options={"m": 1}, m=2), "m is given among the options and by name"),
    (lambda: aggregate("median", ROWS, pre=[{"s": 2}]), "a preaggregator with options is a table with its name"),
    (lambda: aggregate("median", ROWS, pre="nnm"), r"pre is a list of steps, as \['nnm'\]"),
    (lambda: craft("ipm", benign=ROWS[:0], n_malicious=2), "ipm asks for benign, which is not given"),
    (
        lambda: craft("ipm", benign=ROWS[0], n_malicious=2),
        r"benign must be a floating-point matrix \[n, d\], not \(6,\)",
    ),
    (
        lambda: craft("ipm", benign=[ROWS[0], ROWS[1][:2]], n_malicious=2),
        "benign must be numbers, in rows of one length",
    ),
    (lambda: craft("ipm", benign=[[1.0], [1.0, 2.0]], n_malicious=2), "benign must be numbers, in rows of one length"),
    (lambda: craft("ipm", benign=["a"], n_malicious=2), "benign must be"),
    (lambda: craft("ipm", benign=ROWS, n_malicious=0), "n_malicious must be at least 1, it is 0"),
    (lambda: craft("alie", benign=ROWS, n_malicious=2, n=1), "n = 1 clients are fewer than n_malicious = 2"),
    (lambda: craft("ipm", benign=ROWS, n_malicious=2, params=ROWS[0][:3]), "benign must have 3 columns, as many as"),
    (
        lambda: craft("model_replacement", own=ROWS[:2], n=10, n_malicious=2, server_lr=0.0),
        r"server_lr must be more than 0, it is 0\.0",
    ),
]


@pytest.mark.parametrize(("call", "sentence"), REFUSED)
def test_what_cannot_be_taken_is_refused_with_a_sentence(call: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()


def test_what_annotations_forbid_is_refused_with_a_sentence_too() -> None:
    """In a process of its own: here annotations are checked before a function begins."""
    code = """
import torch, fedpoison
rows = torch.ones(5, 4)
for call in (
    lambda: fedpoison.aggregate("median", rows, f=2.0),
    lambda: fedpoison.aggregate("median", {0: rows[0]}),
    lambda: fedpoison.aggregate("median", 3),
    lambda: fedpoison.aggregate("median", None),
    lambda: fedpoison.craft("ipm", benign=rows, n_malicious="2"),
    lambda: fedpoison.craft("ipm", benign=rows, n_malicious=2, server_lr=None),
    lambda: fedpoison.aggregate("median", rows, state=[1]),
    lambda: fedpoison.aggregate("median", rows, options=3),
    lambda: fedpoison.aggregate("median", rows, layers=rows),
    lambda: fedpoison.aggregate("median", rows, layers=[[1.0]]),
    lambda: fedpoison.aggregate("median", rows, seed=None),
):
    try:
        print(call())
    except ValueError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "f must be a whole number, it is 2.0",
        "updates must be numbers, in rows of one length; dict is not",
        "updates must be a floating-point matrix [n, d], not () torch.int64",
        "updates must be numbers, in rows of one length; NoneType is not",
        "n_malicious must be a whole number, it is '2'",
        "server_lr must be more than 0, it is None",
        "state must be a table by name, not list",
        "options must be a table by name, not int",
        "layers must be a sequence of Layer, not Tensor",
        "layers must be a sequence of Layer, not list",
        "seed must be a whole number, it is None",
    ]


def test_options_have_a_place_of_their_own() -> None:
    @aggregator()
    def shifted(updates: Updates, *, seed: int = 0, round: float = 0.0, step: float = 0.0) -> Update:
        """The mean, moved by options that have the names of other things."""
        return updates.mean(dim=0) + seed + round + step

    @update_attack()
    def lengthy(benign: Updates, n_malicious: int, *, n: int = 1) -> Updates:
        """The mean, n times."""
        return n * benign.mean(dim=0).repeat(n_malicious, 1)

    mean = ROWS.mean(dim=0)
    torch.testing.assert_close(aggregate(shifted, ROWS, seed=3).update, mean)
    torch.testing.assert_close(aggregate(shifted, ROWS, options={"seed": 3, "round": 0.5}, step=1.0).update, mean + 4.5)
    torch.testing.assert_close(craft(lengthy, benign=ROWS, n_malicious=1, n=12), mean.unsqueeze(0))
    torch.testing.assert_close(craft(lengthy, benign=ROWS, n_malicious=1, options={"n": 2}), 2 * mean.unsqueeze(0))
