"""The public surface: what is exported, and that both clients offer the same."""

from __future__ import annotations

import inspect
import types
from typing import Any

import httpx
import pytest

import batchd_client
from batchd_client import AsyncClient, Client


def test_all_is_what_can_be_imported() -> None:
    importable = {
        name
        for name, value in vars(batchd_client).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert set(batchd_client.__all__) == importable
    assert batchd_client.__all__ == sorted(batchd_client.__all__, key=lambda name: (name.islower(), name))


ENTERED = {"lease"}
"""What is entered, by `with` or `async with`, instead of awaited."""


def methods(kind: type) -> dict[str, Any]:
    return {name: method for name, method in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}


def test_both_clients_have_the_same_methods_with_the_same_signatures_and_words() -> None:
    blocking, asynchronous = methods(Client), methods(AsyncClient)
    assert blocking.keys() == asynchronous.keys()
    for name, method in blocking.items():
        other = asynchronous[name]
        assert inspect.iscoroutinefunction(other) != (name in ENTERED), name
        assert inspect.signature(method).parameters == inspect.signature(other).parameters, name
        if name not in ENTERED:
            assert inspect.signature(method) == inspect.signature(other), name
        assert inspect.getdoc(method) == inspect.getdoc(other), name


def test_the_documentation_names_every_method_and_error(request: pytest.FixtureRequest) -> None:
    text = (request.config.rootpath / "docs" / "client.md").read_text()
    errors = {name for name in batchd_client.__all__ if inspect.isclass(getattr(batchd_client, name))}
    missing = [name for name in {*methods(Client), *errors} if name not in text]
    assert missing == []


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("base_url", "api_key"),
    [
        ("localhost:8080", None),
        ("ftp://host", None),
        ("http://", None),
        ("http://host:port", None),
        ("http://host/?q=1", None),
        ("http://host", ""),
        ("http://host", "two\r\nlines"),
        ("http://host", "schl\u00fcssel"),
    ],
)
def test_an_unusable_address_or_key_is_refused_at_once(kind: Any, base_url: str, api_key: str | None) -> None:
    with pytest.raises(ValueError, match=r"base_url|api_key"):
        kind(base_url, api_key=api_key)


def test_a_client_closes_its_own_connections_but_not_those_it_was_given() -> None:
    with Client() as own:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        own.status()
    with httpx.Client() as given:
        Client(http=given).close()
        assert not given.is_closed
