"""Keys and scopes: who may do what, on every route, before anything of the body is read."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from typing import Any

import httpx
import pytest
from front_rig import InlineDispatcher, input_tensor, rig, settings_for
from key_rig import KEYS, SETTINGS, bearer, locked
from starlette.routing import Route, compile_path

from batchd_server.config.settings import KeyScope, SecuritySettings
from batchd_server.front.app import create_app
from batchd_server.front.keys import Keys
from batchd_server.front.scopes import OPEN, SCOPES, require_every_route, scopes_of
from batchd_server.observe.log_context import serving_id

pytestmark = pytest.mark.asyncio

ROUTES = sorted(SCOPES)
INFER = "/v2/models/scale/infer"


def filled(path: str) -> str:
    return path.replace("{", "").replace("}", "")


async def test_every_route_is_in_the_table_and_every_entry_is_a_route() -> None:
    routes = create_app(settings_for(InlineDispatcher()), InlineDispatcher()).routes
    assert all(type(route).__mro__.count(Route) == 1 for route in routes), "a mount would escape the table"
    found = [
        (method, route.path)
        for route in routes
        if isinstance(route, Route)
        for method in sorted(route.methods or ())
        if not (method == "HEAD" and "GET" in (route.methods or ()))
    ]
    assert sorted(found) == ROUTES


async def test_an_application_with_a_route_that_is_not_in_the_table_does_not_start() -> None:
    with pytest.raises(ValueError, match=r"GET /v1/secrets\b"):
        require_every_route([("GET", "/metrics"), ("GET", "/v1/secrets")])


async def test_the_table_says_what_it_should() -> None:
    def scopes(needed: frozenset[KeyScope]) -> set[str]:
        return {str(scope) for scope in needed}

    assert {path for (_, path), needed in SCOPES.items() if needed == OPEN} == {
        "/", "/docs", "/docs/{file}", "/openapi.json", "/v2/health/live", "/v2/health/ready",
    }  # fmt: skip
    for (method, path), needed in SCOPES.items():
        if path.startswith(("/v1/training", "/v1/datasets", "/v1/fine_tuning", "/v1/leases")):
            assert needed != OPEN
            assert KeyScope.INFER not in needed
        if path.endswith(("/load", "/unload", "/promote", "/rollback")):
            assert scopes(needed) == {"admin"}
        if path.endswith("/infer") or path == "/v1/embeddings":
            assert scopes(needed) == {"infer"}
        if KeyScope.MONITOR in needed:
            assert method == "GET" or path == "/v2/repository/index", "who monitors changes nothing"


async def test_what_the_router_would_take_for_a_route_the_table_never_takes_for_a_lesser_one() -> None:
    """The router's patterns end in `$`, which a newline may follow; other spellings may come with other versions."""
    for method, path in ROUTES:
        pattern, _, _ = compile_path(path)
        for spelling in (filled(path) + "\n", filled(path) + "/", "/" + filled(path), filled(path).upper() + "\n"):
            if pattern.match(spelling):
                assert scopes_of(method, spelling) in (None, SCOPES[method, path]), spelling


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_every_route_opens_to_its_scopes_and_to_no_others(method: str, path: str) -> None:
    reached: list[str] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["path"])

    async def ask(key: str | None) -> int:
        headers = [] if key is None else [(b"authorization", b"Bearer " + key.encode())]
        scope = {"type": "http", "method": method, "path": filled(path), "headers": headers}
        scope["state"] = {"request_id": "r"}
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            raise AssertionError("the body was asked for")

        before = len(reached)
        await Keys(inner, SETTINGS)(scope, receive, send)
        return 200 if len(reached) > before else int(sent[0]["status"])

    needed = SCOPES[method, path]
    assert await ask(None) == (200 if needed == OPEN else 401)
    assert await ask("batchd_nobody's") == (200 if needed == OPEN else 401)
    for scope, key in KEYS.items():
        opens = needed == OPEN or scope in needed or scope is KeyScope.ADMIN
        assert await ask(key) == (200 if opens else 403), scope


