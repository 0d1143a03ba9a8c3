"""A plain PyTorch loop in a process of its own that trains on the daemon's device while it serves.

batchd serve & python examples/leased_training.py --epochs 3

The one line that differs from a loop without batchd is `leased(...)`: the body runs while the device is lent.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from batchd_client import Client, leased


def main() -> None:
    """Train a small convolutional network on the UCI scans of handwritten digits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--weight", type=float, default=1.0, help="part of the device beside other training")
    arguments = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    scans = load_digits()
    images = torch.tensor(scans.images, dtype=torch.float32).unsqueeze(1) / 16
    data = TensorDataset(images, torch.tensor(scans.target))
    train, held_out = torch.utils.data.random_split(data, [0.8, 0.2])
    loader = DataLoader(train, batch_size=arguments.batch_size, shuffle=True, drop_last=True)

    network = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 64, 10),
    ).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    # kernels that are still queued would run into the next lease: on a GPU the device is given back once they are done
    finish = torch.cuda.synchronize if device.type == "cuda" else None

    with Client(arguments.url) as client:
        for epoch in range(arguments.epochs):
            total = 0.0
            for image, label in leased(loader, client, "finetune", weight=arguments.weight, finish=finish):
                loss = nn.functional.cross_entropy(network(image.to(device)), label.to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item()
            with client.lease("finetune", weight=arguments.weight, finish=finish), torch.no_grad():
                image, label = held_out[:]
                right = (network(image.to(device)).argmax(1).cpu() == label).float().mean().item()
            print(f"epoch {epoch + 1}: loss {total / len(loader):.4f}, accuracy {right:.3f}", flush=True)


if __name__ == "__main__":
    main()
