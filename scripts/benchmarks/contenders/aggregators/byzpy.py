"""byzpy's rules called in this process, with as many threads as torch takes by itself."""

import sys

from task import Task

sys.path.pop(0)  # or this file would be found as the package

import torch
from byzpy.aggregators.coordinate_wise import CoordinateWiseMedian, CoordinateWiseTrimmedMean, MeanOfMedians
from byzpy.aggregators.geometric_wise.geometric_median import GeometricMedian
from byzpy.aggregators.geometric_wise.krum import Krum, MultiKrum
from byzpy.aggregators.norm_wise.center_clipping import CenteredClipping
from byzpy.pre_aggregators import NearestNeighborMixing

task = Task()
f = task.f
rules = {
    "median": CoordinateWiseMedian().aggregate,
    "trimmed_mean": CoordinateWiseTrimmedMean(f).aggregate,
    "meamed": MeanOfMedians(f).aggregate,
    "krum": Krum(f).aggregate,
    "multi_krum": MultiKrum(f, q=task.n - f).aggregate,
    "geometric_median": GeometricMedian().aggregate,
    "centered_clipping": CenteredClipping(c_tau=task.tau, M=task.iterations, init="zero").aggregate,
    "nnm + trimmed_mean": lambda rows: CoordinateWiseTrimmedMean(f).aggregate(
        NearestNeighborMixing(f).pre_aggregate(rows)
    ),
}
task.time(rules, f"{torch.get_num_threads()} threads", lambda rows: list(torch.from_numpy(rows)))
