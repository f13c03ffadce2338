"""The Gaussian attack as Fang et al. 2020 compare with it."""

import torch

from fedpoison import update_attack
from fedpoison.types import Crafted, Updates


@update_attack(paper="arXiv:1911.11815")
def fitted_gaussian(benign: Updates, n_malicious: int, rng: torch.Generator) -> Crafted:
    """Draw each coordinate from the normal distribution that the colluders' own honest updates have there."""
    noise = torch.randn(n_malicious, benign.shape[1], generator=rng, dtype=benign.dtype)
    return benign.mean(dim=0) + benign.std(dim=0) * noise
