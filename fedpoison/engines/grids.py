"""Where the Flower engine's Grid comes from: a ServerApp that lends it, or a simulation that is kept here."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fedpoison.engines.cluster import PATIENCE, connected, imported, kept

_lent: list[Any] = []
_simulations: list["Simulation"] = []


@contextmanager
def lending(grid: Any) -> Iterator[None]:
    """What is run meanwhile with the Flower engine uses this Grid, be it a simulation's or a deployment's."""
    _lent.append(grid)
    try:
        yield
    finally:
        _lent.remove(grid)


def lent() -> Any:
    """The Grid of the ServerApp that we run in, or None."""
    return _lent[-1] if _lent else None


def simulated(client: Any, clients: int) -> Any:
    """The Grid of a simulation on Ray with so many nodes: the one that runs, or a new one."""
    if _simulations and (_simulations[0].clients != clients or not _simulations[0].runs):
        end_simulation()
    if not _simulations:
        _simulations.append(Simulation(client, clients))
    return _simulations[0].grid


def end_simulation() -> None:
    """End the simulation that runs here, if there is one: it has all of Ray's cores."""
    while _simulations:
        _simulations.pop().stop()


class Simulation:
    """Flower's simulation on Ray, held up by a ServerApp that lends its Grid until the process ends.

    It takes 7 to 16 seconds to start, so it stays for the runs that follow with as many clients.
    """

    def __init__(self, client: Any, clients: int) -> None:
        from fedpoison.engines import compat

        ray = imported()
        kept.clear()  # Flower's simulation wants the cores
        if ray.is_initialized():
            ray.shutdown()
        connected(None)  # Flower takes it, and one that it begins itself needs a path to Python without spaces
        self.clients, self.grid = clients, None
        self._lent, self._over = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        compat.before_threads_are_joined(self._over.set)
        self._thread = threading.Thread(target=self._run, args=(client,), name="flower-simulation")
        self._thread.start()
        began = time.monotonic()
        while not self._lent.wait(0.1):
            if not self.runs or time.monotonic() - began > PATIENCE:
                raise RuntimeError(f"Flower's simulation did not start: {self._error or f'{PATIENCE:.0f} s were over'}")

    @property
    def runs(self) -> bool:
        """Whether it is up."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """End it, and wait for that."""
        self._over.set()
        self._thread.join()

    def _run(self, client: Any) -> None:
        from flwr.serverapp import ServerApp

        from fedpoison.engines import compat

        server = ServerApp()

        @server.main()
        def main(grid: Any, context: Any) -> None:
            self.grid = grid
            self._lent.set()
            self._over.wait()

        try:
            compat.run_simulation(server, client, self.clients)
        except BaseException as error:
            self._error = error
