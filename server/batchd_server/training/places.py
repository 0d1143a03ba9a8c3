"""Where training keeps what: the database, uploaded datasets, checkpoints. The same in every process of a daemon."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import URL

from batchd_server.config.settings import Settings

DATABASE = "batchd.sqlite3"


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Paths and the database's URL; nothing of them need exist yet."""

    database: str
    directory: Path
    data_root: Path | None
    """What datasets may be named by a path below; None = nothing."""
    lasting: bool
    """Whether all of it outlives the daemon."""

    @classmethod
    def of(cls, settings: Settings, link_address: str) -> Places:
        """Return the places of a daemon; one without a state directory keeps them beside its link's socket."""
        configured = settings.state.directory
        directory = Path(link_address.removeprefix("ipc://")).parent / "state" if configured is None else configured
        directory = directory.absolute()
        url = settings.training.database
        return cls(
            database=url or URL.create("sqlite", database=str(directory / DATABASE)).render_as_string(),
            directory=directory,
            data_root=settings.training.data_root,
            lasting=configured is not None,
        )

    @property
    def datasets(self) -> Path:
        """Where uploads lie, a folder each."""
        return self.directory / "datasets"

    @property
    def checkpoints(self) -> Path:
        """Where jobs save their states, a folder each."""
        return self.directory / "training"

    @property
    def promoted(self) -> Path:
        """Where the weights lie that models were promoted to, a folder each."""
        return self.directory / "promoted"
