"""For people who deploy with Flower: one rule or one attack from here in an app of their own.

Flower itself is loaded when the first of these names is used.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

for _name in ("FLWR_TELEMETRY_ENABLED", "RAY_USAGE_STATS_ENABLED"):
    os.environ.setdefault(_name, "0")  # Flower and Ray look when they are imported

_PLACES = {"AdversarialGrid": "adversary", "InProcessGrid": "grid", "RobustStrategy": "strategy", "attack_mod": "mod"}
__all__ = [*_PLACES]

if TYPE_CHECKING:
    from fedpoison.flower.adversary import AdversarialGrid as AdversarialGrid
    from fedpoison.flower.grid import InProcessGrid as InProcessGrid
    from fedpoison.flower.mod import attack_mod as attack_mod
    from fedpoison.flower.strategy import RobustStrategy as RobustStrategy


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'fedpoison.flower' has no attribute {name!r}")
    return getattr(importlib.import_module(f"fedpoison.flower.{_PLACES[name]}"), name)
