"""The configured models, each with the state that the device process last announced."""

from __future__ import annotations

from batchd_server.front.service import Front
from batchd_server.link.messages import ModelState


def model_states(front: Front) -> dict[str, ModelState]:
    """Return the state of every configured model, by name; UNAVAILABLE where the device process said nothing."""
    device = front.dispatcher.state()
    known = {state.name: state for state in device.models} if device.connected else {}
    silent = "no word from the device process yet" if device.connected else "the device process is not connected"
    return {
        name: known.get(name) or ModelState(name=name, state="UNAVAILABLE", reason=silent)
        for name in front.settings.models
    }
