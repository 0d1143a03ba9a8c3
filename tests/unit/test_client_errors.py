"""Error answers in three dialects become one kind of exception."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest

import batchd_client
from batchd_client import errors
from batchd_client.error_answers import read_error, retry_after_s
from batchd_client.wire import Answer

NOON = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC


def answer(status: int = 400, body: object = b"", **headers: str) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status=status, headers={k.replace("_", "-"): v for k, v in headers.items()}, body=raw, received=NOON)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.BadRequest),
        (422, errors.BadRequest),
        (401, errors.Unauthorized),
        (403, errors.Forbidden),
        (404, errors.NotFound),
        (413, errors.TooLarge),
        (429, errors.Overloaded),
        (500, errors.ServerFailed),
        (502, errors.ServerFailed),
        (503, errors.Unavailable),
        (504, errors.DeadlineExceededOnServer),
        (507, errors.InsufficientMemory),
        (405, errors.ServerError),
        (415, errors.ServerError),
    ],
)
def test_the_status_decides_the_class(status: int, kind: Any) -> None:
    error = read_error(answer(status))
    assert type(error) is kind
    assert error.status == status


def test_a_missed_deadline_is_one_kind_of_error_whoever_noticed() -> None:
    assert isinstance(read_error(answer(504)), errors.DeadlineExceeded)


@pytest.mark.parametrize(
    "body",
    [
        {"error": "no such model", "code": "not_found", "field": "model", "request_id": "r"},
        {"error": {"message": "no such model", "type": "x", "param": "model", "code": "not_found"}, "request_id": "r"},
        {"type": "about:blank", "title": "Not Found", "status": 404, "detail": "no such model"}
        | {"code": "not_found", "field": "model", "request_id": "r"},
    ],
)
def test_every_dialect_tells_the_same(body: Any) -> None:
    error = read_error(answer(404, body))
    assert (error.message, error.code, error.field, error.request_id) == ("no such model", "not_found", "model", "r")
    assert str(error) == "no such model (status 404, code not_found, field model, request r)"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>Bad gateway</html>", "'<html>Bad gateway</html>'"),
        (b"", "no reason given"),
        (b"\xff", "'\ufffd'"),
        ({"detail": [{"loc": ["body"]}]}, None),
        ({"error": None}, None),
        ({"error": {"message": 5}}, None),
        ([], None),
        (b"[" * 100_000, None),
        (b"x" * 10_000, None),
        ({"title": "Teapot"}, "Teapot"),
    ],
)
def test_foreign_bodies_still_make_a_message_of_bounded_length(body: Any, message: str | None) -> None:
    error = read_error(answer(502, body))
    assert error.message
    assert len(error.message) < 1000
    assert message in {None, error.message}


def test_the_request_id_comes_from_the_header_where_the_body_lacks_it() -> None:
    assert read_error(answer(500, {"error": "x"}, x_request_id="h")).request_id == "h"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry_after": "2"}, 2),
        ({"retry_after": "0.5"}, 0.5),
        ({"retry_after": "2", "retry_after_ms": "1500"}, 1.5),
        ({"retry_after": "2", "retry_after_ms": "soon"}, 2),
        ({"retry_after": "-1"}, None),
        ({"retry_after": "inf"}, None),
        ({"retry_after": "tomorrow"}, None),
        ({"retry_after": "Tue, 14 Nov 2023 22:13:25 GMT"}, 5),
        ({"retry_after": "Tue, 14 Nov 2023 22:13:25 -0000"}, 5),
        ({"retry_after": "Tue, 14 Nov 2023 22:00:00 GMT"}, 0),
        ({"retry_after": "Tue, 14 Nov 2023 09:00:07 GMT", "date": "Tue, 14 Nov 2023 09:00:00 GMT"}, 7),
    ],
)
def test_the_pause_asked_for_is_read_in_all_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(answer(429, **headers)) == seconds


def test_errors_survive_pickling() -> None:
    error = read_error(answer(429, {"error": "full", "code": "queue_full"}, retry_after="3"))
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert vars(again) == vars(error)
    assert again.retry_after_s == 3


def test_the_tree_in_the_docstring_names_every_error() -> None:
    kinds = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert all(f"{name} " in errors.__doc__ or f"{name}\n" in errors.__doc__ for name in kinds)
    assert kinds <= set(batchd_client.__all__)
