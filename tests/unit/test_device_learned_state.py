"""What was learned survives a restart, and nothing broken or foreign is taken over."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchd_server.device.learned_state import Learned, LearnedState, LearnedWriter
from batchd_server.device.work import PredictedPeak

HERE = {"device": "cpu", "options": {"sizes": (1, 2)}}
STATE = Learned(
    state={"latency": [1.0, 2.0]},
    policy="64 items",
    predicted=(PredictedPeak(batch_size=2, shape=(16,), peak_bytes=4096),),
)


def test_what_was_saved_comes_back_under_the_same_circumstances(tmp_path: Path) -> None:
    learned = LearnedState(tmp_path / "not" / "there" / "yet")
    learned.save("a-model", HERE, STATE)
    assert learned.load("a-model", HERE) == STATE
    assert learned.load("a-model", {**HERE, "device": "H100"}) is None
    assert learned.load("another", HERE) is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        '{"format": 3, "circumstances": {"device": "cpu", "options": {"sizes": [1, 2]}}, "state": {}}',
        '{"format": 99}',
        '{"format": 1}',
        "\x00\xff",
    ],
)
def test_a_broken_file_is_ignored(tmp_path: Path, content: str) -> None:
    learned = LearnedState(tmp_path)
    learned.save("m", HERE, STATE)
    (tmp_path / "cost-models" / "m.json").write_text(content)
    assert learned.load("m", HERE) is None
    learned.save("m", HERE, STATE)
    assert learned.load("m", HERE) == STATE


def test_a_save_leaves_one_file_per_model(tmp_path: Path) -> None:
    learned = LearnedState(tmp_path)
    for name in ("a", "b", "a"):
        learned.save(name, HERE, STATE)
    assert sorted(path.name for path in (tmp_path / "cost-models").iterdir()) == ["a.json", "b.json"]


def test_a_directory_that_cannot_be_made_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    learned = LearnedState(tmp_path / "file")
    learned.save("m", HERE, STATE)
    assert "cannot be saved" in caplog.text
    assert learned.load("m", HERE) is None


def test_no_directory_keeps_nothing() -> None:
    learned = LearnedState(None)
    learned.save("m", HERE, STATE)
    assert not learned.enabled
    assert learned.load("m", HERE) is None


def test_a_writer_saves_the_latest_and_holds_up_nobody(tmp_path: Path) -> None:
    learned = LearnedState(tmp_path)
    writer = LearnedWriter(learned)  # not started: the disk stalls
    for turn in range(1000):
        writer.save("m", HERE, replace(STATE, policy=str(turn)))
    writer.start()
    assert writer.stop(10.0)
    kept = learned.load("m", HERE)
    assert kept is not None
    assert kept.policy == "999"


class Contended(dict[str, Any]):
    """Between a look and what follows from it, another thread has its turn, if it may."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = threading.Event()

    def __contains__(self, name: object) -> bool:
        found = super().__contains__(name)
        if found:
            self.taken.wait(0.5)
        return found

    def pop(self, name: str) -> Any:  # type: ignore[override]
        taken = super().pop(name)
        self.taken.set()
        return taken


def test_what_is_saved_while_the_writer_takes_the_last_is_saved_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned = LearnedState(tmp_path)
    writer = LearnedWriter(learned)
    monkeypatch.setattr(writer, "_waiting", Contended())
    writer.save("m", HERE, replace(STATE, policy="first"))
    racing = threading.Thread(target=writer.save, args=("m", HERE, replace(STATE, policy="second")))
    racing.start()  # it has looked, or will
    writer.start()
    racing.join()
    assert writer.stop(10.0)
    kept = learned.load("m", HERE)
    assert kept is not None
    assert kept.policy == "second"
