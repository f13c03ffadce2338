"""Tables that scikit-learn brings along."""

import numpy as np
import polars as pl

from fedpoison.contract.registry import dataset
from fedpoison.data import Dataset
from fedpoison.data.tables import from_frames, split


@dataset(licence="BSD-3-Clause")
def breast_cancer() -> Dataset:
    """Wisconsin breast cancer: 456 train and 113 test rows of 30 numbers, 2 classes (63 % benign)."""
    from sklearn.datasets import load_breast_cancer  # slow to import

    return _of(*load_breast_cancer(return_X_y=True))


@dataset(licence="BSD-3-Clause")
def wine() -> Dataset:
    """Wine: 143 train and 35 test rows of 13 numbers, 3 classes."""
    from sklearn.datasets import load_wine

    return _of(*load_wine(return_X_y=True))


def _of(numbers: np.ndarray, classes: np.ndarray) -> Dataset:
    frame = pl.DataFrame(numbers).with_columns(label=pl.Series(classes))
    return from_frames(*split(frame, "label", 0.2), label="label")
