"""What clients ask about leases over HTTP, and how a front passes it on: checked by their types, at both ends."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

import msgspec

from batchd_server.errors import BadRequest

MAX_TIMEOUT_S = 300.0
MAX_EXPECTED_S = 3600.0

ClientName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]{1,64}\Z")]
Weight = Annotated[float, msgspec.Meta(gt=0, le=1000)]
Expected = Annotated[float, msgspec.Meta(gt=0, le=MAX_EXPECTED_S)]
Timeout = Annotated[float, msgspec.Meta(ge=0, le=MAX_TIMEOUT_S)]

LEASE_ACTIONS = frozenset({"lease", "lease_return"})
"""The control actions that are answered once the device is there."""

_Struct = TypeVar("_Struct", bound=msgspec.Struct)
_NAMED = re.compile(r"field `(?P<field>[^`]*)`$")
_AT = re.compile(r" - at `\$\.?(?P<field>[^`]*)`$")


class LeaseAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /v1/leases`."""

    client: ClientName
    weight: Weight = 1.0
    """Its part of the device beside other training."""
    expected_s: Expected | None = None
    """How long the client thinks it will need; used until leases of it have been timed."""
    timeout_s: Timeout = 30.0
    """How long it waits for the device."""


class LeaseNext(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The lease that is asked for as another one is returned."""

    expected_s: Expected | None = None
    timeout_s: Timeout = 30.0


class LeaseReturn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /v1/leases/{lease}/return`."""

    next: LeaseNext | None = None


class AskCall(msgspec.Struct, frozen=True):
    """The arguments of the control action `lease`. A front withdraws the ask by its `token`."""

    token: str
    ask: LeaseAsk


class ReturnCall(msgspec.Struct, frozen=True):
    """The arguments of the control action `lease_return`."""

    token: str
    lease: str
    next: LeaseNext | None = None


class DropCall(msgspec.Struct, frozen=True):
    """The arguments of the control action `lease_drop`: whoever asked has gone."""

    token: str


def read_call(values: dict[str, Any], kind: type[_Struct]) -> _Struct:
    """Return `values` as a struct.

    Raises:
        BadRequest: they are not what it holds; names the field.
    """
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        message = str(error)
        path = [found["field"] for found in (_AT.search(message), _NAMED.search(_AT.sub("", message))) if found]
        field = ".".join(name for name in path if name) or "body"
        raise BadRequest(f"{field}: {_AT.sub('', message)}", field=field) from None
