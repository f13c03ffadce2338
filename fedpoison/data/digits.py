"""Handwritten digits out of scikit-learn, small enough for a test."""

import numpy as np
import torch

from fedpoison.contract.registry import dataset
from fedpoison.data import Dataset


@dataset(licence="BSD-3-Clause")
def digits() -> Dataset:
    """Scikit-learn's digits: 1,437 train and 360 test pictures, 8 × 8 grey, 10 classes.

    Every fifth sample of each class, counted on from class to class, is a test sample: stratified, and
    the same in every version of every library.
    """
    from sklearn.datasets import load_digits  # slow to import, and only this data set needs it

    pixels, classes = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels.reshape(-1, 1, 8, 8).astype(np.float32) / 16)  # 0 to 16 in the file
    labels = torch.from_numpy(classes.astype(np.int64))
    test = torch.zeros(len(labels), dtype=torch.bool)
    test[labels.argsort(stable=True)[::5]] = True
    return Dataset(images[~test], labels[~test], images[test], labels[test], 10)
