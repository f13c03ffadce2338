"""What perturbed pictures may be, and three ways down a gradient that keep to it."""

from collections.abc import Callable

import torch
from torch import Tensor

from fedpoison.types import Images

Objective = Callable[[Images], Tensor]
"""What is to fall: one number of the pictures together."""
Projection = Callable[[Images], Images]


def within_linf(bases: Images, epsilon: float) -> Projection:
    """To the pictures in [0, 1] that differ from the bases by at most ε in every pixel.

    The bounds are rounded inwards: no pixel is off by more than ε in exact arithmetic.
    """
    low, high = (bases.double() - epsilon).clamp(min=0), (bases.double() + epsilon).clamp(max=1)
    lowest, highest = low.float(), high.float()
    lowest = torch.where(lowest.double() < low, lowest.nextafter(torch.ones_like(lowest)), lowest)
    highest = torch.where(highest.double() > high, highest.nextafter(torch.zeros_like(highest)), highest)
    return lambda pictures: pictures.clamp(lowest, highest)


def within_l2(bases: Images, epsilon: float) -> Projection:
    """To pictures in [0, 1] that are each at most ε from the base in Euclidean distance.

    First to the ball, then to [0, 1], which takes nothing farther from a base in [0, 1]. The ball is a hundred
    thousandth smaller: sums of float32 may round out of it.
    """

    def project(pictures: Images) -> Images:
        moved = pictures - bases
        scale = ((1 - 1e-5) * epsilon / norms(moved).clamp(min=1e-12)).clamp(max=1)
        return (bases + scale * moved).clamp(0, 1)

    return project


def norms(pictures: Images) -> Tensor:
    """The Euclidean norm of each picture, [samples, 1, 1, 1]."""
    each: Tensor = torch.linalg.vector_norm(pictures, dim=(1, 2, 3), keepdim=True)
    return each


def gradient(objective: Objective, at: Images) -> Images:
    """The objective's gradient; nothing but the pictures is differentiated or changed."""
    at = at.detach().requires_grad_()
    return torch.autograd.grad(objective(at), at)[0]


def pgd(
    objective: Objective, start: Images, project: Projection, step: float, iterations: int, norm: str = "linf"
) -> Images:
    """Projected gradient descent; a step is the gradient's sign, or its direction where the norm is "l2".

    Madry et al. 2018 (arXiv:1706.06083).
    """
    pictures = project(start)
    for _ in range(iterations):
        slope = gradient(objective, pictures)
        slope = slope.sign() if norm == "linf" else slope / norms(slope).clamp(min=1e-12)
        pictures = project(pictures - step * slope)
    return pictures


def adam(
    objective: Objective,
    start: Images,
    project: Projection,
    lr: float,
    iterations: int,
    *,
    signed: bool = False,
    decays: tuple[float, ...] = (),
) -> Images:
    """Adam with a projection after each step; `signed`: it sees the gradient's signs.

    `decays`: the shares of the iterations after which the rate is divided by ten.
    """
    pictures = project(start).requires_grad_()
    optimizer = torch.optim.Adam([pictures], lr=lr)
    for iteration in range(iterations):
        slope = gradient(objective, pictures)
        pictures.grad = slope.sign() if signed else slope
        optimizer.param_groups[0]["lr"] = lr * 0.1 ** sum(iteration >= share * iterations for share in decays)
        optimizer.step()
        with torch.no_grad():
            pictures.copy_(project(pictures))
    return pictures.detach()
