"""The calls that leases are made of: asking for the device, and giving it back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote

from batchd_client.exchange import Call
from batchd_client.json_object import JsonObject, as_object, member, parse_object
from batchd_client.wire import Answer, EncodedRequest

T = TypeVar("T")

ANSWER_S = 10.0
"""How much longer than it may wait for the device a call waits for its answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTerms:
    """What a client asks for."""

    client: str
    weight: float
    expected_s: float | None
    poll_s: float
    """How long one call waits for the device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseGrant:
    """The device is the client's for `limit_s`; then it is taken back."""

    id: str
    limit_s: float
    waited_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRefusal:
    """The device was not lent in the time of one call, and why, where the server says."""

    denied: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseReturned:
    """How long a lease lasted, by the server's clock, and the next one, if it was asked for and granted."""

    held_s: float
    expired: bool
    lease: LeaseGrant | None


def ask_lease(terms: LeaseTerms) -> Call[LeaseGrant | LeaseRefusal]:
    """Ask for the device."""
    body: JsonObject = {"client": terms.client, "weight": terms.weight, **_wait(terms)}

    def parse(answer: Answer) -> LeaseGrant | LeaseRefusal:
        if answer.status == 204:
            return LeaseRefusal(denied=answer.header("x-lease-denied"))
        return _grant(parse_object(answer.body))

    return _post("/v1/leases", body, parse, terms.poll_s + ANSWER_S)


def return_lease(lease: LeaseGrant, following: LeaseTerms | None) -> Call[LeaseReturned]:
    """Give the device back, and ask for it again if there are `following` terms."""
    body: JsonObject = {} if following is None else {"next": _wait(following)}
    timeout_s = ANSWER_S if following is None else following.poll_s + ANSWER_S
    return _post(f"/v1/leases/{quote(lease.id, safe='')}/return", body, _returned, timeout_s)


def _wait(terms: LeaseTerms) -> JsonObject:
    expected: JsonObject = {} if terms.expected_s is None else {"expected_s": terms.expected_s}
    return {**expected, "timeout_s": terms.poll_s}


def _returned(answer: Answer) -> LeaseReturned:
    body = parse_object(answer.body)
    lease = body.get("lease")
    return LeaseReturned(
        held_s=_number(body, "held_s"),
        expired=member(body, "expired", bool, "the answer"),
        lease=None if lease is None else _grant(as_object(lease, "the lease")),
    )


def _grant(body: JsonObject) -> LeaseGrant:
    return LeaseGrant(
        id=member(body, "id", str, "the lease"), limit_s=_number(body, "limit_s"), waited_s=_number(body, "waited_s")
    )


def _number(body: JsonObject, name: str) -> float:
    # JSON does not tell 1.0 from 1
    return float(body[name]) if type(body.get(name)) is int else member(body, name, float, "the lease")


def _post(path: str, body: JsonObject, parse: Callable[[Answer], T], timeout_s: float) -> Call[T]:
    headers = {"content-type": "application/json"}
    request = EncodedRequest(method="POST", path=path, headers=headers, body=json.dumps(body).encode("ascii"))
    return Call(render=lambda _: request, parse=parse, timeout_s=timeout_s)
