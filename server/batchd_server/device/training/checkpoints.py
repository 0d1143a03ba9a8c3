"""A job's saved states: a folder each, written beside its place and renamed into it: it is whole or not there."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from batchd_server.device.training.train_report import Snapshot
from batchd_server.training.records import Checkpoint
from batchd_server.training.trouble import os_error

log = logging.getLogger(__name__)

FORMAT = 1
SPARE_BYTES = 1 << 20
"""What a checkpoint leaves free: the job store must still be able to note why there is none."""
WEIGHTS, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
_FOLDER = re.compile(r"^step-(\d+)$")
_CHUNK_BYTES = 1 << 20
_MISSING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR})
_DAMAGE = (ValueError, KeyError, TypeError, SafetensorError)


@dataclass(frozen=True, slots=True)
class SavedState:
    """A checkpoint that has been read."""

    step: int
    path: Path
    weights: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, Any]
    state: Mapping[str, Any]


class JobFolder:
    """The checkpoints of one job. One thread writes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, snapshot: Snapshot) -> tuple[Path, int]:
        """Save a snapshot; return its folder and its bytes.

        Raises:
            OSError: the disk does not take it. What was saved before is untouched.
        """
        place = self.path / f"step-{snapshot.step}"
        temporary = self.path / f".step-{snapshot.step}.{os.getpid()}"
        tensors, numbers = _flattened(snapshot.optimizer)
        document = {
            "format": FORMAT,
            "step": snapshot.step,
            "optimizer": numbers,
            "validation": [snapshot.validation_loss, snapshot.validation_accuracy],
            "state": dict(snapshot.state),
        }
        try:
            self._clear_up()
            self.path.mkdir(parents=True, exist_ok=True)
            self._check_room(sum(tensor.nbytes for tensor in (*snapshot.weights.values(), *tensors.values())))
            temporary.mkdir()
            save_file(dict(snapshot.weights), temporary / WEIGHTS)
            save_file(tensors, temporary / OPTIMIZER)
            (temporary / STATE).write_text(json.dumps(document))
            for file in temporary.iterdir():
                _sync(file)
            _sync(temporary)
            num_bytes = sum(file.stat().st_size for file in temporary.iterdir())
            if place.exists():  # of a life that was cut short before it was noted: this one says the same
                shutil.rmtree(place)
            temporary.rename(place)
            _sync(self.path)
        except SafetensorError as error:  # its way to say that a file cannot be written
            raise os_error(str(error)) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return place, num_bytes

    def _check_room(self, num_bytes: int) -> None:
        """Refuse what does not fit before it takes the disk's last bytes, and others fail with it."""
        usage = shutil.disk_usage(self.path)
        if usage.total and usage.free < num_bytes + SPARE_BYTES:  # some file systems know no figures
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _clear_up(self) -> None:
        """Delete what a killed process left half written."""
        for path in self.path.glob(".step-*"):
            shutil.rmtree(path, ignore_errors=True)

    def latest(self) -> SavedState | None:
        """Return the newest checkpoint that is whole; None where there is none.

        Raises:
            OSError: one cannot be read now. It may be later: going on without it would give up what was learned.
        """
        for step in sorted(self.steps(), reverse=True):
            path = self.path / f"step-{step}"
            try:
                return read(path)
            except _DAMAGE as error:
                log.warning("checkpoint %s is damaged and is passed over: %s", path, error)
            except OSError as error:
                if error.errno not in _MISSING:
                    raise
                log.warning("checkpoint %s is incomplete and is passed over: %s", path, error)
        return None

    def steps(self) -> list[int]:
        """Return the steps that are saved."""
        if not self.path.is_dir():
            return []
        return [int(match[1]) for entry in self.path.iterdir() if (match := _FOLDER.match(entry.name))]

    def best(self) -> int | None:
        """Return the step of the best checkpoint by validation accuracy, or loss without one; the latest of equals.

        Raises:
            OSError: one cannot be read now.
        """
        best: tuple[float, float, int] | None = None
        for step in self.steps():
            try:
                loss, accuracy = json.loads((self.path / f"step-{step}" / STATE).read_bytes())["validation"]
            except _DAMAGE:
                continue
            except OSError as error:
                if error.errno not in _MISSING:
                    raise
                continue
            if loss is not None:
                score = (0.0 if accuracy is None else accuracy, -loss if accuracy is None else 0.0, step)
                best = score if best is None else max(best, score)
        return None if best is None else best[-1]

    def checkpoint(self, step: int, *, best: bool) -> Checkpoint:
        """Return what the store is told of a saved state; of a damaged one the accuracy is not known.

        Raises:
            OSError: it cannot be read now.
        """
        path = self.path / f"step-{step}"
        try:
            accuracy = json.loads((path / STATE).read_bytes())["validation"][1]
        except (*_DAMAGE, FileNotFoundError):
            accuracy = None
        return Checkpoint(
            step=step,
            path=path,
            created=path.stat().st_mtime,
            bytes=sum(file.stat().st_size for file in path.iterdir()),
            validation_accuracy=accuracy,
            best=best,
        )

    def remove(self, step: int) -> None:
        """Delete a checkpoint."""
        shutil.rmtree(self.path / f"step-{step}", ignore_errors=True)

    def give_up_after(self, step: int) -> None:
        """Delete later checkpoints: of a life that could not be gone on from, where an earlier one was saved now."""
        for later in self.steps():
            if later > step:
                self.remove(later)


def read(path: Path) -> SavedState:
    """Read a checkpoint's folder.

    Raises:
        ValueError, KeyError, TypeError, SafetensorError: it is damaged, or of another format.
        OSError: it is incomplete, or the disk fails.
    """
    document = json.loads((path / STATE).read_bytes())
    if document["format"] != FORMAT:
        raise ValueError(f"its format is {document['format']}, {FORMAT} is known")
    return SavedState(
        step=int(document["step"]),
        path=path,
        weights=_tensors(path / WEIGHTS),
        optimizer=_restored(_tensors(path / OPTIMIZER), document["optimizer"]),
        state=document["state"],
    )


def read_weights(path: Path) -> Mapping[str, torch.Tensor]:
    """Read the network's weights alone.

    Raises:
        OSError, SafetensorError: there are none.
    """
    return _tensors(path / WEIGHTS)


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a file of tensors. What maps it calls every failure to open it a missing file, and dies of one to read it.

    So it is read once before: then its error is the disk's.
    """
    with path.open("rb", buffering=0) as file:
        chunk = bytearray(_CHUNK_BYTES)
        while file.readinto(chunk):
            pass
    tensors: dict[str, torch.Tensor] = load_file(path)
    return tensors


def superseded(steps: list[int], keep: int, best: int | None) -> list[int]:
    """Return the checkpoints to delete: all but the last `keep` and the best."""
    return [step for step in sorted(steps)[:-keep] if step != best]


def _flattened(state: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Part an optimizer's state into tensors, named `parameter.name`, and the rest as JSON."""
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for parameter, values in state["state"].items():
        numbers[str(parameter)] = {}
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{parameter}.{name}"] = value.contiguous()
            else:
                numbers[str(parameter)][name] = value
    return tensors, {"state": numbers, "param_groups": state["param_groups"]}


def _restored(tensors: Mapping[str, torch.Tensor], document: Mapping[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {int(key): dict(values) for key, values in document["state"].items()}
    for name, tensor in tensors.items():
        parameter, _, key = name.partition(".")
        state[int(parameter)][key] = tensor
    groups = [
        {key: tuple(value) if key == "betas" else value for key, value in group.items()}
        for group in document["param_groups"]
    ]
    return {"state": state, "param_groups": groups}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
