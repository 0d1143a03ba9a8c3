"""What is wrong with a configuration, one line per problem: where it stands, which key, what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing to correct."""

    source: str
    """The file, environment variable or option that holds the value."""
    key: str
    """Dotted, as in TOML; empty where the problem is not about one key."""
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.source, self.key, " ".join(self.message.split())) if part)


class ConfigError(Exception):
    """The configuration cannot be used."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def unknown_key(key: str, allowed: Iterable[str]) -> str:
    """Return the message for a key that does not exist, with the nearest one that does."""
    names = sorted(allowed)
    nearest = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    suggestion = f"did you mean {nearest[0]}? " if nearest else ""
    return f"unknown key; {suggestion}allowed: {', '.join(names)}"
