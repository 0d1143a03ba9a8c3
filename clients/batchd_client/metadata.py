"""What the server says about itself and its models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from batchd_client.errors import ProtocolError
from batchd_client.json_object import JsonObject, as_list, as_object, member, optional_member, parse_json, parse_object


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerMetadata:
    """The server's name and the protocol extensions that it has."""

    name: str
    version: str
    extensions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorMetadata:
    """One input or output of a model, batch axis first; -1 stands for a size that varies."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMetadata:
    """What a model takes and gives."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryEntry:
    """A model that the server knows; `state` is READY, LOADING, UNLOADING or UNAVAILABLE, and `reason` says why."""

    name: str
    version: str | None
    state: str
    reason: str


def parse_server_metadata(body: bytes) -> ServerMetadata:
    """Read `GET /v2`.

    Raises:
        ProtocolError: it cannot be understood.
    """
    head = parse_object(body)
    return ServerMetadata(
        name=member(head, "name", str, "the server"),
        version=member(head, "version", str, "the server"),
        extensions=_strings(head.get("extensions"), "'extensions'"),
    )


def parse_model_metadata(body: bytes) -> ModelMetadata:
    """Read `GET /v2/models/M`.

    Raises:
        ProtocolError: it cannot be understood.
    """
    head = parse_object(body)
    return ModelMetadata(
        name=member(head, "name", str, "the model"),
        versions=_strings(head.get("versions"), "'versions'"),
        platform=member(head, "platform", str, "the model"),
        inputs=_tensors(head, "inputs"),
        outputs=_tensors(head, "outputs"),
    )


def parse_repository_index(body: bytes) -> tuple[RepositoryEntry, ...]:
    """Read `POST /v2/repository/index`.

    Raises:
        ProtocolError: it cannot be understood.
    """
    return tuple(_entry(as_object(value, "a model")) for value in as_list(parse_json(body), "the repository index"))


def _entry(entry: JsonObject) -> RepositoryEntry:
    return RepositoryEntry(
        name=member(entry, "name", str, "a model"),
        version=optional_member(entry, "version", str, "a model"),
        state=optional_member(entry, "state", str, "a model") or "",
        reason=optional_member(entry, "reason", str, "a model") or "",
    )


def _tensors(head: JsonObject, name: str) -> tuple[TensorMetadata, ...]:
    tensors = [as_object(value, "a tensor") for value in as_list(head.get(name), f"{name!r}")]
    return tuple(
        TensorMetadata(
            name=member(tensor, "name", str, "a tensor"),
            datatype=member(tensor, "datatype", str, "a tensor"),
            shape=_shape(tensor.get("shape")),
        )
        for tensor in tensors
    )


def _shape(value: Any) -> tuple[int, ...]:
    axes = as_list(value, "'shape'")
    if any(type(axis) is not int or axis < -1 for axis in axes):
        raise ProtocolError(f"{axes!r} is not a shape")
    return tuple(axes)


def _strings(value: Any, what: str) -> tuple[str, ...]:
    strings = as_list([] if value is None else value, what)
    if not all(isinstance(string, str) for string in strings):
        raise ProtocolError(f"{what} holds other values than strings")
    return tuple(strings)
