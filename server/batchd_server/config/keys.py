"""Keys that clients show: how one is made, and what the configuration keeps of it.

A key is 256 random bits, so its SHA-256 tells nothing about it: there is no list of likely keys to try, as there is of
passwords, and a slow hash would only let clients that are refused cost more.
"""

from __future__ import annotations

import hashlib
import secrets

PREFIX = "batchd_"
"""Lets scanners for leaked secrets find keys."""
RANDOM_BYTES = 32


def new_key() -> str:
    """Return a key that nobody has."""
    return PREFIX + secrets.token_urlsafe(RANDOM_BYTES)


def key_digest(key: bytes) -> str:
    """Return what `security.keys` holds of a key: the SHA-256 of its bytes, in hexadecimal digits."""
    return hashlib.sha256(key).hexdigest()
