"""Records what arrived, when, how large and how urgent, for replay in the simulator and the load tester: no payloads.

JSON lines `{"t_s", "model", "size", "shape", "items", "deadline_ms"}`, one per run of equal items of a request. A file
that cannot be written to ends the recording with one line in the log; serving goes on.
"""

from __future__ import annotations

import json
import logging
from itertools import groupby
from pathlib import Path
from typing import TextIO

from batchd.item import num_elements
from batchd_server.link.messages import Offer

log = logging.getLogger(__name__)

FLUSH_INTERVAL_S = 1.0


class ArrivalTrace:
    """Appends to a file; nothing at all where no file is configured."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: TextIO | None = None
        self._flush_at = 0.0
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = path.open("a", encoding="ascii")
            except OSError as error:
                self._give_up(error)

    def record(self, offer: Offer, deadline: float) -> None:
        """Write down one request; `deadline` is in monotonic seconds, as `offer.arrived` is."""
        if self._file is None:
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
        try:
            self._file.write("\n".join(lines) + "\n")
        except OSError as error:
            self._give_up(error)

    def flush(self, now: float) -> None:
        """Let readers see what was recorded, at most once a second."""
        if self._file is None or now < self._flush_at:
            return
        self._flush_at = now + FLUSH_INTERVAL_S
        try:
            self._file.flush()
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """End the recording."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as error:
                log.warning("the end of the trace %s could not be written: %s", self._path, error)

    def _give_up(self, error: OSError) -> None:
        log.warning("arrivals are no longer recorded in %s: %s", self._path, error)
        self.close()
