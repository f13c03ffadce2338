"""Flower's strategies, given replies whose records are made beforehand, and the functions of its older ones.

Without torch in the process: Bulyan collects garbage for every reply it has chosen, which takes longer the more modules
are there.
"""

import logging
from dataclasses import dataclass

from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.server.strategy.aggregate import aggregate_bulyan, aggregate_krum
from flwr.serverapp.strategy import Bulyan, FedAvg, FedMedian, FedTrimmedAvg, Krum, MultiKrum
from task import Task

logging.getLogger("flwr").setLevel(logging.ERROR)
task = Task()


@dataclass
class Reply:
    """What a strategy reads of a message; a real one needs a running task."""

    content: RecordDict

    def has_error(self):
        """It has none."""
        return False


def replies(rows):
    """A reply a row, and the rows as the older functions want them."""
    records = [{"arrays": ArrayRecord({"a": Array(row)}), "metrics": MetricRecord({"num-examples": 1})} for row in rows]
    return [Reply(RecordDict(record)) for record in records], [([row], 1) for row in rows]


def strategy(made):
    """What a strategy makes of the replies."""
    return lambda given: made.aggregate_train(1, given[0])[0].to_numpy_ndarrays()[0]


def old_bulyan(given):
    """The older Bulyan, which chooses one after the other as the paper does."""
    return aggregate_bulyan(given[1], task.f, aggregate_krum, to_keep=0)[0]


rules = {
    "mean": strategy(FedAvg()),
    "median": strategy(FedMedian()),
    "trimmed_mean": strategy(FedTrimmedAvg(beta=(task.f + 0.5) / task.n)),  # it truncates beta · n
    "krum": strategy(Krum(num_malicious_nodes=task.f)),
    "multi_krum": strategy(MultiKrum(num_malicious_nodes=task.f, num_nodes_to_select=task.n - task.f)),
    "bulyan": old_bulyan,
    "bulyan, one shot": strategy(Bulyan(num_malicious_nodes=task.f)),
}
task.time(rules, "1 thread, BLAS more", replies)
