"""Augmentation: pictures shifted and mirrored anew each time they are trained on."""

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.functional import pad

from fedpoison.common.seeding import Stream
from fedpoison.types import Images


class Augment(BaseModel):
    """What is done to each picture of a minibatch, poisoned ones included.

    `crop`: pixels of black border from which a picture of the old size is cut at random; `flip`: whether half
    of them are mirrored left to right.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    crop: int = Field(0, ge=0, le=1000)
    flip: bool = False

    def draws(self, stream: Stream, sizes: Sequence[int]) -> list[Tensor]:
        """What becomes of batches of these sizes: [B, 3] each, row and column of the cut, and 1 for mirrored."""
        rng, count = stream.numpy(), sum(sizes)
        cuts = rng.integers(0, 2 * self.crop + 1, (count, 2))
        flips = rng.integers(0, 2, (count, 1)) if self.flip else np.zeros((count, 1), dtype=np.int64)
        return list(torch.from_numpy(np.hstack([cuts, flips])).split(list(sizes)))

    def __call__(self, images: Images, draws: Tensor) -> Images:
        """The pictures [B, C, H, W] after what was drawn for them, [B, 3]."""
        height, width = images.shape[-2:]
        here = images.device
        rows = draws[:, 0, None] + torch.arange(height, device=here)
        columns = torch.arange(width, device=here).expand(len(images), width)
        columns = draws[:, 1, None] + torch.where(draws[:, 2, None] == 1, columns.flip(1), columns)
        padded = pad(images, (self.crop,) * 4)
        sample = torch.arange(len(images), device=here)[:, None, None]
        return padded.movedim(1, 3)[sample, rows[:, :, None], columns[:, None, :]].movedim(3, 1)
