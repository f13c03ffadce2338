"""For people who deploy with Flower: one rule or one attack from here in an app of their own.

Flower itself is loaded when the first of these names is used.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

for _name in ("FLWR_TELEMETRY_ENABLED", "RAY_USAGE_STATS_ENABLED"):
    os.environ.setdefault(_name, "0")  # Flower and Ray look when they are imported

_PLACES = {
    "AdversarialGrid": "flower.adversary",
    "InProcessGrid": "engines.in_process",
    "RobustStrategy": "flower.strategy",
    "attack_mod": "flower.mod",
}
__all__ = [*_PLACES]

if TYPE_CHECKING:
    from fedpoison.engines.in_process import InProcessGrid as InProcessGrid
    from fedpoison.flower.adversary import AdversarialGrid as AdversarialGrid
    from fedpoison.flower.mod import attack_mod as attack_mod
    from fedpoison.flower.strategy import RobustStrategy as RobustStrategy


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'fedpoison.flower' has no attribute {name!r}")
    return getattr(importlib.import_module(f"fedpoison.{_PLACES[name]}"), name)
