"""Frames, tables and figures: what is one line, what shares a panel, and whether it can be read."""

import colorsys
import warnings
from collections.abc import Iterator
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import polars as pl
import pytest
from making import put_records
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

import fedpoison
from fedpoison.common.errors import ConfigError, RunError
from fedpoison.common.schedule import Schedule
from fedpoison.report.figures import draw, plot
from fedpoison.report.grouping import grouped
from fedpoison.report.timing import timing
from fedpoison.runs.frame import Runs

RULES = [
    "mean",
    "centered_clipping",
    "geometric_median",
    "krum",
    "median",
    "multi_krum",
    "trimmed_mean",
    "nnm+median",
]
STYLE = str(files("fedpoison.report") / "paper.mplstyle")


def made(out: Path, **changes: Any) -> Runs:
    base = {
        "name": "t",
        "rounds": 2,
        "data": {"name": "digits"},
        "model": "logistic",
        "clients": {"count": 8, "local": {"steps": 2, "batch_size": 16, "lr": 0.5}},
        "workers": 1,
    }
    return fedpoison.run({**base, **changes}, out=out)


FLIP = {"name": "label_flip", "source": 5, "target": 7}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Rules and attacks that share names and differ in options, two seeds, paired with clean runs."""
    return made(
        tmp_path_factory.mktemp("swept"),
        seeds=[0, 1],
        paired_clean=True,
        defence={"f": 2},
        sweep={
            "defence.aggregator": [
                {"name": "centered_clipping", "tau": 0.1},
                {"name": "centered_clipping", "tau": 0.3},
                "mean",
            ],
            "threat": [
                {"malicious": 2, "data": FLIP, "update": {"name": "ipm", "epsilon": 0.5}},
                {"malicious": 2, "data": FLIP, "update": {"name": "ipm", "epsilon": 2.0}, "schedule": {"start": 2}},
            ],
        },
    )


def test_a_profile_says_where_the_rounds_time_went(tmp_path: Path) -> None:
    runs = made(tmp_path, seeds=[0, 1], sweep={"defence.aggregator": ["mean", "median"]})
    for folder in runs.folders:
        slow = "median" in (folder.path / "config.toml").read_text()
        records = folder.records()
        for record in records:
            record["seconds"] = {"train": 0.006, "attack": 0.0, "defence": 0.014 if slow else 0.002, "evaluate": 0.0}
        put_records(folder.path, records)
    table = timing(runs)
    assert [column.header for column in table.columns][1:] == [
        "train",
        "attack",
        "defence",
        "evaluate",
        "all",
        "rounds",
    ]
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    assert rows == [
        ("mean", "6.0   75%", "0.0    0%", "2.0   25%", "0.0    0%", "8.0", "4"),
        ("median", "6.0   30%", "0.0    0%", "14.0   70%", "0.0    0%", "20.0", "4"),
    ]


# Which runs make one line


def test_names_are_enough_where_runs_of_one_name_are_alike(tmp_path: Path) -> None:
    runs = made(
        tmp_path,
        threat={"malicious": 2, "update": "ipm"},
        sweep={"defence.aggregator": ["median", {"name": "centered_clipping", "tau": 0.3}, "mean"]},
    )
    frame = grouped(runs)
    assert frame["line"].unique(maintain_order=True).to_list() == ["mean", "centered_clipping", "median"]
    assert frame["panel"].unique().to_list() == ["ipm"]


def test_options_in_which_runs_differ_are_spelled_out(swept: Runs) -> None:
    frame = grouped(swept)
    lines, panels = (frame[c].unique(maintain_order=True).to_list() for c in ("line", "panel"))
    assert lines == ["mean", "centered_clipping tau=0.1", "centered_clipping tau=0.3"]
    assert [panel.split()[0] for panel in panels] == ["label_flip+ipm"] * 2
    assert [" epsilon=0.5" in panel for panel in panels] == [True, False]
    assert [" epsilon=2.0" in panel for panel in panels] == [False, True]
    assert [" start=2" in panel for panel in panels] == [False, True]


def test_a_rule_s_own_f_is_told_from_what_the_defence_is_told(tmp_path: Path) -> None:
    rules = [{"name": "trimmed_mean", "f": f} for f in (1, 2)]
    frame = grouped(
        made(tmp_path, rounds=1, sweep={"defence.aggregator": [*rules, "trimmed_mean"], "defence.f": [2, 3]})
    )
    assert frame["line"].to_list() == [
        "trimmed_mean defence.f=2",
        "trimmed_mean defence.f=2 aggregator.f=1",
        "trimmed_mean defence.f=2 aggregator.f=2",
        "trimmed_mean defence.f=3",
        "trimmed_mean defence.f=3 aggregator.f=1",
        "trimmed_mean defence.f=3 aggregator.f=2",
    ]
    alone = grouped(made(tmp_path / "alone", rounds=1, sweep={"defence.aggregator": rules}))
    assert alone["line"].to_list() == ["trimmed_mean f=1", "trimmed_mean f=2"]


def test_a_panels_line_is_one_run_a_seed(swept: Runs) -> None:
    together = grouped(swept).group_by("panel", "line").agg(pl.col("run").n_unique(), pl.col("seed").n_unique())
    assert len(together) == 6
    assert set(together["run"]) == set(together["seed"]) == {2}


@pytest.mark.parametrize(
    ("key", "values", "where"),
    [
        ("clients.local.lr", [0.1, 0.5], "panel"),
        ("data.partition", ["iid", {"name": "dirichlet", "alpha": 1.0}], "panel"),
        ("rounds", [1, 2], "panel"),
        ("threat.malicious", [1, 2], "panel"),
        ("threat.schedule.every", [1, 2], "panel"),
        ("engine", ["batched", "sequential"], "panel"),
        ("defence.f", [1, 2], "line"),
        ("defence.aggregator.weighting", ["uniform", "sizes"], "line"),
    ],
)
def test_runs_that_differ_are_never_thrown_together(key: str, values: list[Any], where: str, tmp_path: Path) -> None:
    defence = {"f": 1, "aggregator": "mean"}
    threat = {"malicious": 1, "update": "ipm"}
    runs = made(tmp_path, rounds=1, threat=threat, defence=defence, sweep={key: values})
    frame = grouped(runs)
    assert frame[where].n_unique() == 2
    assert frame.group_by("panel", "line").agg(pl.col("run").n_unique())["run"].to_list() == [1, 1]


def test_clean_runs_are_left_out_unless_there_is_nothing_else(swept: Runs, tmp_path: Path) -> None:
    assert "none" not in set(grouped(swept)["attack"])
    clean = grouped(made(tmp_path))
    assert clean["panel"].unique().to_list() == ["none"]
    assert len(clean) == 2


def test_runs_below_a_folder_are_found_once(swept: Runs) -> None:
    folder = swept.folders[0].path
    assert len(Runs.read([folder.parent.parent]).folders) == 12 + 6
    assert len(Runs.read([folder.parent, folder, str(folder)]).folders) == 12 + 6
    assert Runs.read([folder]).folders[0].path == folder


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match=f"there is no run in {path}"):
            Runs.read([path])


def test_one_runs_frame_has_no_column_for_what_cannot_differ(swept: Runs) -> None:
    frame = Runs.read([swept.folders[0].path]).frame()
    assert not [column for column in frame.columns if "." in column]


def test_schedules_are_those_of_attacked_runs(swept: Runs) -> None:
    schedules = swept.schedules()
    assert len(schedules) == 12
    for run, panel in grouped(swept).select("run", "panel").unique().rows():
        assert schedules[run] == Schedule(start=2 if "epsilon=2.0" in panel else 1)


def test_runs_without_a_round_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "rule.py").write_text(
        "from fedpoison import aggregator\nfrom fedpoison.types import Update, Updates\n\n\n"
        '@aggregator()\ndef mine(updates: Updates) -> Update:\n    """Fail."""\n    raise ArithmeticError\n'
    )
    with pytest.raises(RunError):
        made(tmp_path / "out", seeds=[0, 1], defence={"aggregator": f"{tmp_path}/rule.py:mine"})
    runs = Runs.read([tmp_path / "out"])
    assert len(runs.frame()) == 0
    with pytest.raises(ConfigError, match="round"):
        plot(runs, tmp_path / "figure.png")


def test_a_swept_number_is_a_number(swept: Runs) -> None:
    frame = swept.rows()
    kinds = {key: frame.schema[key] for key in ("defence.aggregator.tau", "threat.update.epsilon")}
    assert set(kinds.values()) == {pl.Float64}
    assert frame.schema["threat.schedule.start"] == pl.Int64
    assert frame.schema["defence.aggregator.name"] == pl.String
    assert set(frame["defence.aggregator.tau"]) == {0.1, 0.3, None}


# Figures, of runs


@pytest.mark.parametrize(("name", "magic"), [("a.png", b"\x89PNG"), ("sub/folder/a.pdf", b"%PDF"), ("a.svg", b"<?xml")])
def test_plot_writes_png_pdf_and_svg(name: str, magic: bytes, swept: Runs, tmp_path: Path) -> None:
    before = plt.get_fignums()
    assert plot(swept, tmp_path / name) == tmp_path / name
    content = (tmp_path / name).read_bytes()
    assert content.startswith(magic)
    assert plt.get_fignums() == before
    if name.endswith("svg"):
        for text in ("accuracy", "attack success", "round", "centered_clipping tau=0.1", "mean, no attack"):
            assert f">{text}<" in content.decode()


def test_plot_refuses_an_unknown_metric_with_the_known_ones(swept: Runs, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        plot(swept, tmp_path / "a.png", ["accuracy", "acuracy", "los"])
    assert len(caught.value.problems) == 2
    assert (
        "there is no metric 'acuracy'; did you mean 'accuracy'? there are accuracy, attack_success, loss"
        in caught.value.problems[0]
    )


@pytest.mark.parametrize("name", ["a.gif", "a", "a.PNG.txt"])
def test_plot_refuses_an_unknown_format_with_the_known_ones(name: str, swept: Runs, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"figures are saved as .png, .pdf, .svg, not '{name}'"):
        plot(swept, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_plot_refuses_what_was_not_measured(swept: Runs, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        plot(swept, tmp_path / "a.png", ["asr", "accuracy", "detection_f1"])
    assert caught.value.problems == ["these runs have no asr", "these runs have no detection_f1"]


@pytest.mark.parametrize("rounds", [1, 2])
def test_plot_of_a_short_run_does_not_complain(rounds: int, tmp_path: Path) -> None:
    runs = made(tmp_path, rounds=rounds, threat={"malicious": 2, "update": "ipm"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot(runs, tmp_path / "a.png")


def test_plot_takes_any_metric_that_was_measured(swept: Runs, tmp_path: Path) -> None:
    measured = ["kappa", "damage"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert plot(swept, tmp_path / "a.png", measured).is_file()


# Figures, of numbers


def frame(
    panels: list[str], lines: list[str], seeds: int = 2, rounds: int = 5, clean: float | None = 0.9
) -> pl.DataFrame:
    rows = [
        {
            "panel": panel,
            "line": line,
            "rule": line.split()[0],
            "run": f"{panel}/{line}/{seed}",
            "seed": seed,
            "round": number,
            "accuracy": 0.1 * number + 0.02 * seed + 0.01 * lines.index(line),
            "attack_success": 0.5,
            "loss": 1.0 / number,
            "clean_accuracy": clean,
            "clean_loss": None,
        }
        for panel in panels
        for line in lines
        for seed in range(seeds)
        for number in range(1, rounds + 1)
    ]
    return pl.DataFrame(rows, schema_overrides=dict.fromkeys(("clean_accuracy", "clean_loss"), pl.Float64))


@pytest.fixture
def style() -> Iterator[None]:
    with plt.style.context(STYLE):
        yield
    plt.close("all")


def lines_of(figure: Figure, axis: int = 0) -> dict[str, Line2D]:
    return {str(line.get_label()): line for line in figure.axes[axis].get_lines()}


def legend_of(figure: Figure) -> list[str]:
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def test_a_line_is_a_rules_mean_over_seeds(style: None) -> None:
    figure = draw(frame(["ipm"], ["mean", "krum"], seeds=3), ["accuracy"], {})
    drawn = lines_of(figure)
    assert list(drawn) == ["mean", "krum", "mean, no attack"]
    assert list(drawn["krum"].get_xdata()) == [1, 2, 3, 4, 5]
    assert list(drawn["krum"].get_ydata()) == pytest.approx([0.13, 0.23, 0.33, 0.43, 0.53])
    assert list(drawn["mean, no attack"].get_ydata()) == pytest.approx([0.9] * 5)


def test_a_band_goes_from_the_lowest_to_the_highest_seed(style: None) -> None:
    figure = draw(frame(["ipm"], ["krum"], seeds=3), ["accuracy"], {})
    (band,) = figure.axes[0].collections
    corners = band.get_paths()[0].vertices
    for number in (1, 2, 3, 4, 5):
        heights = sorted({round(y, 9) for x, y in corners if x == number})
        assert heights == pytest.approx([0.1 * number, 0.1 * number + 0.04])
    assert not draw(frame(["ipm"], ["krum"], seeds=1), ["accuracy"], {}).axes[0].collections


def test_rounds_without_a_measurement_are_left_out(style: None) -> None:
    given = frame(["ipm"], ["krum"]).with_columns(
        accuracy=pl.when(pl.col("round") % 2 == 0).then(pl.col("accuracy")),
        clean_accuracy=pl.lit(None, dtype=pl.Float64),
    )
    figure = draw(given, ["accuracy"], {})
    assert list(lines_of(figure)["krum"].get_xdata()) == [2, 4]


def spans(figure: Figure, axis: int = 0) -> list[tuple[float, float]]:
    ax = figure.axes[axis]
    boxes = [patch.get_window_extent().transformed(ax.transData.inverted()) for patch in ax.patches]
    return sorted((round(box.x0, 6), round(box.x1, 6)) for box in boxes)


def test_the_attacks_span_is_shaded_where_the_schedule_says(style: None) -> None:
    given = frame(["a", "b", "c"], ["mean"], rounds=8)
    schedules = {
        "a/mean/0": Schedule(start=3, end=6),
        "a/mean/1": Schedule(start=3, end=6),
        "b/mean/0": Schedule(start=4),
    }
    figure = draw(given, ["accuracy", "loss"], schedules)
    figure.canvas.draw()
    for row in (0, 3):
        assert spans(figure, row) == [(2.5, 6.5)]
        assert spans(figure, row + 1) == [(3.5, 8.5)]
        assert spans(figure, row + 2) == []


def test_axes_are_labelled_once_a_row_and_a_column(style: None) -> None:
    figure = draw(frame(["a", "b"], ["mean"]), ["accuracy", "attack_success", "loss"], {})
    assert len(figure.axes) == 6
    assert [ax.get_ylabel() for ax in figure.axes] == ["accuracy", "", "attack success", "", "loss", ""]
    assert [ax.get_xlabel() for ax in figure.axes] == [""] * 4 + ["round", "round"]
    titles = [ax.get_title(loc="left") or ax.get_title() for ax in figure.axes]
    assert titles == ["a", "b", "", "", "", ""]
    for ax in figure.axes:
        assert all(float(tick).is_integer() for tick in ax.get_xticks())
        assert (ax.get_xlim()[0], ax.get_xlim()[1]) == (1, 5)


def test_shares_share_a_scale_and_nothing_is_off_it(style: None) -> None:
    figure = draw(frame(["a", "b"], RULES), ["accuracy", "attack_success"], {})
    for ax in figure.axes[:2]:
        low, high = ax.get_ylim()
        values = [y for line in ax.get_lines() for y in line.get_ydata()]
        assert low <= min(values) <= max(values) <= high
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    assert figure.axes[2].get_ylim() == (-0.02, 1.02)


def test_the_legend_has_every_line_once(style: None) -> None:
    given = frame(["a", "b"], RULES)
    assert legend_of(draw(given, ["accuracy", "attack_success"], {})) == [*RULES, "mean, no attack"]
    assert legend_of(draw(given, ["attack_success"], {})) == RULES
    assert legend_of(draw(frame(["a"], ["krum"]), ["accuracy"], {})) == ["krum"]
    assert legend_of(draw(frame(["a"], ["mean"], clean=None), ["accuracy"], {})) == ["mean"]
    apart = pl.concat([frame(["a"], ["mean", "krum"]), frame(["b"], ["mean", "median"])])
    assert legend_of(draw(apart, ["loss"], {})) == ["mean", "krum", "median"]


def luminance(colour: Any) -> float:
    red, green, blue = to_rgb(colour)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def test_lines_can_be_told_apart_without_colour(style: None) -> None:
    drawn = [line for name, line in lines_of(draw(frame(["a"], RULES), ["loss"], {})).items()]
    assert len(drawn) == 8
    for one, other in combinations(drawn, 2):
        assert to_rgb(one.get_color()) != to_rgb(other.get_color())
        if one.get_linestyle() == other.get_linestyle():
            assert abs(luminance(one.get_color()) - luminance(other.get_color())) > 0.1
    hues = [colorsys.rgb_to_hsv(*to_rgb(line.get_color())) for line in drawn]
    assert len({tuple(round(part, 2) for part in hue) for hue in hues}) == 8


def test_no_two_of_many_lines_look_the_same(style: None) -> None:
    many = [f"rule{i:02}" for i in range(20)]
    drawn = lines_of(draw(frame(["a"], many), ["loss"], {}))
    looks = {(line.get_color(), line.get_linestyle(), line.get_linewidth()) for line in drawn.values()}
    assert len(looks) == 20


OPTIONS = [f"nnm+centered_clipping tau={tau} iterations=3" for tau in (0.1, 0.3, 1.0, 3.0)]
LONG = ["badnets+model_replacement malicious=4 start=6 alpha=0.3", "label_flip+sign_flip malicious=2 start=6 alpha=0.3"]


@pytest.mark.parametrize(
    ("panels", "lines"),
    [
        (["label_flip"], ["mean", "krum"]),
        (["label_flip"], RULES),
        (["label_flip", "badnets+model_replacement"], RULES),
        (["ipm epsilon=0.5", "ipm epsilon=2.0", "alie"], RULES),
        (["label_flip"], OPTIONS),
        (["label_flip", "badnets"], OPTIONS),
        (LONG[:1], RULES),
        (LONG, RULES),
        (["label_flip"], [f"krum m={i}" for i in range(16)]),
    ],
    ids=[
        "two rules",
        "all rules",
        "two panels",
        "three panels",
        "options",
        "options in two panels",
        "a long title",
        "long titles",
        "many rules",
    ],
)
def test_no_text_is_cut_off_or_overlaps(panels: list[str], lines: list[str], style: None) -> None:
    figure = draw(frame(panels, lines), ["accuracy", "attack_success"], {})
    figure.canvas.draw()
    width, height = figure.get_size_inches() * figure.dpi
    boxes = {
        (id(text), text.get_text()): text.get_window_extent()
        for text in figure.findobj(Text)
        if text.get_text() and text.get_visible()
    }
    cut = [
        text
        for (_, text), box in boxes.items()
        if box.x0 < -0.5 or box.y0 < -0.5 or box.x1 > width + 0.5 or box.y1 > height + 0.5
    ]
    assert not cut
    titles = [box for (_, text), box in boxes.items() if text.replace("\n", " ") in panels]
    assert len(titles) == len(panels)
    labels = [box for (_, text), box in boxes.items() if text in lines]
    assert len(labels) == len(lines)
    for one, other in combinations([*titles, *labels], 2):
        assert not one.overlaps(other)


@pytest.mark.parametrize(("panels", "shape"), [(1, (2, 1)), (6, (2, 6)), (7, (4, 4)), (12, (6, 4))])
def test_many_panels_are_wrapped_and_none_is_lost(panels: int, shape: tuple[int, int]) -> None:
    rows = [
        {"panel": f"p{p:02}", "line": "mean", "rule": "mean", "seed": 0, "run": "r", "round": r, "clean_accuracy": None}
        | {"accuracy": 0.5 + p / 100, "loss": float(p), "clean_loss": None}
        for p in range(panels)
        for r in (1, 2)
    ]
    frame = pl.DataFrame(rows, schema_overrides=dict.fromkeys(("clean_accuracy", "clean_loss"), pl.Float64))
    figure = draw(frame, ["accuracy", "loss"], {})
    axes = [ax for ax in figure.axes if ax.get_visible()]
    assert len(figure.axes) == shape[0] * shape[1]
    assert len(axes) == 2 * panels
    titled = {ax.get_title(loc="left") or ax.get_title() for ax in axes} - {""}
    assert titled == {f"p{p:02}" for p in range(panels)}
    for ax in axes:
        title = ax.get_title(loc="left") or ax.get_title()
        if title:
            assert ax.lines[0].get_ydata()[0] == pytest.approx(0.5 + int(title[1:]) / 100)
