"""fedpoison.aggregate, on all cores, with its screening of the rows."""

import sys

from task import Task

sys.path.pop(0)  # or this file would be found as the package

import torch

from fedpoison import aggregate
from fedpoison.common.parallel import available_cores

task = Task()


def rule(name, **options):
    """The aggregate of the rows."""
    return lambda rows: aggregate(name, rows, f=task.f, **options).update.numpy()


clipping = rule("centered_clipping", tau=task.tau, iterations=task.iterations)
rules = {name: rule(name) for name in ("mean", "median", "trimmed_mean", "meamed", "krum", "multi_krum")}
rules |= {"geometric_median": rule("geometric_median"), "centered_clipping": clipping}
rules |= {"nnm + trimmed_mean": rule("trimmed_mean", pre=["nnm"])}
rules |= {"bulyan": rule("bulyan"), "bulyan, one shot": rule("bulyan", variant="one_shot")}
task.time(rules, f"{available_cores()} threads", torch.from_numpy)
