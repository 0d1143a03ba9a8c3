"""`batchd key`: keys for clients. Only their hashes are ever stored."""

from __future__ import annotations

from typing import Annotated

import typer
from pydantic import ValidationError

from batchd_server.config.keys import key_digest, new_key
from batchd_server.config.settings import KeyScope, KeySettings

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.callback()
def _root() -> None:
    """Make keys for clients."""


@app.command()
def new(
    name: Annotated[str, typer.Option(help="Who the key is for; the log names it.")],
    scope: Annotated[list[KeyScope], typer.Option(help="What it may do; may be repeated.")],
) -> None:
    """Print a fresh key, once, and what the configuration needs to know of it."""
    key = new_key()
    try:
        settings = KeySettings(name=name, sha256=key_digest(key.encode("ascii")), scopes=tuple(dict.fromkeys(scope)))
    except ValidationError:
        allowed = KeySettings.model_fields["name"].description
        raise typer.BadParameter(f"must be {allowed}", param_hint="--name") from None
    quoted = ", ".join(f'"{each}"' for each in settings.scopes)
    print(f"{key}\n")
    print("# The key above is shown once and stored nowhere. The configuration gets this:")
    print(f'[[security.keys]]\nname = "{settings.name}"\nsha256 = "{settings.sha256}"\nscopes = [{quoted}]')
