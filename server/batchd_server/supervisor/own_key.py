"""The supervisor's own key to the daemon: made anew at every start, written nowhere, and good for reading figures."""

from __future__ import annotations

import secrets

from batchd_server.config.keys import key_digest, new_key
from batchd_server.config.settings import KeyScope, KeySettings, SecuritySettings, Settings


def with_own_key(settings: Settings) -> tuple[Settings, str | None]:
    """Return settings that know one key more, and that key; None, and the same settings, where none are asked for."""
    keys = settings.security.keys
    if not keys:
        return settings, None
    key = new_key()
    own = KeySettings(
        name=f"supervisor-{secrets.token_hex(4)}",  # such as nobody will have chosen
        sha256=key_digest(key.encode("ascii")),
        scopes=(KeyScope.MONITOR,),
    )
    return settings.model_copy(update={"security": SecuritySettings(keys=(*keys, own))}), key
