"""Trains the weights beside this module and writes their model card.

    python -m batchd_server.models.digit_lines.train [--out FOLDER]

Needs scikit-learn (`pip install 'batchd[demo]'`); half a minute on one core.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from batchd_server.models.digit_lines.augmentation import Variations
from batchd_server.models.digit_lines.model import WEIGHTS_FILE
from batchd_server.models.digit_lines.network import DigitLineNetwork
from batchd_server.models.digit_lines.scans import DIGIT_PIXELS, Scans, split_scans

CARD_FILE = WEIGHTS_FILE.with_name("model_card.json")
SEED = 7
STEPS = 900
LINES_PER_STEP = 32
DIGITS_PER_LINE = 8
LEARNING_RATE = 4e-3
EVALUATION_SEED = 1
EVALUATION_DIGITS = 12  # per line

_log = logging.getLogger(__name__)


def train(scans: Scans) -> DigitLineNetwork:
    """Return a network trained on lines of shifted and dimmed scans with random neighbours."""
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    network = DigitLineNetwork()
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=LEARNING_RATE, total_steps=STEPS)
    for step in range(STEPS):
        chosen = rng.integers(len(scans.labels), size=(LINES_PER_STEP, DIGITS_PER_LINE))
        varied = Variations.draw(chosen.size, rng).of(scans.images[chosen.reshape(-1)])
        cells = varied.reshape(LINES_PER_STEP, DIGITS_PER_LINE, DIGIT_PIXELS, DIGIT_PIXELS)
        lines = torch.from_numpy(cells.transpose(0, 2, 1, 3).reshape(LINES_PER_STEP, DIGIT_PIXELS, -1))
        scores = network(lines, None)
        loss = torch.nn.functional.nll_loss(scores.flatten(0, 1), torch.from_numpy(scans.labels[chosen].reshape(-1)))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            _log.info("step %d of %d: loss %.4f", step, STEPS, loss.item())
    return network.eval()


def accuracy(network: torch.nn.Module, scans: Scans) -> float:
    """Return the share of digits read right, every scan once, in lines of 12 with random neighbours."""
    order = np.random.default_rng(EVALUATION_SEED).permutation(len(scans.labels))
    right = 0
    with torch.no_grad():
        for start in range(0, len(order), EVALUATION_DIGITS):
            image, labels = scans.line(order[start : start + EVALUATION_DIGITS])
            scores = network(torch.from_numpy(image).unsqueeze(0), None)
            right += int((scores[0].argmax(dim=-1).numpy() == labels).sum())
    return right / len(order)


def write(network: DigitLineNetwork, weights_file: Path, card_file: Path) -> None:
    """Write weights and model card, with the accuracy on the held-out scans."""
    training, held_out = split_scans()
    weights_file.write_bytes(save({name: tensor.contiguous() for name, tensor in network.state_dict().items()}))
    card = {
        "name": "digit-lines",
        "data": "UCI optical recognition of handwritten digits, as scikit-learn carries it (8 x 8 scans)",
        "training_scans": len(training.labels),
        "held_out_scans": len(held_out.labels),
        "held_out_accuracy": round(accuracy(network, held_out), 4),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "seed": SEED,
        "command": "python -m batchd_server.models.digit_lines.train",
    }
    card_file.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    _log.info("held-out accuracy per digit: %s", card["held_out_accuracy"])


def main() -> None:
    """Train, and write both files."""
    parser = argparse.ArgumentParser(description="Train digit-lines' weights and write them with their model card.")
    parser.add_argument("--out", metavar="FOLDER", type=Path, default=WEIGHTS_FILE.parent, help="default: %(default)s")
    folder: Path = parser.parse_args().out
    if not folder.is_dir():
        parser.error(f"--out {folder}: no such folder")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    write(train(split_scans()[0]), folder / WEIGHTS_FILE.name, folder / CARD_FILE.name)


if __name__ == "__main__":
    main()
