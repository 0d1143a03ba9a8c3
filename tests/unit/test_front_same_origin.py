"""Pages of other sites, in a browser on this machine, cannot give orders to a daemon without keys."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from front_rig import input_tensor, rig
from key_rig import KEYS, bearer, locked

from batchd_server.config.settings import KeyScope

pytestmark = pytest.mark.asyncio

INFER = "/v2/models/scale/infer"
BODY: dict[str, Any] = {"inputs": [input_tensor("x", "FP32", [1, 1], data=[1])]}


async def ask(name: str, origin: str | list[str] | None, /, method: str = "POST", **server: Any) -> httpx.Response:
    origins = [] if origin is None else [origin] if isinstance(origin, str) else origin
    headers = [("host", name), *(("origin", value) for value in origins)]
    async with rig(**server) as front:
        if method == "POST":
            return await front.client.post(INFER, json=BODY, headers=headers)
        return await front.client.request(method, "/v2/models/scale", headers=headers)


OWN = [
    ("127.0.0.1:8080", None),
    ("anything.example", None),
    ("127.0.0.1:8080", "http://127.0.0.1:8080"),
    ("localhost:8080", "http://localhost:8080"),
    ("LOCALHOST:8080", "http://localhost:8080"),
    ("localhost", "https://localhost"),
    ("[::1]:8080", "http://[::1]:8080"),
]
FOREIGN = [
    ("127.0.0.1:8080", "https://attacker.example"),
    ("127.0.0.1:8080", "http://127.0.0.1:3000"),
    ("127.0.0.1:8080", "http://localhost:8080"),
    ("127.0.0.1:8080", "null"),
    ("127.0.0.1:8080", ""),
    ("127.0.0.1:8080", ["http://127.0.0.1:8080", "https://attacker.example"]),
    ("attacker.example:8080", "http://attacker.example:8080"),
    ("127.0.0.1.attacker.example", "http://127.0.0.1.attacker.example"),
    ("localhost.attacker.example", "http://localhost.attacker.example"),
    ("", "http://"),
]


@pytest.mark.parametrize(("host", "origin"), OWN)
async def test_clients_and_own_pages_are_served(host: str, origin: str | None) -> None:
    assert (await ask(host, origin)).status_code == 200


@pytest.mark.parametrize(("host", "origin"), FOREIGN)
async def test_other_pages_may_not_send(host: str, origin: str | list[str]) -> None:
    answer = await ask(host, origin)
    assert answer.status_code == 403
    assert answer.json()["error"] == "a page of another origin may not send this"
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(("host", "origin"), FOREIGN[:5])
async def test_what_they_may_ask_for_their_browser_will_not_show_them(host: str, origin: str) -> None:
    answer = await ask(host, origin, method="GET")
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    asked_before = await ask(host, origin, method="OPTIONS")
    assert asked_before.status_code == 403


async def test_a_name_that_the_configuration_gives_is_our_own() -> None:
    name, origin = "models.lan:8080", "http://models.lan:8080"
    assert (await ask(name, origin)).status_code == 403
    assert (await ask(name, origin, host="Models.lan")).status_code == 200
    assert (await ask(name, origin, insecure=True)).status_code == 200
    assert (await ask(name, "http://attacker.example", insecure=True)).status_code == 403


async def test_a_key_says_more_than_an_origin() -> None:
    headers = {**bearer(KEYS[KeyScope.INFER]), "origin": "https://a-page-with-a-key.example"}
    async with locked() as front:
        assert (await front.post(INFER, json=BODY, headers=headers)).status_code == 200
