"""What `batchd train` makes of a job: lines, a bar's length, curves."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchd_client import BatchSizeCommit, JobEvent, TrainingFigures, TrainingJob
from batchd_server.cli.train_follow import event_line, fraction_done
from batchd_server.cli.train_plot import plot_job, smoothed
from batchd_server.cli.train_show import figures_line

BLANK = TrainingFigures(
    step=0,
    examples=0,
    epoch=0.0,
    loss=None,
    accuracy=None,
    validation_loss=None,
    validation_accuracy=None,
    batch_size=None,
    learning_rate=None,
    noise_scale=None,
    microbatch=None,
    device_share=None,
    seconds=None,
)


def job(progress: TrainingFigures = BLANK, **document: Any) -> TrainingJob:
    return TrainingJob(
        id="job-1",
        status="running",
        reason=None,
        model="m",
        dataset="d",
        created_at=0.0,
        started_at=None,
        finished_at=None,
        progress=progress,
        document=document,
    )


def step(number: int, **figures: Any) -> TrainingFigures:
    return replace(BLANK, step=number, epoch=number / 10, **figures)


@pytest.mark.parametrize(
    ("document", "progress", "fraction"),
    [
        ({"epochs": 4, "max_steps": None}, step(10), 0.25),
        ({"epochs": None, "max_steps": 40}, step(10), 0.25),
        ({"epochs": 4, "max_steps": 20}, step(10), 0.5),
        ({"epochs": 1, "max_steps": None}, step(11), 1.0),
        ({}, step(10), None),
    ],
)
def test_a_job_is_as_far_as_its_nearer_end(
    document: dict[str, Any], progress: TrainingFigures, fraction: float | None
) -> None:
    assert fraction_done(job(progress, **document)) == fraction


@pytest.mark.parametrize(
    ("kind", "data", "line"),
    [
        ("started", {}, "started"),
        ("validation", {"step": 9, "loss": 0.123456, "accuracy": None}, "validation: step 9, loss 0.1235"),
        ("out_of_memory", {"microbatch": 8}, "out of memory: microbatch 8"),
        (
            "batch_size",
            {"step": 9, "size": 64, "reason": "noise", "raw": 70.5},
            "batch size 64 after step 9: noise",
        ),
    ],
)
def test_an_event_is_one_line(kind: str, data: dict[str, Any], line: str) -> None:
    assert event_line(JobEvent(id=1, at=None, kind=kind, data=data)) == line
    dated = event_line(JobEvent(id=1, at=0.0, kind=kind, data=data))
    assert dated.endswith(f" {line}")
    assert dated.count(":") - line.count(":") == 2


def test_figures_that_are_not_known_are_not_told() -> None:
    assert figures_line(BLANK) == "step 0, epoch 0.00"
    assert figures_line(step(3, loss=0.5, accuracy=0.25, batch_size=8, device_share=0.5)) == (
        "step 3, epoch 0.30, loss 0.5, accuracy 25.0%, batch size 8, device 50%"
    )


@given(st.lists(st.one_of(st.floats(-10, 10), st.just(math.nan)), max_size=400))
def test_a_smoothed_curve_stays_between_the_values_around_it(values: list[float]) -> None:
    array = np.array(values, dtype=np.float64)
    curve = smoothed(array)
    assert curve.shape == array.shape
    reach = max(0, round(len(values) * 0.01))
    for place, value in enumerate(curve):
        around = array[max(0, place - reach) : place + reach + 1]
        around = around[np.isfinite(around)]
        assert math.isnan(value) == (around.size == 0)
        assert around.size == 0 or around.min() - 1e-9 <= value <= around.max() + 1e-9


figure = pytest.importorskip("matplotlib.figure")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Figures, where they would have been saved."""
    figures: list[Any] = []
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, path: figures.append(self))
    return figures


def curve(axes: Any, label: str) -> tuple[list[float], list[float]]:
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return list(line.get_xdata()), list(line.get_ydata())


def test_a_picture_shows_what_was_told(tmp_path: Path, drawn: list[Any]) -> None:
    carried = [0.5, 0.5, 0.6, 0.6, None]
    steps = [
        step(
            number,
            loss=2.0 / number,
            accuracy=0.1 * number,
            validation_accuracy=carried[number - 1],
            batch_size=16 if number < 3 else 32,
            microbatch=4,
            learning_rate=0.01,
            device_share=0.5,
        )
        for number in range(1, 6)
    ]
    commits = [
        BatchSizeCommit(step=at, schedule="s", raw=1.0, smoothed=1.0, size=size, reason="r", changed=changed)
        for at, size, changed in ((2, 16, False), (3, 32, True), (99, 64, True))
    ]
    plot_job(job(steps[-1], batching={"schedule": {"name": "linear"}}), steps, commits, tmp_path / "run.png")
    (picture,) = drawn
    axes = {panel.get_title(): panel for panel in picture.axes}
    assert list(axes) == [
        "Loss",
        "Accuracy",
        "Batch size",
        "Learning rate",
        "Gradient noise scale",
        "Share of the device",
    ]
    assert curve(axes["Loss"], "training")[1] == pytest.approx([2.0 / number for number in range(1, 6)])
    assert curve(axes["Accuracy"], "validation") == ([0.1, 0.3], [50.0, 60.0])
    assert curve(axes["Batch size"], "global batch")[1] == [16, 16, 32, 32, 32]
    assert curve(axes["Batch size"], "decided anew") == ([0.3], [32])
    assert [text.get_text() for text in axes["Gradient noise scale"].texts] == ["not measured"]
    assert axes["Share of the device"].lines[0].get_ydata().tolist() == [50.0] * 5
    assert "linear" in picture.get_suptitle()


def test_a_job_that_has_made_no_step_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not made a step"):
        plot_job(job(), [], [], tmp_path / "run.png")


@pytest.mark.parametrize("figures", [{}, {"loss": 0.0, "noise_scale": -1.0}, {"loss": 1e300, "noise_scale": 1e-300}])
@pytest.mark.parametrize("count", [1, 2, 300])
def test_odd_runs_are_drawn_without_a_warning(tmp_path: Path, figures: dict[str, Any], count: int) -> None:
    steps = [step(number, **figures) for number in range(1, count + 1)]
    plot_job(job(steps[-1]), steps, [], tmp_path / "run.svg")
    assert (tmp_path / "run.svg").stat().st_size > 1000
