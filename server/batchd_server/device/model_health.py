"""Does a model that answers nothing but errors still work at all? Pure: outcomes and times come in, probes come out.

Failures alone convict nobody, for one client's bad inputs fail batch after batch. They only cause a probe, a run of the
model's own example; a model that fails that one too is not ready until a later probe succeeds.
"""

from __future__ import annotations

from dataclasses import dataclass

SUSPECT_FAILURES = 3
"""Batches in a row of which no item succeeded."""
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
"""Between probes of one model."""


@dataclass(slots=True)
class _Record:
    failures: int = 0  # batches in a row
    probing: bool = False
    failing: bool = False
    pause_s: float = FIRST_PAUSE_S
    not_before: float = 0.0


class ModelHealth:
    """Every model that serves, by name."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}
        self.answered = False
        """Whether any item of any model ever succeeded."""

    def batch_over(self, name: str, *, succeeded: bool) -> None:
        """A batch has run, and some item of it has succeeded or none has. Out of memory is neither."""
        record = self._records.setdefault(name, _Record())
        record.failures = 0 if succeeded else record.failures + 1
        if succeeded and not record.failing:
            record.pause_s = FIRST_PAUSE_S
        self.answered = self.answered or succeeded

    def probes(self, now: float) -> tuple[str, ...]:
        """Return the models to probe now; each must be `probed` before it is named again."""
        due = tuple(name for name, record in self._records.items() if _is_due(record, now))
        for name in due:
            self._records[name].probing = True
        return due

    def probed(self, name: str, now: float, *, succeeded: bool) -> None:
        """A probe is over."""
        record = self._records.get(name)
        if record is None:  # unloaded meanwhile
            return
        record.probing = False
        record.not_before = now + record.pause_s
        # a model that passes while its traffic fails is asked ever less often, too
        record.pause_s = min(2 * record.pause_s, LONGEST_PAUSE_S)
        if record.failing and succeeded:
            self._records[name] = _Record()
            return
        record.failing = not succeeded

    def is_failing(self, name: str) -> bool:
        """Return whether the model fails even its own example."""
        record = self._records.get(name)
        return record is not None and record.failing

    def forget(self, name: str) -> None:
        """The model does not serve any more."""
        self._records.pop(name, None)


def _is_due(record: _Record, now: float) -> bool:
    suspect = record.failing or record.failures >= SUSPECT_FAILURES
    return suspect and not record.probing and now >= record.not_before
