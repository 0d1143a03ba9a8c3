"""The device that `batchd simulate` simulates, from its options."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from batchd.simulator import DeviceLaw, learned_law, parse_cost, parse_memory, parse_slowdowns
from batchd_server.device.learned_state import FORMAT

LEARNED = "learned:"


def device_law(
    cost: str, noise: float | None, memory: str | None, neighbours: Sequence[str], slowdowns: Sequence[str]
) -> DeviceLaw:
    """Return what the options describe. `noise` None stands for what was learned, else for none.

    Raises:
        ValueError: one of them is not of its form.
        OSError: what was learned cannot be read.
    """
    if memory is None and neighbours:
        raise ValueError("--neighbour needs --memory: what would it take a share of?")
    law = _learned(Path(cost.removeprefix(LEARNED))) if cost.startswith(LEARNED) else parse_cost(cost)
    return replace(
        law,
        noise=law.noise if noise is None else noise,
        memory=None if memory is None else parse_memory(memory, neighbours),
        slowdowns=parse_slowdowns(slowdowns),
    )


def _learned(path: Path) -> DeviceLaw:
    try:
        document: Any = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    saved = cast("dict[str, Any]", document) if isinstance(document, dict) else {}
    if saved.get("format") != FORMAT or not isinstance(saved.get("state"), dict):
        raise ValueError(f"{path} is not what a daemon of this version saves under [state] directory/cost-models")
    try:
        return learned_law(saved["state"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
