"""What a power cut, a slip or a full disk leaves of a run: the same bits, or a sentence, and no other run is hidden."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import fedpoison
from fedpoison import cli
from fedpoison.common.errors import LEFT, ConfigError, RunError
from fedpoison.config.sweep import load
from fedpoison.runs import simulation
from fedpoison.runs.files import RunFiles, Tail
from fedpoison.runs.frame import Runs
from fedpoison.runs.records import RunFolder
from fedpoison.runs.running import Job
from fedpoison.runs.sealing import seal, sound_lines
from fedpoison.runs.watching import look

DAMAGE = run_path(str(Path(__file__).parents[2] / "scripts" / "damage"))
TABLE: dict[str, Any] = {
    "name": "d",
    "rounds": 4,
    "data": "digits",
    "model": "logistic",
    "clients": {"count": 4, "local": {"steps": 1}},
    "sweep": {"defence.aggregator.name": ["mean", "median", "krum"]},
    "workers": 1,
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three finished runs."""
    out = tmp_path_factory.mktemp("kept")
    assert not Job(load(TABLE), out).start()
    return out


@pytest.fixture
def out(kept: Path, tmp_path: Path) -> Path:
    """A copy of them to be damaged."""
    return shutil.copytree(kept, tmp_path / "out")


def runs(out: Path) -> list[Path]:
    """The runs of the mean, the median and krum."""
    job = Job(load(TABLE), out)
    return [job.folder(config).path for config in job.configs]


def outcomes(out: Path) -> list[Any]:
    return [DAMAGE["outcome"](RunFiles(path)) for path in runs(out)]


# Every file in every way


def test_what_is_damaged_is_made_again_or_named(tmp_path: Path) -> None:
    counts, wrong = DAMAGE["damage"](tmp_path, every=59)
    assert not wrong
    assert sum(count for said, count in counts.items() if said.startswith("running")) > 6
    assert counts["reading: left out, with a sentence"] > 2


@pytest.mark.exhaustive
def test_whatever_is_damaged_is_made_again_or_named(tmp_path: Path) -> None:
    counts, wrong = DAMAGE["damage"](tmp_path)
    assert not wrong
    assert sum(count for said, count in counts.items() if said.startswith("running")) > 400


