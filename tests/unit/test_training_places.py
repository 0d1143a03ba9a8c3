"""Where training's state lies, and that any database could hold it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.schema import CreateTable

from batchd_server.config.settings import Settings, StateSettings, TrainingSettings
from batchd_server.training.job_spec import JobSpec
from batchd_server.training.places import Places
from batchd_server.training.store import TrainingStore
from batchd_server.training.store_tables import METADATA

LINK = "ipc:///run/batchd-x/link"


@pytest.mark.parametrize(
    "name", ["plain", "with space", "a?b=c", "100%", "100%41", "#1", "a@b:c", "quo'te", "\u00e9t\u00e9"]
)
def test_every_process_finds_the_same_database_whatever_the_directory_is_called(tmp_path: Path, name: str) -> None:
    settings = Settings(state=StateSettings(directory=tmp_path / name))
    places = Places.of(settings, LINK)
    assert places.lasting
    store = TrainingStore.open(places.database)
    job = store.create_job(JobSpec(model="m", dataset="d", epochs=1))
    again = TrainingStore.open(Places.of(settings, "ipc:///elsewhere/link").database)
    assert again.job(job.id) == job
    assert (tmp_path / name / "batchd.sqlite3").is_file()
    assert {path.name.partition("-")[0] for path in (tmp_path / name).iterdir()} == {"batchd.sqlite3"}
    for each in (store, again):
        each.close()
    assert places.datasets.parent == places.checkpoints.parent == places.promoted.parent == tmp_path / name


def test_without_a_state_directory_it_goes_with_the_daemon() -> None:
    places = Places.of(Settings(), LINK)
    assert not places.lasting
    assert places.directory == Path("/run/batchd-x/state")
    assert places.database == "sqlite:////run/batchd-x/state/batchd.sqlite3"


def test_a_relative_directory_is_the_same_from_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    places = Places.of(Settings(state=StateSettings(directory=Path("state"))), LINK)
    assert places.directory == tmp_path / "state"


def test_a_configured_url_goes_before() -> None:
    url = "postgresql://me:secret@there/jobs"
    settings = Settings(state=StateSettings(directory=Path("/state")), training=TrainingSettings(database=url))
    assert Places.of(settings, LINK).database == url


@pytest.mark.parametrize(
    ("key", "value"),
    [("database", "no url"), ("share_max", 0), ("share_max", 1.1), ("priority", -1), ("uploads_max_bytes", 0)],
)
def test_settings_out_of_range_are_refused(key: str, value: object) -> None:
    with pytest.raises(ValidationError, match=key):
        TrainingSettings.model_validate({key: value})


@pytest.mark.parametrize("dialect", [sqlite.dialect(), postgresql.dialect(), mysql.dialect()], ids=lambda d: d.name)
def test_the_tables_can_be_written_in_other_dialects(dialect: Dialect) -> None:
    for table in METADATA.sorted_tables:
        text = str(CreateTable(table).compile(dialect=dialect))
        assert text.strip().startswith(f"CREATE TABLE {table.name}")
        assert all(column.name in text for column in table.columns)
