"""The picture of a training job: loss, accuracy, batch size, learning rate, noise scale, share of the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from batchd_client import BatchSizeCommit, TrainingFigures, TrainingJob

TRAINED, HELD_OUT, QUIET = "#1f6fb4", "#d98c00", "#8c8c8c"
SMOOTHED_SHARE = 0.02
"""Share of the steps that a smoothed curve averages over."""

WIDE = 50

Floats = npt.NDArray[np.float64]


def plot_job(
    job: TrainingJob, steps: Sequence[TrainingFigures], commits: Sequence[BatchSizeCommit], path: Path
) -> None:
    """Draw a job over its epochs, as the file's ending says (PNG, SVG, PDF).

    Raises:
        ValueError: it has not made a step.
    """
    from matplotlib.figure import Figure

    if not steps:
        raise ValueError(f"{job.id} has not made a step yet")
    figure: Any = Figure(figsize=(13.0, 7.2), dpi=110, layout="constrained")
    loss, accuracy, size, rate, noise, share = figure.subplots(2, 3, sharex=True).flat
    epochs = _values(steps, lambda step: step.epoch)
    _curves(loss, epochs, steps, lambda step: step.loss, lambda step: step.validation_loss)
    loss.set(title="Loss", ylabel="mean over the terms")
    _spread(loss, _values(steps, lambda step: step.loss))
    _curves(accuracy, epochs, steps, lambda step: step.accuracy, lambda step: step.validation_accuracy, scale=100)
    accuracy.set(title="Accuracy", ylabel="%")
    _sizes(size, epochs, steps, commits)
    _line(rate, epochs, _values(steps, lambda step: step.learning_rate))
    rate.set(title="Learning rate", ylim=(0, None))
    _noise(noise, epochs, steps)
    _line(share, epochs, _values(steps, lambda step: step.device_share) * 100)
    share.set(title="Share of the device", ylabel="%", ylim=(0, 105))
    for axes in (loss, accuracy, size, rate, noise, share):
        axes.grid(visible=True, alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in (rate, noise, share):
        axes.set_xlabel("epoch")
    figure.suptitle(_title(job), fontsize=11)
    figure.savefig(path)


def _title(job: TrainingJob) -> str:
    schedule = job.document.get("batching", {}).get("schedule", {}).get("name", "")
    now = job.progress
    return (
        f"{job.model} on {job.dataset}: {job.status}, {now.step} steps, {now.epoch:.2f} epochs, {schedule} ({job.id})"
    )


def _values(steps: Sequence[TrainingFigures], read: Callable[[TrainingFigures], float | None]) -> Floats:
    """Return one value per step; NaN, which is not drawn, where there is none."""
    found = (read(step) for step in steps)
    return np.array([math.nan if value is None else value for value in found], dtype=np.float64)


def _line(axes: Any, epochs: Floats, values: Floats) -> None:
    if np.isfinite(values).any():
        axes.plot(epochs, values, color=TRAINED, linewidth=1.4)
    else:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center", color=QUIET)


def _curves(
    axes: Any,
    epochs: Floats,
    steps: Sequence[TrainingFigures],
    trained: Callable[[TrainingFigures], float | None],
    held_out: Callable[[TrainingFigures], float | None],
    scale: float = 1.0,
) -> None:
    values = _values(steps, trained) * scale
    if np.isfinite(values).any():
        axes.plot(epochs, values, color=TRAINED, alpha=0.25, linewidth=0.8)
        axes.plot(epochs, smoothed(values), color=TRAINED, linewidth=1.6, label="training")
    validated = _values(steps, held_out) * scale
    there = np.isfinite(validated)
    there[1:] &= validated[1:] != validated[:-1]  # a figure that is only carried along is drawn once
    if there.any():
        axes.plot(
            epochs[there],
            validated[there],
            color=HELD_OUT,
            marker="o",
            markersize=2.5,
            linewidth=1.0,
            label="validation",
        )
    if axes.lines:
        axes.legend(fontsize=8, loc="best")


def smoothed(values: Floats) -> Floats:
    """Return the mean of each value and those around it, `SMOOTHED_SHARE` of all; what is not finite does not count."""
    half = max(0, round(len(values) * SMOOTHED_SHARE / 2))
    finite = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    places = np.arange(len(values))
    low, high = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    count = counts[high] - counts[low]
    return np.where(count > 0, (sums[high] - sums[low]) / np.maximum(count, 1), math.nan)


def _sizes(axes: Any, epochs: Floats, steps: Sequence[TrainingFigures], commits: Sequence[BatchSizeCommit]) -> None:
    sizes = _values(steps, lambda step: step.batch_size)
    axes.step(epochs, sizes, where="pre", color=TRAINED, linewidth=1.6, label="global batch")
    microbatches = _values(steps, lambda step: step.microbatch)
    if np.isfinite(microbatches).any():
        axes.step(epochs, microbatches, where="pre", color=QUIET, linewidth=0.8, label="microbatch")
    at_step = {step.step: epoch for step, epoch in zip(steps, epochs, strict=True)}
    changes = [commit for commit in commits if commit.changed and commit.step in at_step]
    if changes:
        places = [at_step[commit.step] for commit in changes]
        axes.plot(places, [c.size for c in changes], "o", color=TRAINED, markersize=3.5, label="decided anew")
    axes.set(title="Batch size", ylabel="items", ylim=(0, None))
    axes.legend(fontsize=8, loc="best")


def _noise(axes: Any, epochs: Floats, steps: Sequence[TrainingFigures]) -> None:
    scale = _values(steps, lambda step: step.noise_scale)
    _line(axes, epochs, scale)
    axes.set(title="Gradient noise scale", ylabel="items")
    _spread(axes, scale)


def _spread(axes: Any, values: Floats) -> None:
    """Draw to a logarithmic scale what is positive and spans more than `WIDE`."""
    found = values[np.isfinite(values)]
    if found.size and found.min() > 0 and found.max() > WIDE * found.min():
        axes.set_yscale("log")
