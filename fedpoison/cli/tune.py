"""`fedpoison tune`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from fedpoison.cli import app, output, say

if TYPE_CHECKING:
    from fedpoison.runs.running import Job


@app.command
def tune(
    experiment: Path,
    /,
    *,
    set: Annotated[list[str] | None, Parameter(name=["--set", "-s"], negative=())] = None,
    only: Annotated[list[str] | None, Parameter(negative=())] = None,
    metric: str | None = None,
    out: Path = Path("results"),
    jobs: int = 1,
) -> None:
    """Tune every rule with the same budget, on validation data and other seeds; then run the experiment so.

    The TOML's [tune] table has the budget, the seeds and the options. The last and the best checkpoint (by the same
    metric of validation) are both reported, and the chosen settings written to tuned.toml beside the runs.

    Examples:

    fedpoison tune experiments/tuning.toml

    fedpoison tune experiments/tuning.toml --jobs 2 --set tune.budget=3

    fedpoison tune experiments/tuning.toml --metric balanced_accuracy

    Parameters
    ----------
    experiment
        The TOML file.
    set
        key=value, as for `fedpoison run`.
    only
        Cells, as for `fedpoison run`.
    metric
        By which settings are chosen, on validation data: accuracy, loss, balanced_accuracy, or for two classes auc,
        average_precision, rare_recall (of the rarer class), rare_f1. As tune.metric says unless given.
    out
        The folder for results.
    jobs
        How many runs at once.
    """
    from rich.table import Table

    from fedpoison.common.errors import ConfigError
    from fedpoison.config.choice import parse_assignment
    from fedpoison.report.pivot import pivot
    from fedpoison.report.progress import Progress
    from fedpoison.report.remarks import remarks
    from fedpoison.runs.running import Job
    from fedpoison.runs.tuning import load_tuning

    if not 1 <= jobs <= 1000:
        raise ConfigError([f"--jobs must be from 1 to 1000, it is {jobs}"])
    console = output()
    overrides = dict(map(parse_assignment, set or [])) | ({"tune.metric": metric} if metric else {})
    tuning = load_tuning(experiment, overrides, only or ())
    metric = tuning.tune.metric
    trials = Job(tuning.trials(), out)
    notes = trials.check()
    tuning.check()
    counts = ", ".join(f"{rule} {len(settings)}" for rule, settings in tuning.settings.items())
    console.print(
        f"{tuning.experiment.name}: {len(trials.configs)} runs to tune with, on seeds {tuning.tune.seeds}; settings a "
        f"rule: {counts} (budget {tuning.tune.budget})",
        markup=False,
        soft_wrap=True,
    )
    say(notes, console)

    def start(job: "Job") -> Mapping[Path, str]:
        with Progress(console, job.configs, job.names) as progress:
            return job.start(progress.watch, jobs)

    tuned = tuning.play(out, start)
    made = Table(title=f"chosen by {tuning.tune.validated.replace('_', ' ')}", title_justify="left")
    for head in ("rule", "setting", "tried", "validation"):
        made.add_column(head)
    for one in tuned.tried:
        setting, score = one.best
        made.add_row(one.rule, _listed(setting), str(len(one.scores)), "–" if score is None else f"{score:.3f}")
    console.print(made)
    shown, best = ((), "best") if metric == "accuracy" else ((metric,), f"best_{metric}")
    for at in ("last", best):
        results = pivot(tuned.runs, ["rule"], ["attack"], shown, at=at, tuned=True)
        console.print(results.note, soft_wrap=True)
        console.print(*results.render("text", width=console.width), sep="\n")
    say(remarks(tuned.runs), console)
    print(f"the settings are in {tuned.file}")


def _listed(setting: Any) -> str:
    return ", ".join(f"{key.removeprefix('defence.aggregator.')} = {value}" for key, value in setting.items())
