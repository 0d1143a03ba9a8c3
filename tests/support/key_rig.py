"""One key for each scope, and a front that asks for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from front_rig import InlineDispatcher, settings_for

from batchd_server.config.keys import key_digest, new_key
from batchd_server.config.settings import KeyScope, KeySettings, SecuritySettings
from batchd_server.front.app import create_app

KEYS = {scope: new_key() for scope in KeyScope}
SETTINGS = tuple(
    KeySettings(name=f"{scope}-key", sha256=key_digest(key.encode()), scopes=(scope,)) for scope, key in KEYS.items()
)
TOML = "".join(
    f'[[security.keys]]\nname = "{each.name}"\nsha256 = "{each.sha256}"\nscopes = ["{each.scopes[0]}"]\n'
    for each in SETTINGS
)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@asynccontextmanager
async def locked(dispatcher: InlineDispatcher | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """A front that knows `KEYS`, called in this process."""
    dispatcher = dispatcher or InlineDispatcher()
    settings = settings_for(dispatcher).model_copy(update={"security": SecuritySettings(keys=SETTINGS)})
    transport = httpx.ASGITransport(app=create_app(settings, dispatcher))
    async with httpx.AsyncClient(transport=transport, base_url="http://front") as client:
        yield client
