"""On whose behalf a line is logged: ids that every line of a request carries, in whichever process it is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from types import MappingProxyType

MAX_IDS = 8
"""Of one batch in one line; a batch may hold more requests than anybody reads."""

_NOBODY: Mapping[str, str] = MappingProxyType({})

serving: ContextVar[Mapping[str, str]] = ContextVar("serving", default=_NOBODY)
"""The fields that belong to the HTTP request that this context serves: `request_id`, in a trace its two ids, and the
name of the `key` that was shown."""


def serving_id(name: str) -> str:
    """Return one of those ids; empty where there is none."""
    return serving.get().get(name, "")


def batch_fields(requests: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the fields of a line about several requests, each given by request id and trace id, perhaps empty."""
    ids, traces = zip(*requests, strict=True) if (requests := tuple(requests)) else ((), ())
    fields = {"request_ids": _listed(ids), "trace_ids": _listed(traces)}
    return {name: listed for name, listed in fields.items() if listed}


def _listed(ids: Iterable[str]) -> str:
    known = list(dict.fromkeys(each for each in ids if each))
    return ",".join(known[:MAX_IDS]) + (f",+{len(known) - MAX_IDS}" if len(known) > MAX_IDS else "")
