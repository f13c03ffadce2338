"""The line of numpy or scipy that people write instead of taking a library."""

import numpy as np
from scipy.stats import trim_mean
from task import Task

task = Task()
rules = {
    "mean": lambda rows: rows.mean(axis=0),
    "median": lambda rows: np.median(rows, axis=0),
    "trimmed_mean": lambda rows: trim_mean(rows, (task.f + 0.5) / task.n),
}
task.time(rules, "1 thread")
