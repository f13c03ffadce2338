"""The honest mean, and the directions off it in which attacks go."""

from typing import Literal

import torch

from fedpoison.linalg.blocks import by_columns
from fedpoison.types import Update, Updates

Direction = Literal["std", "unit", "sign"]


def mean_of(benign: Updates) -> Update:
    """The mean [d], summed in float64."""
    return by_columns(lambda block: block.mean(dim=0, dtype=torch.float64).to(block.dtype), benign)


def spread_of(benign: Updates) -> Update:
    """The standard deviation of each coordinate [d], the population's."""
    return by_columns(lambda block: block.double().std(dim=0, correction=0).to(block.dtype), benign)


def step_of(benign: Updates, direction: Direction) -> Update:
    """Minus the coordinates' standard deviation, the mean's direction or its signs [d]."""
    if direction == "std":
        return -spread_of(benign)
    mean = mean_of(benign)
    if direction == "sign":
        return -mean.sign()
    length = torch.linalg.vector_norm(mean, dtype=torch.float64)
    return (-mean / length).to(mean.dtype) if length > 0 else torch.zeros_like(mean)
