"""What a load test's picture shows."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batchd_client.loadtest.plot import FORMATS, check_plotting, plot_reports
from batchd_client.loadtest.report import LoadReport, report_of
from batchd_client.loadtest.runner import Recording
from batchd_client.loadtest.sample import NO_TIMING, Sample

figure = pytest.importorskip("matplotlib.figure")


def answered_at(done: float, took_s: float = 0.001) -> Sample:
    return Sample(
        scheduled=done - took_s,
        sent=done - took_s,
        done=done,
        outcome="200",
        ok=True,
        answered=True,
        size=8,
        items=1,
        deadline_s=None,
        waited_for_connection=False,
        timing=NO_TIMING,
        message="",
    )


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Figures, where they would have been saved."""
    figures: list[Any] = []
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, path: figures.append(self))
    return figures


def recorded(samples: list[Sample], seconds: float) -> LoadReport:
    recording = Recording(
        measured_from=0.0, span_s=seconds, samples=samples, offered=len(samples), wall_s=seconds, cpu_share=0.1
    )
    return report_of(recording, mode="open", slo_s=None)


@pytest.mark.parametrize("seconds", [0.1, 4.1, 30.03])
def test_steady_throughput_is_drawn_steady_to_the_end(seconds: float, tmp_path: Path, drawn: list[Any]) -> None:
    samples = [answered_at((number + 0.5) / 100) for number in range(round(seconds * 100))]
    plot_reports([recorded(samples, seconds)], tmp_path / "plot.png", "title")
    curves = {patch.get_label(): patch.get_data().values for patch in drawn[0].axes[2].patches}
    assert curves.keys() == {"offered", "answered", "goodput"}
    assert curves["answered"] == pytest.approx(100.0, rel=0.1)


@pytest.mark.parametrize("slowest_ms", [20.0, 900.0, 30_000.0])
def test_labels_of_the_latency_axis_do_not_run_into_each_other(
    slowest_ms: float, tmp_path: Path, drawn: list[Any]
) -> None:
    samples = [answered_at(0.5, took_s) for took_s in np.geomspace(0.0022, slowest_ms / 1e3, 50)]
    plot_reports([recorded(samples, 1.0)], tmp_path / "plot.png", "title")
    axis = drawn[0].axes[1].xaxis
    drawn[0].draw_without_rendering()
    low, high = axis.get_view_interval()
    shown = [label for label, at in zip(axis.get_ticklabels(), axis.get_ticklocs(), strict=True) if low <= at <= high]
    boxes = sorted((label.get_window_extent() for label in shown), key=lambda box: box.x0)
    assert len(boxes) >= 3
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    assert not any(label.get_text() for label in axis.get_ticklabels(minor=True))


def test_only_endings_that_can_be_drawn_are_taken() -> None:
    for ending in FORMATS:
        check_plotting(Path(f"plot{ending}"))
    with pytest.raises(ValueError, match="must end in"):
        check_plotting(Path("plot.txt"))
