"""What a front process knows of the device process: its last announcement, and how long ago that was."""

from __future__ import annotations

import math
from collections.abc import Iterable

from batchd_server.link.messages import Announce, ModelState

SILENCE_S = 5.0
"""Without a heartbeat for this long the device process counts as not connected."""
UNKNOWN_SLO_S = 1.0
"""For models whose promise has not been announced; batchd's own default."""


class DeviceWatch:
    """Follows one device process after another. Times are monotonic seconds.

    `hang_timeout_s` is how long the supervisor waits for a sign of life before it starts another one.
    """

    def __init__(self, models: Iterable[str], hang_timeout_s: float = 0.0) -> None:
        self._given_up_after_s = SILENCE_S + hang_timeout_s
        self._slo_s = dict.fromkeys(models, UNKNOWN_SLO_S)
        self._heard = -math.inf
        self.present: Announce | None = None
        """Of the device process that is there now; None while none is."""
        self.last: Announce | None = None
        """Of whichever was there last."""
        self.was_ready = False
        """Whether any model was ever ready."""

    def hear(self, announce: Announce, now: float) -> None:
        """Take an announcement; a change of incarnation is the caller's to notice first."""
        self.present = self.last = announce
        self._heard = now
        self.was_ready = self.was_ready or announce.ready or any(model.state == "READY" for model in announce.models)
        self._slo_s |= {model.name: model.slo_s for model in announce.models if model.slo_s > 0}

    def is_new(self, announce: Announce) -> bool:
        """Return whether `announce` comes from another process than the one that is thought to be there."""
        return self.present is None or self.present.incarnation != announce.incarnation

    def lose(self) -> None:
        """The device process has gone."""
        self.present = None

    def is_silent(self, now: float) -> bool:
        """Return whether nothing has been heard for longer than a restart or a busy moment explains."""
        return now - self._heard > SILENCE_S

    def is_given_up(self, now: float) -> bool:
        """Return whether it has been silent for so long that another one should have taken its place."""
        return now - self._heard > self._given_up_after_s

    def takes(self, model: str) -> bool:
        """Return whether a request for `model` may be offered: it is served, or will be refused with the reason.

        Only for a model that is being loaded does waiting help.
        """
        if self.present is None:
            return False
        return self.present.ready or any(_is_settled(state, model) for state in self.present.models)

    def slo_s(self, model: str) -> float:
        """Return the announced SLO of `model`."""
        return self._slo_s[model]


def _is_settled(state: ModelState, model: str) -> bool:
    return state.name == model and state.state != "LOADING"
