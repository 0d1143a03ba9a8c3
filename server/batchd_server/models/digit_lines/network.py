"""The convolutional network that reads lines of digits.

Axes: B lines, C channels, H = 8 rows, W padded width in pixels, N = W / 8 digits.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch.nn import functional

from batchd_server.models.digit_lines.scans import DIGIT_PIXELS, NUM_CLASSES

_CHANNELS = (24, 32, 40)
_CELL = 2  # each digit is pooled to a cell of 2 x 2


class DigitLineNetwork(torch.nn.Module):
    """Three convolutions, average pooling to one cell per digit, one linear layer per cell.

    Nothing is normalised over width or batch, and after every convolution what lies outside a line is zeroed: that is
    what a convolution sees beyond the edge of an unpadded line, so padding cannot change an answer.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (1, *_CHANNELS)
        self.convolutions = torch.nn.ModuleList(
            torch.nn.Conv2d(before, after, kernel_size=3, padding=1) for before, after in pairwise(widths)
        )
        self.classify = torch.nn.Linear(_CHANNELS[-1] * _CELL**2, NUM_CLASSES)

    def forward(self, image: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return log-probabilities (B, N, 10) for images (B, 8, W); `mask` (B, W) is None where no line is padded."""
        overhang = -image.shape[-1] % DIGIT_PIXELS  # a padded width that is no whole number of digits
        x = functional.pad(image, (0, overhang)).unsqueeze(1)
        keep = None if mask is None else functional.pad(mask, (0, overhang))[:, None, None, :].to(x.dtype)
        for convolution in self.convolutions:
            x = functional.relu(convolution(x))
            x = x if keep is None else x * keep
        num_digits = x.shape[-1] // DIGIT_PIXELS
        cells = functional.avg_pool2d(x, DIGIT_PIXELS // _CELL)  # adaptive: no deterministic gradient on CUDA
        features = cells.reshape(*cells.shape[:3], num_digits, _CELL).permute(0, 3, 1, 2, 4).flatten(2)
        return functional.log_softmax(self.classify(features), dim=-1)
