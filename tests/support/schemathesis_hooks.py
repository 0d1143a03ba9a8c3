"""What schemathesis does beside its configuration: nobody waits for the device for as long as a schema allows."""

from __future__ import annotations

from typing import Any

import schemathesis

SHORT_S = 0.05
LONGEST_S = 300


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Shorten a valid wait for a lease, which is half a minute where nothing is said."""
    if case.operation.label == "POST /v1/leases" and isinstance(case.body, dict):
        wait = case.body.get("timeout_s", 30)
        if type(wait) in (int, float) and SHORT_S < wait <= LONGEST_S:
            case.body["timeout_s"] = SHORT_S
