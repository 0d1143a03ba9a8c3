"""The OpenAPI description tells how every route fails, in the form of its family."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from front_rig import InlineDispatcher, settings_for

from batchd_server.config.keys import key_digest
from batchd_server.config.settings import KeyScope, KeySettings, SecuritySettings, Settings
from batchd_server.front.app import create_app
from batchd_server.front.error_responses import ErrorForm, form_of


def described(settings: Settings | None = None) -> dict[str, Any]:
    dispatcher = InlineDispatcher()
    app: FastAPI = create_app(settings or settings_for(dispatcher), dispatcher)
    assert app.openapi() is app.openapi()  # made once
    return app.openapi()


DOCUMENT = described()
OPERATIONS = [
    (path, method, operation) for path, methods in DOCUMENT["paths"].items() for method, operation in methods.items()
]


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS, ids=lambda value: str(value)[:60])
def test_errors_have_the_form_of_their_family_and_all_answers_an_id(
    path: str, method: str, operation: dict[str, Any]
) -> None:
    form = form_of(path)
    statuses = {int(status) for status in operation["responses"]}
    assert {400, 408, 431, 500, 503} <= statuses
    assert {413, 415} <= statuses or "requestBody" not in operation
    assert 404 in statuses or "{" not in path
    assert min(statuses) in (200, 201, 204)
    for status, response in operation["responses"].items():
        assert response["headers"]["X-Request-Id"]["required"] is True
        assert ("Retry-After" in response["headers"]) is (status in ("429", "503"))
        if int(status) >= 400:
            [(media_type, content)] = response["content"].items()
            assert media_type == form.media_type
            assert content["schema"]["$ref"] == f"#/components/schemas/{form.value}"


def test_every_form_is_a_schema_that_a_route_refers_to() -> None:
    assert set(DOCUMENT["components"]["schemas"]) >= {form.value for form in ErrorForm}
    assert {form_of(path) for path, *_ in OPERATIONS} == set(ErrorForm)


def test_401_and_403_are_described_where_there_are_keys_and_nowhere_else() -> None:
    assert not any({"401", "403"} & set(operation["responses"]) for *_, operation in OPERATIONS)
    key = KeySettings(name="k", sha256=key_digest(b"k"), scopes=(KeyScope.ADMIN,))
    settings = settings_for(InlineDispatcher()).model_copy(update={"security": SecuritySettings(keys=(key,))})
    for path, methods in described(settings)["paths"].items():
        for operation in methods.values():
            asked = bool(operation.get("security"))
            assert ({"401", "403"} <= set(operation["responses"])) is asked
            assert asked is not path.startswith("/v2/health/")
