"""What a user can ask of a load test, checked before anything is sent."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

from batchd_client.loadtest.arrivals import parse_arrivals
from batchd_client.loadtest.lengths import Lengths, parse_lengths
from batchd_client.loadtest.max_rate import REQUESTS_PER_TRIAL
from batchd_client.loadtest.plot import check_plotting
from batchd_client.loadtest.report import P99_MIN_COUNT
from batchd_client.loadtest.target import Target

DEFAULT_RATE = 20.0
DEFAULT_DURATION_S = 10.0
DEFAULT_LENGTHS = "lognormal:64:0.8:8:256"
DEFAULT_STEP = 8


class Mode(StrEnum):
    """How load is put on the server."""

    OPEN = "open loop"
    CLOSED = "closed loop"
    RAMP = "ramp"
    TRACE = "trace"
    MAX_RATE = "highest rate"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadTestOptions:
    """The options of `batchd loadtest`. Durations in seconds.

    Raises:
        ValueError: in one line, where they do not fit together.
    """

    url: str
    model: str | None = None
    api: Literal["oip", "embeddings"] = "oip"
    api_key: str | None = field(default=None, repr=False)
    rate: float | None = None
    concurrency: int | None = None
    ramp: str | None = None
    trace: Path | None = None
    speed: float = 1.0
    find_max_rate: bool = False
    max_rate: float = 20_000.0
    arrivals: str = "poisson"
    payload: Literal["auto", "tensors", "texts", "inputs"] = "auto"
    lengths: str | None = None
    length_step: int | None = None
    texts: Path | None = None
    inputs: Path | None = None
    input_names: tuple[str, ...] = ()
    items: int = 1
    warmup_s: float = 1.0
    duration_s: float | None = None
    requests: int | None = None
    timeout_s: float = 30.0
    deadline_s: float | None = None
    slo_s: float | None = None
    seed: int = 0
    json: str | None = None
    plot: Path | None = None
    max_connections: int = 768

    def __post_init__(self) -> None:
        self._check_mode()
        positive = {
            "--rate": self.rate,
            "--concurrency": self.concurrency,
            "--max-rate": self.max_rate,
            "--speed": self.speed,
            "--items": self.items,
            "--duration": self.duration_s,
            "--requests": self.requests,
            "--max-connections": self.max_connections,
            "--timeout-ms": self.timeout_s * 1e3,
            "--deadline-ms": None if self.deadline_s is None else self.deadline_s * 1e3,
            "--slo-ms": None if self.slo_s is None else self.slo_s * 1e3,
        }
        for name, value in positive.items():
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value:g}")
        for name, value in {"--warmup": self.warmup_s, "--seed": self.seed}.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must not be negative or infinite, got {value:g}")
        parse_arrivals(self.arrivals)
        self._check_payload()
        self.length_distribution()
        self.target()
        self._check_outputs()

    def _check_mode(self) -> None:
        chosen = {
            "--concurrency": self.concurrency is not None,
            "--ramp": self.ramp is not None,
            "--trace": self.trace is not None,
            "--find-max-rate": self.find_max_rate,
            "--rate": self.rate is not None and not self.find_max_rate,
        }
        names = [name for name, given in chosen.items() if given]
        if len(names) > 1:
            raise ValueError(f"{' and '.join(names)} exclude each other: choose one kind of load")
        if self.find_max_rate and self.slo_s is None:
            raise ValueError("--find-max-rate needs --slo-ms N: the p99 that has to hold")
        if self.find_max_rate and self.requests is not None and self.requests < P99_MIN_COUNT:
            raise ValueError(
                f"--find-max-rate needs at least {P99_MIN_COUNT} requests per trial for a p99, got {self.requests}"
            )
        if self.ramp is not None:
            self.ramp_rates()
        if self.trace is not None and (self.duration_s is not None or self.requests is not None):
            raise ValueError("--trace ends with the trace: --duration and --requests do not go with it")

    def _check_payload(self) -> None:
        if self.payload == "texts" and self.texts is None:
            raise ValueError("--payload texts needs --texts FILE.jsonl")
        if self.payload == "inputs" and self.inputs is None:
            raise ValueError("--payload inputs needs --inputs FILE.npz or a folder")
        if self.texts is not None and self.inputs is not None:
            raise ValueError("--texts and --inputs exclude each other")
        if self.api == "embeddings" and self.texts is None:
            raise ValueError("--api embeddings needs --texts FILE.jsonl")
        for path in (self.texts, self.inputs, self.trace):
            if path is not None and not path.exists():
                raise ValueError(f"{path}: no such file")

    def _check_outputs(self) -> None:
        """Refuse what could not be written, before a run is spent on it."""
        if self.plot is not None:
            check_plotting(self.plot)
        for name, path in (("--json", None if self.json in (None, "-") else Path(self.json)), ("--plot", self.plot)):
            try:
                if path is not None and path.is_dir():
                    raise ValueError(f"{name} {path}: is a folder")
                if path is not None and not path.absolute().parent.is_dir():
                    raise ValueError(f"{name} {path}: there is no such folder")
            except OSError as error:
                raise ValueError(f"{name}: {error}") from error

    @property
    def mode(self) -> Mode:
        """The kind of load."""
        if self.find_max_rate:
            return Mode.MAX_RATE
        if self.concurrency is not None:
            return Mode.CLOSED
        if self.ramp is not None:
            return Mode.RAMP
        return Mode.TRACE if self.trace is not None else Mode.OPEN

    @property
    def measured_s(self) -> float | None:
        """The measured duration of one run; None where the count of requests alone decides."""
        if self.duration_s is None and self.requests is None:
            return DEFAULT_DURATION_S
        return self.duration_s

    @property
    def trial_count(self) -> int:
        """Measured requests of a trial, at least."""
        return self.requests or REQUESTS_PER_TRIAL

    def target(self) -> Target:
        """Return the server under test."""
        return Target(
            url=self.url, api_key=self.api_key, timeout_s=self.timeout_s, max_connections=self.max_connections
        )

    def length_distribution(self) -> Lengths:
        """Return the distribution of variable axes.

        Raises:
            ValueError: as `parse_lengths`.
        """
        step = self.length_step if self.length_step is not None else 1 if self.lengths is not None else DEFAULT_STEP
        return parse_lengths(self.lengths or DEFAULT_LENGTHS, step=step)

    def ramp_rates(self) -> tuple[float, ...]:
        """Return the rates of the ramp's steps.

        Raises:
            ValueError: where `--ramp` is not FROM:TO:STEPS.
        """
        try:
            first, last, steps = (self.ramp or "").split(":")
            low, high, count = float(first), float(last), int(steps)
        except ValueError as error:
            raise ValueError(f"--ramp {self.ramp!r}: give FROM:TO:STEPS, e.g. 10:100:10") from error
        if not (low > 0 and high > 0 and count >= 2):
            raise ValueError(f"--ramp {self.ramp!r}: rates must be positive, and steps at least 2")
        return tuple(low + (high - low) * step / (count - 1) for step in range(count))
