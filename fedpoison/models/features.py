"""What a net makes of pictures before it decides."""

from torch import Tensor, nn

from fedpoison.types import Images


def features(net: nn.Module, pictures: Images) -> Tensor:
    """φ(x) [samples, features]: what the net's last linear layer sees."""
    linear = [module for module in net.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError(f"features are what a net's last linear layer sees, and this {type(net).__name__} has none")
    seen: list[Tensor] = []
    handle = linear[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        net(pictures)
    finally:
        handle.remove()
    return seen[-1]
