"""A real daemon for tests: supervisor, front and device process on a free port."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from batchd_server.cli.child_daemon import ChildDaemon, child_daemon

ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@contextmanager
def daemon(folder: Path, config: str = "") -> Iterator[ChildDaemon]:
    """Serve `config` (TOML; empty = the embedded default) while the context is open."""
    arguments: list[str] = []
    if config:
        path = folder / "batchd.toml"
        path.write_text(config)
        arguments = ["--config", str(path)]
    with child_daemon(folder / "daemon.log", arguments=arguments, environment=ONE_THREAD) as running:
        yield running
