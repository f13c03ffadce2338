"""Record what byzfl's rules and attacks give."""

import importlib.util
import sys
from types import ModuleType

import torch
from recording import HONEST, record
from torch import Tensor

# byzfl's own __init__ imports its training framework, and with it torchvision, matplotlib and seaborn. Its rules
# and attacks need none of them, so the package is entered without running that file.
package = ModuleType("byzfl")
package.__path__ = importlib.util.find_spec("byzfl").submodule_search_locations
sys.modules["byzfl"] = package

from byzfl import aggregators as rules  # noqa: E402
from byzfl import attacks  # noqa: E402


def again(rule: object, rows: Tensor) -> Tensor:
    """The rule once more, with another state of the global generator."""
    torch.manual_seed(1)
    return rule(rows)


def spoiled(step: object, rows: Tensor) -> Tensor:
    """The caller's rows after the call."""
    step(rows)
    return rows


FUNCTIONS = {
    "mean": lambda rows, f: rules.Average()(rows),
    "median": lambda rows, f: rules.Median()(rows),
    "trimmed_mean": lambda rows, f: rules.TrMean(f)(rows),
    "geometric_median": lambda rows, f: rules.GeometricMedian()(rows),
    "geometric_median_long": lambda rows, f: rules.GeometricMedian(nu=1e-6, T=1000)(rows),
    "krum": lambda rows, f: rules.Krum(f)(rows),
    "multi_krum": lambda rows, f: rules.MultiKrum(f)(rows),
    "centered_clipping": lambda rows, f: rules.CenteredClipping(L=3, tau=1.0)(rows),
    "centered_clipping_from_a_vector": lambda rows, f: rules.CenteredClipping(m=rows[0], L=3, tau=1.0)(rows),
    "mda": lambda rows, f: rules.MDA(f)(rows),
    "monna": lambda rows, f: rules.MoNNA(f, idx=0)(rows),
    "meamed": lambda rows, f: rules.Meamed(f)(rows),
    "caf": lambda rows, f: rules.CAF(f)(rows),
    "caf_again": lambda rows, f: again(rules.CAF(f), rows),
    "smea": lambda rows, f: rules.SMEA(f)(rows),
    "smea_again": lambda rows, f: again(rules.SMEA(f), rows),
    "nnm": lambda rows, f: rules.NNM(f)(rows),
    "bucketing": lambda rows, f: rules.Bucketing(s=2)(rows),
    "clipping": lambda rows, f: rules.Clipping(c=2.0)(rows),
    "clipping_spoils": lambda rows, f: spoiled(rules.Clipping(c=2.0), rows),
    "arc": lambda rows, f: rules.ARC(f)(rows),
    "arc_spoils": lambda rows, f: spoiled(rules.ARC(f), rows),
    "sign_flip": lambda rows, f: attacks.SignFlipping()(rows),
    "ipm": lambda rows, f: attacks.InnerProductManipulation(tau=0.5)(rows),
    "alie": lambda rows, f: attacks.ALittleIsEnough(tau=1.5)(rows),
    "mimic": lambda rows, f: attacks.Mimic(epsilon=0)(rows),
}
ONCE = ("caf_again", "smea_again", "clipping_spoils", "arc_spoils", "centered_clipping_from_a_vector")
only = {"bucketing": ("unit",), **dict.fromkeys(ONCE, ("gaussian",))}
only |= dict.fromkeys(("sign_flip", "ipm", "alie", "mimic"), HONEST)
record("byzfl", FUNCTIONS, enumerating={"mda", "smea", "smea_again"}, only=only)
