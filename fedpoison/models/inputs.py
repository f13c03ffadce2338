"""What happens to a sample before the net sees it."""

import torch
from torch import Tensor, nn


class Normalise(nn.Module):
    """Subtract the mean and divide by the standard deviation of each channel, or of each feature of a table."""

    def __init__(self, mean: list[float], std: list[float], input_shape: tuple[int, ...]) -> None:
        super().__init__()
        shape = (len(mean), *[1] * (len(input_shape) - 1))
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(shape))
        self.register_buffer("std", torch.tensor(std).view(shape))

    def forward(self, samples: Tensor) -> Tensor:
        """The samples [B, *input_shape], normalised."""
        return (samples - self.mean) / self.std
