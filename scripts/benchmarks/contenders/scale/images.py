"""60,000 pictures of random numbers, of which each client gets a few."""

import numpy as np
import torch

from fedpoison import dataset, partition
from fedpoison.data import Dataset

PICTURES = 60_000


@dataset(licence="none: random numbers")
def pictures() -> Dataset:
    """As many as Fashion-MNIST has, and as large, whatever the number of clients is."""
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.random((PICTURES, 1, 28, 28), dtype=np.float32))
    labels = torch.from_numpy(rng.integers(0, 10, PICTURES))
    return Dataset(images, labels, images[:100], labels[:100], n_classes=10)


@partition()
def pieces(labels, n_clients, rng, *, samples: int = 6):
    """So many pictures a client, in order; the rest is nobody's."""
    return np.split(np.arange(samples * n_clients), n_clients)