def flip(path: Path, at: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("place", ["checkpoint", "rounds", "metadata"])
def test_a_flipped_bit_of_a_cut_run_changes_no_result(place: str, tmp_path: Path, kept: Path) -> None:
    def interrupt(number: int, record: Mapping[str, Any]) -> None:
        if record["round"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Job(load(TABLE), tmp_path).start(interrupt)
    run, *_ = runs(tmp_path)
    checkpoint = run / "checkpoint.safetensors"
    if place == "rounds":
        flip(run / "rounds.jsonl", 40)
    else:
        flip(checkpoint, -1 if place == "checkpoint" else checkpoint.read_bytes().index(b"round") + 9)
    assert not Job(load(TABLE), tmp_path).start()
    assert outcomes(tmp_path) == outcomes(kept)
    (event,) = (event for event in RunFiles(run).records()[0]["events"] if event["what"] == "damaged")
    assert event["detail"].startswith(str(run / ("rounds.jsonl" if place == "rounds" else checkpoint.name)))
    assert event["detail"].endswith("; the run was made again from its start")


# A power cut (zeros behind the log, an empty checkpoint, an empty environment.json)


def test_after_a_power_cut_all_goes_on(
    out: Path, kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, third = runs(out)
    with (first / "rounds.jsonl").open("ab") as log:
        log.write(bytes(6) + b"\n")
    (second / "environment.json").write_bytes(b"")
    (third / "run.json").write_bytes(b"")
    assert cli.main(["table", str(out), "--rows", "rule"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "median" in told
    assert "note: 2 runs are damaged and left out" in told
    assert f"{first / 'rounds.jsonl'} is not what was written" in told
    assert f"{third / 'run.json'} is empty" in told
    for command in (["show", out], ["show", out, "--json"], ["plot", out, "--out", tmp_path / "a.png"]):
        assert cli.main([str(word) for word in command]) == 0
        said = capsys.readouterr()
        assert "2 runs are damaged and left out" in " ".join((said.out + said.err).split())
    with pytest.warns(UserWarning, match="2 runs are damaged and left out"):
        assert len(fedpoison.load(out)) == 1
    assert cli.main(["watch", str(out / "d"), "--once"]) == 0
    assert "d: 1 finished, 0 running, 0 waiting, 0 failed, 2 damaged;" in capsys.readouterr().out
    assert not Job(load(TABLE), out).start()
    assert outcomes(out) == outcomes(kept)
    assert len(Runs.read([out])) == 3


def test_where_all_runs_are_damaged_that_is_the_error(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in runs(out):
        (path / "config.toml").write_bytes(b"")
    for command in ("table", "show", "plot"):
        assert cli.main([command, str(out)]) == 2
        assert capsys.readouterr().err.startswith("fedpoison: 3 runs are damaged and left out (/")


def test_a_plan_that_is_damaged_hides_no_other(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(out / "d", out / "e")
    for damaged in (b"", b"{}", b"[1]", b'{"started": 1.0, "runs": [{}]}'):
        (out / "e" / "plan.json").write_bytes(damaged)
        assert cli.main(["watch", str(out / "e"), str(out / "d"), "--once"]) == 0
        said = capsys.readouterr()
        assert "d: 3 finished" in said.out
        assert f"fedpoison: {out / 'e'} has no readable plan.json" in said.err
    assert cli.main(["watch", str(out / "e"), "--once"]) == 2
    shutil.copy(out / "d" / "plan.json", out / "e" / "plan.json")
    for run in runs(out):
        shutil.rmtree(out / "e" / run.name)
    assert cli.main(["watch", str(out / "e"), str(out / "d"), "--once"]) == 0  # of which one has not begun


def test_a_description_is_written_again_without_the_run(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *_ = runs(out)
    before = (first / "config.toml").read_bytes(), (first / "sums.json").read_bytes()
    flip(first / "config.toml", 8)
    monkeypatch.setattr("fedpoison.runs.simulation.play", None)
    assert not Job(load(TABLE), out).start()
    assert ((first / "config.toml").read_bytes(), (first / "sums.json").read_bytes()) == before


def test_a_folder_where_a_file_belongs_fails_that_run_alone(out: Path) -> None:
    first, *others = runs(out)
    for path in (first, *others):
        (path / "model.safetensors").unlink()
    (first / "rounds.jsonl").unlink()
    (first / "rounds.jsonl").mkdir()
    with pytest.raises(RunError) as caught:
        fedpoison.run(TABLE, out=out)
    assert caught.value.failures == {first: f"{first / 'rounds.jsonl'} is a folder where a file belongs: delete it"}
    assert all(RunFiles(path).finished for path in others)


# Runs of older versions, without checksums


def old(path: Path) -> None:
    """Take away what older versions did not write."""
    records = RunFiles(path).records()
    (path / "rounds.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (path / "sums.json").unlink()


def test_runs_of_older_versions_are_recognised(out: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in runs(out):
        old(path)
    monkeypatch.setattr("fedpoison.runs.simulation.play", None)
    assert not Job(load(TABLE), out).start()
    assert len(Runs.read([out])) == 3
    assert outcomes(out) == outcomes(kept)


def test_a_cut_run_of_an_older_version_is_taken_up(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(number: int, record: Mapping[str, Any]) -> None:
        if record["round"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Job(load(TABLE), tmp_path).start(interrupt)
    run, *_ = runs(tmp_path)
    old(run)
    checkpoint = run / "checkpoint.safetensors"
    save_file(load_file(checkpoint), checkpoint, metadata={"round": "3"})
    played, play = [], simulation.play
    monkeypatch.setattr(simulation, "play", lambda *given: played.append(1) or play(*given))
    job = Job(load({**TABLE, "sweep": {}}), tmp_path)
    assert job.folder(job.configs[0]).path == run
    assert not job.start()
    assert len(played) == 1
    assert DAMAGE["outcome"](RunFiles(run)) == outcomes(kept)[0]


LINES: dict[str, Callable[[list[str]], list[str]]] = {
    "a line twice": lambda lines: [*lines[:2], *lines[1:]],
    "a line twice, the end cut": lambda lines: [*lines[:2], *lines[1:-1]],
    "a line out": lambda lines: [lines[0], *lines[2:]],
    "the end cut": lambda lines: lines[:-1],
    "a key garbled": lambda lines: [lines[0].replace('"seconds"', '"sec0nds"'), *lines[1:]],
}


@pytest.mark.parametrize("change", LINES.values(), ids=LINES)
@pytest.mark.parametrize("older", [True, False], ids=["older", "sealed"])
def test_a_log_that_is_no_row_of_rounds_is_damaged(
    older: bool, change: Callable[[list[str]], list[str]], out: Path, kept: Path
) -> None:
    first, *_ = runs(out)
    if older:
        old(first)
    lines = (first / "rounds.jsonl").read_text().splitlines(keepends=True)
    (first / "rounds.jsonl").write_text("".join(change(lines)))
    found = Runs.read([out])
    assert len(found) == 2
    assert str(first / "rounds.jsonl") in found.left_out[0]
    assert not Job(load(TABLE), out).start()
    assert outcomes(out) == outcomes(kept)


@pytest.mark.parametrize("content", [b"", b"{", b"\0" * 500])
@pytest.mark.parametrize("older", [True, False], ids=["older", "sealed"])
def test_a_model_that_is_none_is_not_finished(older: bool, content: bytes, out: Path, kept: Path) -> None:
    first, *_ = runs(out)
    if older:
        old(first)
    (first / "model.safetensors").write_bytes(content)
    assert not RunFiles(first).finished
    assert not Job(load(TABLE), out).start()
    assert outcomes(out) == outcomes(kept)


def test_another_model_is_not_the_runs(out: Path, kept: Path) -> None:
    """Whole, of the right length, and not what was written: only a checksum knows."""
    first, *_ = runs(out)
    model = first / "model.safetensors"
    save_file({"params": load_file(model)["params"] + 1}, model)
    assert not Job(load(TABLE), out).start()
    assert outcomes(out) == outcomes(kept)


# The lines themselves


def test_a_line_vouches_for_those_before_it() -> None:
    check, log = "", b""
    for number in (1, 2, 3):
        line, check = seal({"round": number, "said": ', "check": "'}, check)
        log += line
    assert [line.record for line in sound_lines(log)] == [{"round": n, "said": ', "check": "'} for n in (1, 2, 3)]
    assert [line.end for line in sound_lines(log)][-1] == len(log)
    ends = [0, *(line.end for line in sound_lines(log))]
    for at in range(len(log)):
        damaged = log[:at] + bytes([log[at] ^ 1]) + log[at + 1 :]
        intact = sum(end <= at for end in ends[1:])
        left = [line.record["round"] for line in sound_lines(damaged)]
        assert left[:intact] == [*range(1, intact + 1)]
        assert len(left) <= max(intact, 1)  # the very first may pass for one of an older version, and vouches for none
    assert list(sound_lines(log[ends[1] :])) == []
    assert len(list(sound_lines(log[ends[1] :], 1, next(sound_lines(log)).check))) == 2


def test_a_tail_reads_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path)
    tail, read = Tail(run), Counter[str]()
    assert tail.new() == []
    run.begin_with([{"round": 1}, {"round": 2}])
    assert [record["round"] for record in tail.new()] == [1, 2]
    log = (tmp_path / "rounds.jsonl").read_bytes()
    line, _ = seal({"round": 3}, [*sound_lines(log)][-1].check)
    with (tmp_path / "rounds.jsonl").open("ab") as file:
        file.write(line[:9])
        file.flush()
        assert tail.new() == []
        file.write(line[9:])
    monkeypatch.setattr(
        "fedpoison.runs.files.sound_lines", lambda *given: read.update(bytes=len(given[0])) or sound_lines(*given)
    )
    assert [record["round"] for record in tail.new()] == [3]
    assert tail.new() == []
    assert read["bytes"] == len(line)
    run.begin_with([{"round": 1}])  # it was cut back, and its rounds are played again
    assert tail.new() == []
    run.begin_with([{"round": number} for number in (1, 2, 3, 4)])
    assert [record["round"] for record in tail.new()] == [4]


# What is on the disk, and when


def test_what_is_named_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, str]] = []
    replace = os.replace

    def synced(path: Path) -> None:
        done.append(("sync", path.name if path.is_file() else "folder"))

    def named(before: Path, after: Path) -> None:
        done.append(("name", Path(after).name))
        assert ("sync", Path(before).name) in done
        replace(before, after)

    for place in ("files", "records"):
        monkeypatch.setattr(f"fedpoison.runs.{place}.sync", synced)
    monkeypatch.setattr(os, "replace", named)
    table = {**TABLE, "sweep": {}, "rounds": 2}
    assert not Job(load(table), tmp_path).start()
    names = [name for what, name in done if what == "name"]
    assert names[-3:] == ["checkpoint.safetensors", "sums.json", "model.safetensors"]
    checkpoint = done.index(("name", "checkpoint.safetensors"))
    assert ("sync", "rounds.jsonl") in done[:checkpoint]
    for number, (what, name) in enumerate(done):
        if what == "name":
            rest = done[number:]
            assert ("sync", "folder") in rest, f"the name of {name}"
    last = len(done) - 1 - done[::-1].index(("sync", "rounds.jsonl"))
    assert last < done.index(("name", "model.safetensors"))


# Tables of runs that are not finished


def cut(path: Path, rounds: int) -> None:
    (path / "model.safetensors").unlink()
    lines = (path / "rounds.jsonl").read_bytes().splitlines(keepends=True)
    (path / "rounds.jsonl").write_bytes(b"".join(lines[:rounds]))


def test_tables_leave_out_what_is_not_finished(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, third = runs(out)
    cut(first, 3)
    assert cli.main(["table", str(out), "--rows", "rule", "--metric", "accuracy"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "note: 1 of 3 runs is not finished and left out (round 3 of 4)" in told
    assert "│ mean │" not in told
    assert cli.main(["table", str(out), "--rows", "rule", "--metric", "accuracy", "--at", "3"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "note: 1 of 3 runs is not finished (round 3 of 4)" in told
    accuracy = RunFiles(first).records()[2]["accuracy"]
    assert f"│ mean │ {accuracy:.3f} │" in told
    with pytest.warns(UserWarning, match="1 of 3 runs is not finished"):
        Runs.read([out]).frame()
    for path in (second, third):
        cut(path, 2)
    assert cli.main(["table", str(out)]) == 2
    assert "none of these runs is finished (round 3 of 4, round 2 of 4); --at 1 shows" in capsys.readouterr().err


# Two at one sweep


def test_what_another_process_is_at_is_left_to_it(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, _ = runs(out)
    for path in (first, second):
        cut(path, 2)
    (first / "error.txt").write_text("of another time")
    with RunFolder(first).locked(), pytest.raises(RunError) as caught:
        fedpoison.run(TABLE, out=out)
    assert caught.value.failures == {first: LEFT}
    assert caught.value.sentences() == [f"{first}: {LEFT}"]
    assert RunFiles(second).finished


def test_what_another_process_has_finished_meanwhile_is_taken(out: Path) -> None:
    first, second, _ = runs(out)
    saved = shutil.copytree(first, out.parent / "saved")
    for path in (first, second):
        cut(path, 2)
    seen: list[tuple[int, int]] = []

    def other(number: int, record: Mapping[str, Any]) -> None:
        seen.append((number, record["round"]))
        if (number, record["round"]) == (1, 3):  # the first one's process ends while the second is made
            lock.__exit__(None, None, None)
            shutil.copytree(saved, first, dirs_exist_ok=True)

    lock = RunFolder(first).locked()
    lock.__enter__()
    assert Job(load(TABLE), out).start(other) == {}
    assert [record for number, record in seen if number == 0] == [1, 2, 3, 4]


def test_a_configuration_of_other_bytes_is_named(out: Path) -> None:
    _, second, _ = runs(out)
    (second / "config.toml").write_bytes(b"\xff\xfe")
    assert [run.state for run in look(out / "d").runs] == ["finished", "damaged", "finished"]
    with pytest.raises(ConfigError, match=r"1 run is damaged and left out \(/.*config\.toml is not what was written\)"):
        Runs.read([second])
