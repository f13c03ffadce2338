"""Behind `flwr run experiments/flower_app`: an experiment of ours on whatever Flower federation there is."""

from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid
from rich.console import Console

from fedpoison.engines import grids
from fedpoison.engines.messages import client_app
from fedpoison.report.pivot import pivot
from fedpoison.runs.running import run
from fedpoison.runs.world import trainer

client = client_app(trainer)
"""The ClientApp: its node's partition, trained by the batched engine."""


def serve(grid: Grid, context: Context, folder: Path) -> None:
    """Run the TOML in the run config's `experiment` with the Flower engine on this Grid, into the folder `out`.

    Both are relative to `folder` and to where the server runs. `lost` and `patience` are the engine's options. The
    results are those of `fedpoison run`, in folders of the same names.
    """
    given, out = context.run_config, Path(str(context.run_config["out"])).absolute()
    engine: dict[str, Any] = {"engine.name": "flower", "engine.transport": "deployment"}
    if "lost" in given:
        engine["engine.lost"] = given["lost"]
    if "patience" in given:
        engine["engine.patience"] = float(given["patience"])
    with grids.lending(grid):
        done = run(folder / str(given["experiment"]), engine, out)
    console = Console(width=120)
    results = pivot(done)
    console.print(results.note, markup=False, soft_wrap=True)
    console.print(*results.render("text", width=console.width), sep="\n")
    for line in results.remarks:
        console.print(f"note: {line}", markup=False, soft_wrap=True)
    console.print(f"kept in {out}", markup=False)