WRONG: dict[str, list[tuple[str, str]]] = {
    "none": [],
    "another key": [("Authorization", "Bearer batchd_x")],
    "the hash of a key": [("Authorization", f"Bearer {SETTINGS[0].sha256}")],
    "no scheme": [("Authorization", KEYS[KeyScope.ADMIN])],
    "another scheme": [("Authorization", f"Basic {KEYS[KeyScope.ADMIN]}")],
    "empty": [("Authorization", "Bearer ")],
    "two of them": [("Authorization", f"Bearer {KEYS[KeyScope.ADMIN]}")] * 2,
    "half a key": [("Authorization", f"Bearer {KEYS[KeyScope.ADMIN][:-1]}")],
    "in another header": [("X-Api-Key", KEYS[KeyScope.ADMIN])],
    "not ASCII": [("Authorization", "Bearer \xff")],
}


@pytest.mark.parametrize("headers", WRONG.values(), ids=WRONG.keys())
async def test_what_is_no_known_key_is_401_with_a_challenge(headers: list[tuple[str, str]]) -> None:
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    async with locked() as front:
        answer = await front.get("/v1/status", headers=encoded)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="batchd"'
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "unauthorized"
    assert "x-request-id" in answer.headers


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_scheme_is_spelt_in_any_case(scheme: str) -> None:
    async with locked() as front:
        answer = await front.get("/v1/status", headers={"Authorization": f"{scheme}  {KEYS[KeyScope.MONITOR]} "})
    assert answer.status_code == 200


async def test_refusals_come_in_the_form_of_each_protocol() -> None:
    document = {"inputs": [input_tensor("x", "FP32", [1, 1], data=[1])]}
    async with locked() as front:
        oip = await front.post(INFER, json=document, headers=bearer(KEYS[KeyScope.TRAIN]))
        openai = await front.post("/v1/embeddings", json={})
        forbidden = await front.post("/v1/embeddings", json={}, headers=bearer(KEYS[KeyScope.MONITOR]))
        problem = await front.post("/v1/training/jobs", json={}, headers=bearer(KEYS[KeyScope.INFER]))
    assert oip.status_code == 403
    assert oip.json()["error"] == "the key 'train-key' has not the scope infer or admin"
    assert oip.headers["www-authenticate"] == 'Bearer realm="batchd", error="insufficient_scope"'
    assert (openai.status_code, openai.json()["error"]["type"]) == (401, "authentication_error")
    assert (forbidden.status_code, forbidden.json()["error"]["type"]) == (403, "permission_error")
    assert (problem.status_code, problem.json()["title"]) == (403, "Forbidden")
    assert all(answer.headers["x-should-retry"] == "false" for answer in (oip, openai, forbidden, problem))


async def test_with_its_key_a_request_is_answered_as_ever() -> None:
    document = {"inputs": [input_tensor("x", "FP32", [1, 2], data=[1, 2])]}
    async with locked() as front:
        answer = await front.post(INFER, json=document, headers=bearer(KEYS[KeyScope.INFER]))
        nothing = await front.get("/v1/nothing", headers=bearer(KEYS[KeyScope.INFER]))
        wrong_method = await front.get("/v1/embeddings", headers=bearer(KEYS[KeyScope.ADMIN]))
        head = await front.head("/v1/status", headers=bearer(KEYS[KeyScope.MONITOR]))
    assert answer.json()["outputs"][0]["data"] == [2, 4]
    assert (nothing.status_code, wrong_method.status_code, head.status_code) == (404, 405, 200)


async def test_without_keys_nobody_is_asked() -> None:
    async with rig() as front:
        assert (await front.client.get("/v1/status")).status_code == 200


