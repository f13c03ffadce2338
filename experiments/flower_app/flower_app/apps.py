"""What Flower starts: the round loop of fedpoison as the ServerApp, its local training as the ClientApp."""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedpoison.flower.app import client, serve

__all__ = ["client", "server"]

server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment that the run config names."""
    serve(grid, context, Path(__file__).parents[1])
