"""byzfl's rules on a matrix of torch, with as many threads as torch takes by itself."""

import importlib.util
import sys
from types import ModuleType

from task import Task

sys.path.pop(0)  # or this file would be found as the package

import torch

# byzfl's own __init__ imports its training too, and with it torchvision, matplotlib and seaborn; its rules need none
# of them, so the package is entered without running that file.
package = ModuleType("byzfl")
package.__path__ = importlib.util.find_spec("byzfl").submodule_search_locations
sys.modules["byzfl"] = package

from byzfl import aggregators as library  # noqa: E402

task = Task()
f = task.f
rules = {
    "mean": library.Average(),
    "median": library.Median(),
    "trimmed_mean": library.TrMean(f),
    "meamed": library.Meamed(f),
    "krum": library.Krum(f),
    "multi_krum": library.MultiKrum(f),
    "geometric_median": library.GeometricMedian(),
    "centered_clipping": lambda rows: library.CenteredClipping(L=task.iterations, tau=task.tau)(rows),  # has a memory
    "nnm + trimmed_mean": lambda rows: library.TrMean(f)(library.NNM(f)(rows)),
}
task.time(rules, f"{torch.get_num_threads()} threads", torch.from_numpy)
