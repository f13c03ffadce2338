"""Residual nets for small pictures, with GroupNorm: BatchNorm's statistics would not travel between clients."""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import relu

from fedpoison.contract.registry import model
from fedpoison.types import Count


class Block(nn.Module):
    """Two 3×3 convolutions and the input added: He et al. 2016."""

    def __init__(self, before: int, after: int, stride: int, groups: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.first_norm = nn.GroupNorm(groups, after)
        self.second = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.second_norm = nn.GroupNorm(groups, after)
        self.short: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.short = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.GroupNorm(groups, after))

    def forward(self, inputs: Tensor) -> Tensor:
        """The block's output [B, after, H / stride, W / stride]."""
        inner = relu(self.first_norm(self.first(inputs)))
        return relu(self.second_norm(self.second(inner)) + self.short(inputs))


def _resnet(input_shape: tuple[int, ...], n_classes: int, widths: list[int], blocks: int, groups: int) -> nn.Module:
    if len(input_shape) != 3:
        raise ValueError(f"a residual net takes samples of shape (channels, height, width), these are {input_shape}")
    unfit = [width for width in widths if width % groups]
    if unfit:
        raise ValueError(f"groups = {groups} does not divide the {unfit[0]} channels of a stage")
    stem = [nn.Conv2d(input_shape[0], widths[0], 3, padding=1, bias=False), nn.GroupNorm(groups, widths[0]), nn.ReLU()]
    stages: list[nn.Module] = []
    for stage, (before, after) in enumerate(pairwise([widths[0], *widths])):
        stages.append(Block(before, after, 2 if stage else 1, groups))
        stages += [Block(after, after, 1, groups) for _ in range(blocks - 1)]
    return nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], n_classes))


@model()
def resnet18(input_shape: tuple[int, ...], n_classes: int, *, groups: Count = 32) -> nn.Module:
    """ResNet-18 for small pictures (3×3 stem, no pooling after it), with GroupNorm of `groups` groups.

    He et al. 2016 with the stem that is usual for CIFAR; 11,173,962 parameters on CIFAR-10.
    """
    return _resnet(input_shape, n_classes, [64, 128, 256, 512], 2, groups)


@model()
def resnet20(input_shape: tuple[int, ...], n_classes: int, *, groups: Count = 8) -> nn.Module:
    """ResNet-20 for CIFAR-10 with GroupNorm of `groups` groups.

    He et al. 2016, n = 3: stages of 16, 32 and 64 channels; where the size changes the short cut is a 1×1 convolution
    (their option B).
    """
    return _resnet(input_shape, n_classes, [16, 32, 64], 3, groups)
