"""A small Fashion-MNIST that comes with the package."""

from importlib.resources import files

import numpy as np

from fedpoison.contract.registry import dataset
from fedpoison.data import Dataset
from fedpoison.data.images import PARTS, from_bytes


@dataset(licence="MIT")
def fashion_mnist_mini() -> Dataset:
    """Fashion-MNIST's embedded subset: 500 train and 100 test pictures of each class, nothing to download.

    Drawn from the published train and test sets by scripts/build-fashion-mnist-mini;
    Copyright (c) 2017 Zalando SE, see LICENSE.fashion-mnist.
    """
    with (files("fedpoison.data") / "fashion_mnist_mini.npz").open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        return from_bytes({name: arrays[name] for name in PARTS})
