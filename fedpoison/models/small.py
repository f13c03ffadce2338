"""The small nets that experiments use. Each takes a sample's shape and the number of classes."""

from itertools import pairwise
from typing import Annotated

from annotated_types import Interval
from torch import nn

from fedpoison.contract.registry import model
from fedpoison.types import Count

Padding = Annotated[int, Interval(ge=0, le=10)]


@model()
def logistic(input_shape: tuple[int, ...], n_classes: int) -> nn.Module:
    """Multinomial logistic regression: one linear layer on the flattened sample."""
    return nn.Sequential(nn.Flatten(), nn.Linear(_features(input_shape), n_classes))


@model()
def mlp(input_shape: tuple[int, ...], n_classes: int, *, hidden: list[Count] = [200]) -> nn.Module:
    """A multi-layer perceptron with ReLU; `hidden` lists the layers' widths."""
    widths = [_features(input_shape), *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], n_classes))


@model()
def cnn(
    input_shape: tuple[int, ...],
    n_classes: int,
    *,
    channels: list[Count] = [16, 32],
    hidden: Count = 128,
    padding: Padding = 2,
) -> nn.Module:
    """5×5 convolutions, each pooled by 2 and rectified, then one hidden layer.

    Without padding and with channels [20, 50] and hidden 500 it is the MNIST net of LeNet's kind that ByzFL uses
    (431,080 parameters on 28 × 28).
    """
    if len(input_shape) != 3:
        raise ValueError(f"cnn takes samples of shape (channels, height, width), these are {input_shape}")
    before, height, width = input_shape
    layers: list[nn.Module] = []
    for after in channels:
        layers += [nn.Conv2d(before, after, 5, padding=padding), nn.MaxPool2d(2), nn.ReLU()]
        before = after
        height, width = ((size + 2 * padding - 4) // 2 for size in (height, width))
    if min(height, width) < 1:
        raise ValueError(f"cnn: {len(channels)} poolings leave nothing of samples of shape {input_shape}")
    head = [nn.Flatten(), nn.Linear(before * height * width, hidden), nn.ReLU(), nn.Linear(hidden, n_classes)]
    return nn.Sequential(*layers, *head)


@model()
def cnn_dropout(input_shape: tuple[int, ...], n_classes: int) -> nn.Module:
    """The MNIST net of torch's examples: two 3×3 convolutions, one pooling, dropout .25 and .5 (1,199,882 parameters).

    Karimireddy et al. 2022 (arXiv:2006.09365) train it.
    """
    if len(input_shape) != 3 or min(input_shape[1:]) < 6:
        raise ValueError(f"cnn_dropout takes pictures of at least 6 × 6 pixels, these are {input_shape}")
    channels, height, width = input_shape
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(64 * ((height - 4) // 2) * ((width - 4) // 2), 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, n_classes),
    )


def _features(input_shape: tuple[int, ...]) -> int:
    count = 1
    for size in input_shape:
        count *= size
    return count
