"""Federated learning under poisoning: attacks, robust aggregation, resilience measured round by round.

Importing this package is cheap: torch and the rest are loaded when the first of these names is used.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

from fedpoison.common.version import VERSION

__version__ = VERSION

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch then asks for huge pages: a third off a one-step round

_PLACES = {
    "aggregate": "api",
    "aggregator": "contract.registry",
    "check": "checking",
    "craft": "api",
    "data_attack": "contract.registry",
    "dataset": "contract.registry",
    "load": "runs.frame",
    "loss": "contract.registry",
    "model": "contract.registry",
    "monitor": "contract.registry",
    "partition": "contract.registry",
    "preaggregator": "contract.registry",
    "run": "runs.running",
    "sanitizer": "contract.registry",
    "training_attack": "contract.registry",
    "tune": "runs.tuning",
    "update_attack": "contract.registry",
    "Alarm": "types",
    "Cleaned": "types",
    "Drill": "types",
    "Verdict": "types",
}
__all__ = [*_PLACES, "__version__"]

if TYPE_CHECKING:
    from fedpoison.api import aggregate as aggregate
    from fedpoison.api import craft as craft
    from fedpoison.checking import check as check
    from fedpoison.contract.registry import aggregator as aggregator
    from fedpoison.contract.registry import data_attack as data_attack
    from fedpoison.contract.registry import dataset as dataset
    from fedpoison.contract.registry import loss as loss
    from fedpoison.contract.registry import model as model
    from fedpoison.contract.registry import monitor as monitor
    from fedpoison.contract.registry import partition as partition
    from fedpoison.contract.registry import preaggregator as preaggregator
    from fedpoison.contract.registry import sanitizer as sanitizer
    from fedpoison.contract.registry import training_attack as training_attack
    from fedpoison.contract.registry import update_attack as update_attack
    from fedpoison.runs.frame import load as load
    from fedpoison.runs.running import run as run
    from fedpoison.runs.tuning import tune as tune
    from fedpoison.types import Alarm as Alarm
    from fedpoison.types import Cleaned as Cleaned
    from fedpoison.types import Drill as Drill
    from fedpoison.types import Verdict as Verdict


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'fedpoison' has no attribute {name!r}")
    return getattr(importlib.import_module(f"fedpoison.{_PLACES[name]}"), name)
