"""Records what arrived, when, how large and how urgent, for replay in the simulator and the load tester: no payloads.

JSON lines `{"t_s", "model", "size", "shape", "items", "deadline_ms"}`, one per run of equal items of a request. While
the file cannot be written, what arrives is not recorded, and the log says so once; serving goes on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from batchd.item import num_elements
from batchd_server.link.messages import Offer

log = logging.getLogger(__name__)

FLUSH_INTERVAL_S = 1.0
RETRY_INTERVAL_S = 10.0
MAX_PENDING_BYTES = 1 << 16
"""More than this is written at once; while nothing can be written, what comes beyond it is not recorded."""


class ArrivalTrace:
    """Appends to a file; nothing at all where no file is configured. Times are monotonic seconds."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._pending = bytearray()
        self._failing = False
        self._missing = 0  # requests that will not be in the file
        self._flush_at = 0.0
        if path is not None:
            self._write(path)

    def record(self, offer: Offer, deadline: float) -> None:
        """Write down one request; `deadline` is in monotonic seconds, as `offer.arrived` is."""
        if self._path is None:
            return
        if len(self._pending) >= MAX_PENDING_BYTES:
            self._missing += 1
            return
        arrived = {"t_s": round(offer.arrived, 6), "model": offer.model}
        deadline_ms = round((deadline - offer.arrived) * 1e3, 3)
        lines = [
            json.dumps(
                arrived
                | {"size": num_elements(shape), "shape": shape, "items": len(list(items)), "deadline_ms": deadline_ms}
            )
            for shape, items in groupby(item.shape for item in offer.items)
        ]
        self._pending += ("\n".join(lines) + "\n").encode("ascii")
        if len(self._pending) >= MAX_PENDING_BYTES and not self._failing:
            self._write(self._path)

    def flush(self, now: float) -> None:
        """Let readers see what was recorded, at most once a second; try again what failed, every ten."""
        if self._path is None or now < self._flush_at:
            return
        if self._pending:
            self._write(self._path)
        self._flush_at = now + (RETRY_INTERVAL_S if self._failing else FLUSH_INTERVAL_S)

    def close(self) -> None:
        """End the recording."""
        if self._path is not None and self._pending:
            self._write(self._path)
        self._path = None
        self._let_go()

    def _write(self, path: Path) -> None:
        """Append all that is pending, or nothing: half a line would spoil the file for whoever replays it."""
        try:
            if self._file is None:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = path.open("ab", buffering=0)
            self._append(self._file)
        except OSError as error:
            if not self._failing:
                log.warning("arrivals are not recorded in %s: %s", path, error.strerror or error)
            self._failing = True
            self._let_go()
            return
        if self._failing and self._pending:
            log.info("arrivals are recorded again in %s; %d requests are missing there", path, self._missing)
            self._failing, self._missing = False, 0
        self._pending = bytearray()

    def _append(self, file: BinaryIO) -> None:
        end = os.fstat(file.fileno()).st_size
        view = memoryview(self._pending)
        try:
            while view:
                view = view[file.write(view) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(file.fileno(), end)
            raise

    def _let_go(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # nothing is buffered: there is nothing to lose
                file.close()
