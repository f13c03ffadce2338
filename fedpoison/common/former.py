"""Keys of the TOML by the names that they had in runs and experiments from before."""

from collections.abc import Mapping
from typing import Any


def local(table: Mapping[str, Any]) -> dict[str, Any]:
    """[clients.local], in which `loss` was how the losses of a minibatch are put together."""
    if table.get("loss") not in ("mean", "sum"):
        return dict(table)
    return {**{k: v for k, v in table.items() if k != "loss"}, "reduction": table["loss"]}


def config(table: Mapping[str, Any]) -> dict[str, Any]:
    """A run's whole table."""
    clients = table.get("clients", {})
    if "reduction" in clients.get("local", {"reduction": ""}):
        return dict(table)
    renewed = {**local(clients["local"]), "loss": {"name": "cross_entropy"}}
    return {**table, "clients": {**clients, "local": renewed}}
