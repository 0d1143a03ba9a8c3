"""Which trained weights each model is served with: files beside the checkpoints, so that a restart keeps them."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import load_file

from batchd_server.device.training.checkpoints import WEIGHTS

log = logging.getLogger(__name__)

KEPT = 5
"""Promotions of a model that can be undone."""


class PromotedWeights:
    """A folder per model, with one file per promotion and the list of them, the latest last."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def serving(self, model: str) -> Mapping[str, torch.Tensor] | None:
        """Return the weights of the last promotion; None where the model is served with its own.

        Raises:
            OSError, SafetensorError: they cannot be read.
        """
        history = self._history(model)
        if not history:
            return None
        weights: dict[str, torch.Tensor] = load_file(self._directory / model / history[-1]["file"])
        return weights

    def promoted(self, model: str, checkpoint: Path, job: str, step: int) -> None:
        """Note that a model is served with a checkpoint's weights, and keep a copy of them.

        Raises:
            OSError: the disk does not take it; the list is as it was.
        """
        folder = self._directory / model
        folder.mkdir(parents=True, exist_ok=True)
        history = self._history(model)
        number = 1 + max((int(entry["number"]) for entry in history), default=0)
        file = f"{number}.safetensors"
        _copy(checkpoint / WEIGHTS, folder / file)
        history.append({"number": number, "file": file, "job": job, "step": step})
        self._write(model, history)

    def undo(self, model: str) -> bool:
        """Forget the last promotion of a model; False where there is none.

        Raises:
            OSError: the disk does not take it.
        """
        history = self._history(model)
        if not history:
            return False
        self._write(model, history[:-1])
        return True

    def before(self, model: str) -> tuple[bool, Mapping[str, torch.Tensor] | None]:
        """Return whether a promotion can be undone, and the weights before it; None for the model's own.

        Raises:
            OSError, SafetensorError: they cannot be read.
        """
        history = self._history(model)
        if len(history) < 2:
            return bool(history), None
        return True, load_file(self._directory / model / history[-2]["file"])

    def _history(self, model: str) -> list[dict[str, Any]]:
        try:
            history: list[dict[str, Any]] = json.loads((self._directory / model / "history.json").read_bytes())
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            log.warning("the promotions of model %s cannot be read and are ignored: %s", model, error)
            return []
        return history

    def _write(self, model: str, history: list[dict[str, Any]]) -> None:
        folder = self._directory / model
        with _whole(folder / "history.json") as file:
            file.write(json.dumps(history[-KEPT:]).encode())
        kept = {entry["file"] for entry in history[-KEPT:]}
        for path in folder.glob("*.safetensors"):
            if path.name not in kept:
                path.unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as weights, _whole(target) as file:
        shutil.copyfileobj(weights, file)


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """Write a file that is on the disk as a whole at its name, or leaves what was there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