async def test_the_log_tells_of_refusals_now_and_then_and_of_no_key(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("not refused")

    keys = Keys(inner, SETTINGS, clock=lambda: now)
    secret = "batchd_the-wrong-one"

    async def send(message: Any) -> None:
        """Nobody listens."""

    async def ask() -> None:
        headers = [(b"authorization", b"Bearer " + secret.encode())]
        scope = {"type": "http", "method": "GET", "path": "/metrics", "headers": headers, "state": {"request_id": "r"}}
        await keys(scope, lambda: None, send)  # type: ignore[arg-type,return-value]

    with caplog.at_level(logging.DEBUG):
        for _ in range(1000):
            await ask()
        assert len(caplog.messages) == 1
        now = 10.0
        await ask()
    assert caplog.messages == [
        "refused GET /metrics: the key is not known here",
        "refused GET /metrics: the key is not known here; 999 others since the last such line",
    ]
    assert secret not in caplog.text


async def test_what_is_logged_for_a_request_names_its_key() -> None:
    named: list[str] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        named.append(serving_id("key"))

    for path, key in (("/metrics", KEYS[KeyScope.MONITOR]), ("/v2/health/live", "")):
        headers = [(b"authorization", b"Bearer " + key.encode())]
        scope = {"type": "http", "method": "GET", "path": path, "headers": headers, "state": {"request_id": "r"}}
        await asyncio.create_task(Keys(inner, SETTINGS)(scope, None, None))  # type: ignore[arg-type]
    assert named == ["monitor-key", ""]


async def test_all_hashes_are_compared_whichever_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []

    def compare(known: str, shown: str) -> bool:
        compared.append(known)
        return known == shown

    monkeypatch.setattr("batchd_server.front.keys.hmac.compare_digest", compare)
    async with locked() as front:
        answer = await front.get("/v1/status", headers=bearer(KEYS[next(iter(KEYS))]))
    assert answer.status_code == 403
    assert compared == [key.sha256 for key in SETTINGS]


async def test_a_key_is_256_random_bits_and_the_configuration_cannot_hold_one() -> None:
    key = KEYS[KeyScope.INFER]
    assert len(key.removeprefix("batchd_")) == 43
    assert SETTINGS[0].sha256 == hashlib.sha256(key.encode()).hexdigest()
    assert key not in repr(SETTINGS) + SecuritySettings(keys=SETTINGS).model_dump_json()
    assert SETTINGS[0].sha256 not in repr(SETTINGS)


async def test_the_description_tells_which_key_each_route_asks_for() -> None:
    async with locked() as front:
        document = (await front.get("/openapi.json")).json()
        again = (await front.get("/openapi.json")).json()
    assert document == again
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert document["paths"]["/metrics"]["get"]["security"] == [{"key": ["monitor"]}, {"key": ["admin"]}]
    assert "security" not in document["paths"]["/v2/health/ready"]["get"]
    async with rig() as open_front:
        assert "securitySchemes" not in (await open_front.client.get("/openapi.json")).text


async def _get(path: str, headers: dict[str, str] | None = None) -> httpx.Response:
    async with rig() as front:
        return await front.client.get(path, headers=headers)


@pytest.mark.parametrize("path", ["/v1/status", "/v2/models/scale", "/openapi.json", "/nothing", "/v2/health/ready"])
async def test_answers_that_a_browser_could_show_are_of_no_use_to_other_pages(path: str) -> None:
    headers = (await _get(path)).headers
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"


async def test_the_page_has_a_policy_of_its_own_and_loads_nothing_from_elsewhere() -> None:
    page = await _get("/docs")
    policy = page.headers.get_list("content-security-policy")
    assert len(policy) == 1
    assert "script-src 'self';" in policy[0]
    assert "http" not in policy[0]
    assert "<script>" not in page.text
    assert "//" not in page.text.replace("<!doctype", "")
    for name in ("operations.js", "swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"):
        loaded = await _get(f"/docs/{name}")
        assert loaded.status_code == 200
        assert loaded.headers["cache-control"] == "max-age=3600"
        assert loaded.content
        part = await _get(f"/docs/{name}", {"Range": "bytes=abc"})
        assert (part.status_code, part.content) == (200, loaded.content)  # whole: parts are not offered
    for name in ("../app.py", "..%2fapp.py", "docs.html", "x.js"):
        assert (await _get(f"/docs/{name}")).status_code == 404
