"""Keeps what has been learned about models across restarts: one JSON file per model.

A file counts only for the circumstances it was learned under; a broken one is ignored, and learning starts again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from batchd_server.config.settings import Settings
from batchd_server.device.device_info import DeviceInfo
from batchd_server.device.work import PredictedPeak
from batchd_server.device.worker_thread import WorkerThread

log = logging.getLogger(__name__)

FORMAT = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What is kept of one model."""

    state: Mapping[str, Any]
    """The controller's, as its `state_dict` gives it."""
    policy: str = ""
    """The limits that `predicted` was made for: under others it says nothing."""
    predicted: tuple[PredictedPeak, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        peaks = [[peak.batch_size, list(peak.shape), peak.peak_bytes] for peak in self.predicted]
        return {"state": dict(self.state), "policy": self.policy, "predicted": peaks}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Take what `to_json` gave.

        Raises:
            ValueError: it is something else.
        """
        state, policy, predicted = (document.get(key) for key in ("state", "policy", "predicted"))
        if not isinstance(state, dict) or not isinstance(policy, str) or not isinstance(predicted, list):
            raise ValueError("needs state, policy and predicted")
        return cls(state=state, policy=policy, predicted=tuple(_peak(*row) for row in predicted))


def _peak(batch_size: int, shape: list[int], peak_bytes: int) -> PredictedPeak:
    if not all(isinstance(value, int) and value >= 0 for value in (batch_size, *shape, peak_bytes)):
        raise ValueError("a predicted peak is made of whole numbers")
    return PredictedPeak(batch_size=batch_size, shape=tuple(shape), peak_bytes=peak_bytes)


class LearnedState:
    """A directory, or nothing at all where no directory is configured."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = None if directory is None else directory / "cost-models"
        self._failing: dict[str, str] = {}  # why a model's state could not be saved, as the log was told

    @property
    def enabled(self) -> bool:
        """Whether anything is kept."""
        return self._directory is not None

    def save(self, name: str, circumstances: Mapping[str, Any], learned: Learned) -> None:
        """Write what is kept of a model, whole or not at all; a directory that cannot be written to is logged once."""
        if self._directory is None:
            return
        path = self._path(self._directory, name)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        document = {"format": FORMAT, "circumstances": dict(circumstances), **learned.to_json()}
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(document))
            temporary.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):  # on a full disk, what was written of it is in the way of others
                temporary.unlink()
            why = error.strerror or str(error)
            if self._failing.get(name) != why:  # it is tried every minute
                log.warning("what was learned about model %s cannot be saved: %s", name, why)
            self._failing[name] = why
        else:
            if self._failing.pop(name, None) is not None:
                log.info("what was learned about model %s is saved again", name)

    def load(self, name: str, circumstances: Mapping[str, Any]) -> Learned | None:
        """Return what was saved under the same circumstances, else None."""
        if self._directory is None:
            return None
        path = self._path(self._directory, name)
        try:
            document = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("what was learned about model %s cannot be read and is ignored: %s", name, error)
            return None
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            log.warning("what was learned about model %s has another format and is ignored", name)
            return None
        if document.get("circumstances") != json.loads(json.dumps(dict(circumstances))):
            log.info("what was learned about model %s was learned under other circumstances and is ignored", name)
            return None
        try:
            return Learned.from_json(document)
        except (ValueError, TypeError) as error:
            log.warning("what was learned about model %s is damaged and is ignored: %s", name, error)
            return None

    def _path(self, directory: Path, name: str) -> Path:
        return directory / f"{name}.json"


def circumstances_of(settings: Settings, device: DeviceInfo) -> dict[str, dict[str, Any]]:
    """Return for every model what must be the same for what was learned about it to count."""
    return {
        name: {
            "entrypoint": model.entrypoint,
            "options": model.model_dump(mode="json")["options"],
            "version": model.version,
            "device": device.name,
            "threads": device.threads,
            "torch": device.torch,
        }
        for name, model in settings.models.items()
    }


class LearnedWriter(WorkerThread[str]):
    """Saves on a thread of its own, so that a disk that stalls or is full holds up nobody."""

    def __init__(self, learned: LearnedState) -> None:
        super().__init__("learned-writer")
        self._learned = learned
        self._waiting: dict[str, tuple[Mapping[str, Any], Learned]] = {}  # each of these names is in the inbox once
        self._lock = threading.Lock()

    @property
    def enabled(self) -> bool:
        """Whether anything is kept."""
        return self._learned.enabled

    def load(self, name: str, circumstances: Mapping[str, Any]) -> Learned | None:
        """Return what was saved under the same circumstances, else None."""
        return self._learned.load(name, circumstances)

    def save(self, name: str, circumstances: Mapping[str, Any], learned: Learned) -> None:
        """Have it saved soon. Of what waits for the disk, only the latest of each model is kept."""
        if not self._learned.enabled:
            return
        with self._lock:
            waits = name in self._waiting
            self._waiting[name] = (circumstances, learned)
        if not waits:
            self.submit(name)

    def _main(self) -> None:
        while (name := self._inbox.get()) is not None:
            with self._lock:
                circumstances, learned = self._waiting.pop(name)
            self._learned.save(name, circumstances, learned)
