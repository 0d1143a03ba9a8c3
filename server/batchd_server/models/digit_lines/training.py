"""How the digit reader is trained. Device process only.

Axes: B lines, N digits (padded).
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from batchd.torch_gradients import prediction_entropy
from batchd_server.models.digit_lines.line_examples import NO_DIGIT, LineBatch
from batchd_server.models.digit_lines.scans import NUM_CLASSES
from batchd_server.models.trainable import Losses


def line_losses(network: torch.nn.Module, batch: LineBatch) -> Losses:
    """Return the negative log-likelihood of every digit, summed; what lies outside a line counts for nothing."""
    scores: torch.Tensor = network(batch.images, batch.mask)  # (B, N, 10), log-probabilities
    own = batch.labels != NO_DIGIT
    loss = functional.nll_loss(scores.flatten(0, 1), batch.labels.flatten(), ignore_index=NO_DIGIT, reduction="sum")
    entropy = prediction_entropy(scores).masked_fill(~own, 0.0).sum()
    return Losses(
        total=loss,
        terms=float(own.sum()),
        correct=int((scores.argmax(dim=-1) == batch.labels).sum()),
        entropy=float(entropy) / math.log(NUM_CLASSES),
    )
