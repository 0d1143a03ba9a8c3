"""Keeps what the controller has learned across restarts: one JSON file per model.

A file counts only for the circumstances it was learned under; a broken one is ignored, and learning starts again.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

FORMAT = 2


class LearnedState:
    """A directory, or nothing at all where no directory is configured."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = None if directory is None else directory / "cost-models"

    @property
    def enabled(self) -> bool:
        """Whether anything is kept."""
        return self._directory is not None

    def save(self, name: str, circumstances: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Write a model's state, whole or not at all; a directory that cannot be written to is logged."""
        if self._directory is None:
            return
        path = self._path(self._directory, name)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        document = {"format": FORMAT, "circumstances": dict(circumstances), "state": dict(state)}
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(document))
            temporary.replace(path)
        except OSError as error:
            log.warning("what was learned about model %s cannot be saved: %s", name, error)

    def load(self, name: str, circumstances: Mapping[str, Any]) -> dict[str, Any] | None:
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
        state = document.get("state")
        return state if isinstance(state, dict) else None

    def _path(self, directory: Path, name: str) -> Path:
        return directory / f"{name}.json"
