"""The apps behind `flwr run experiments/flower_app`: an experiment of ours on whatever Flower federation there is."""

from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedpoison.engines import grids
from fedpoison.flower.messages import client_app
from fedpoison.running import run
from fedpoison.simulation import trainer

server = ServerApp()
client = client_app(trainer)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the TOML in the run config's `experiment` with the Flower engine on this Grid, into the folder `out`.

    `lost` and `patience` are the engine's options; the results are those of `fedpoison run`, in the same folders.
    """
    given = context.run_config
    engine: dict[str, Any] = {"engine.name": "flower", "engine.transport": "deployment"}
    if "lost" in given:
        engine["engine.lost"] = given["lost"]
    if "patience" in given:
        engine["engine.patience"] = float(given["patience"])
    with grids.lending(grid):
        run(Path(str(given["experiment"])), engine, Path(str(given["out"])))
