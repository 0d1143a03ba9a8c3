"""The configuration, as pydantic checks it. Every setting is documented in docs/configuration.md.

Sources, strongest first: command line, `BATCHD_...` environment variables (`BATCHD_SERVER__PORT`), the TOML file, and
the defaults here.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from batchd.baselines import ADAPTIVE, POLICIES, parse_rule

ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]


class Section(BaseModel):
    """A table of the file: unknown keys are errors, and so are infinities and truth values for numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("must not be a truth value")
        return value


def _path(value: Any) -> Any:
    if value == "" or (isinstance(value, str) and "\0" in value):
        raise ValueError("must be a path")
    return value


class ServerSettings(Section):
    """`[server]`: the HTTP side."""

    host: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(default=8080, ge=0, le=65535)
    fronts: int = Field(default=1, ge=1, le=64)
    """Front processes that share the port."""
    max_body_bytes: int = Field(default=64 * 2**20, gt=0)
    max_incoming_bytes: int = Field(default=2**30, gt=0)
    """Bodies until they are prepared, as sent and inflated, all together, per front process."""
    max_items_per_request: int = Field(default=2048, gt=0)
    max_connections: int = Field(default=4096, ge=1, le=1_000_000)
    """Per front process."""
    max_header_bytes: int = Field(default=32 * 2**10, ge=1024)
    """Request line and headers."""
    header_timeout_s: float = Field(default=20.0, gt=0)
    """From a request's first byte, or the connection, to the end of its headers."""
    body_timeout_s: float = Field(default=30.0, gt=0)
    """For the body, and a second more for every `min_body_rate` bytes of it."""
    min_body_rate: int = Field(default=1024, gt=0)
    """Bytes per second."""
    send_timeout_s: float = Field(default=30.0, gt=0)
    """How long a client may read nothing of an answer that waits for it."""
    max_request_timeout_s: float = Field(default=600.0, gt=0)
    """Longest deadline that a client may ask for."""
    drain_timeout_s: float = Field(default=20.0, ge=0)
    """How long admitted requests may take to finish after SIGTERM."""
    drain_delay_s: float = Field(default=0.0, ge=0)
    """How long to go on serving after SIGTERM, not ready, for a load balancer to notice."""
    spare: bool = True
    """Keep a second device process that has imported everything, so that a dead one is replaced within a second."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    insecure: bool = False
    """Listen on addresses that other machines reach although there are no keys."""


class KeyScope(StrEnum):
    """What a key is good for."""

    INFER = "infer"
    """Asking models."""
    TRAIN = "train"
    """Datasets, jobs and leases."""
    MONITOR = "monitor"
    """Reading figures."""
    ADMIN = "admin"
    """All of it, and what is served."""


class KeySettings(Section):
    """`[[security.keys]]`: a key that clients may show."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$",
        description="a name of up to 64 letters, digits, '.', '_', '@' and '-'",
    )
    sha256: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="the 64 digits that `batchd key new` prints, not the key", repr=False
    )
    scopes: tuple[KeyScope, ...] = Field(min_length=1)


class SecuritySettings(Section):
    """`[security]`: who may do what."""

    keys: tuple[KeySettings, ...] = ()
    """Without any, nobody is asked for one."""

    @field_validator("keys")
    @classmethod
    def _are_told_apart(cls, value: tuple[KeySettings, ...]) -> tuple[KeySettings, ...]:
        if len({key.name for key in value}) < len(value) or len({key.sha256 for key in value}) < len(value):
            raise ValueError("two keys have the same name or the same sha256")
        return value


class SimulatedDeviceSettings(Section):
    """`[device.simulated]`: a device that is not there, for `name = "simulated"`."""

    memory_bytes: int = Field(default=2**30, gt=0)
    cost: str | None = None
    """Seconds of a batch in the notation of `batchd simulate --cost`; None = what it really takes."""
    noise: float = Field(default=0.0, ge=0)
    """Sigma of a log-normal factor on the cost."""
    neighbour: Path | None = None
    """A file that holds the bytes that another process has of the memory; missing = 0."""
    seed: int = 0

    @field_validator("cost")
    @classmethod
    def _is_a_cost(cls, value: str | None) -> str | None:
        from batchd.simulator import parse_cost  # noqa: PLC0415 - few need it, and it takes time to import

        if value is not None:
            parse_cost(value)
        return value

    @field_validator("neighbour", mode="before")
    @classmethod
    def _is_a_path(cls, value: Any) -> Any:
        return _path(value)

    @model_validator(mode="after")
    def _noise_of_something(self) -> SimulatedDeviceSettings:
        if self.noise and self.cost is None:
            raise ValueError("noise needs a cost to vary")
        return self


class DeviceSettings(Section):
    """`[device]`: the accelerator, or the CPU."""

    name: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?|simulated)$",
        description="auto, cpu, cuda, cuda:N for device N, or simulated",
    )
    threads: int | None = Field(default=None, ge=1, le=1024)
    """torch's intra-op threads on the CPU; default: the cores less one, at least one."""
    memory_fraction: float = Field(default=0.85, gt=0, le=1)
    """Share of the device's memory that may ever be used."""
    memory_reserve_bytes: int = Field(default=64 * 2**20, ge=0)
    """Kept free beside the budget."""
    hang_timeout_s: float = Field(default=10.0, ge=1)
    """A device process that gives no sign of life for so long, or whose batch does not end, is replaced."""
    simulated: SimulatedDeviceSettings = SimulatedDeviceSettings()
    """What `simulated` simulates."""
    policy: str = ADAPTIVE
    """What decides: the controller, or a classic rule in the notation of `batchd simulate --policy`."""

    @model_validator(mode="after")
    def _leaves_memory(self) -> DeviceSettings:
        allowed = self.memory_fraction * self.simulated.memory_bytes
        if self.name == "simulated" and allowed <= self.memory_reserve_bytes:
            raise ValueError(
                f"memory_reserve_bytes ({self.memory_reserve_bytes}) leaves nothing of the simulated device's "
                f"{self.simulated.memory_bytes} bytes x memory_fraction ({self.memory_fraction:g})"
            )
        return self

    @field_validator("policy")
    @classmethod
    def _is_a_policy(cls, value: str) -> str:
        if value != ADAPTIVE:
            try:
                parse_rule(value, slo_s=1.0, max_batch_size=1)
            except ValueError:
                raise ValueError(f"must be one of {', '.join(POLICIES)}") from None
        return value


class LadderSettings(Section):
    """Padded shapes: `parts` rungs between two powers of two, multiples of `step`, explicit `edges`, or `learned`."""

    parts: int | None = Field(default=None, ge=1)
    step: int | None = Field(default=None, ge=1)
    edges: tuple[int, ...] | None = Field(default=None, min_length=1)
    learned: int | Literal["auto"] | None = None
    """So many rungs, or as many as pay, learned from the traffic; multiples of `step` if that is given too."""

    @field_validator("learned", mode="before")
    @classmethod
    def _is_a_number_of_rungs(cls, value: Any) -> Any:
        if value not in (None, "auto") and not (str(value).isdecimal() and int(value) >= 1):
            raise ValueError('must be "auto" or a number of rungs, at least 1')
        return value

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            if value != "learned":
                raise ValueError('must be "learned" or a table')
            return {"learned": "auto"}
        return value

    @model_validator(mode="after")
    def _one_of(self) -> LadderSettings:
        step = None if self.learned is not None else self.step  # a learned ladder may have one
        if sum(value is not None for value in (self.parts, step, self.edges, self.learned)) > 1:
            raise ValueError("give only one of parts, step, edges and learned; step may stand beside learned")
        if self.edges is not None and any(a >= b for a, b in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("edges must be strictly increasing")
        return self


class BatchingSettings(Section):
    """`[defaults.batching]` and `[models.NAME.batching]`: promises and limits. None = take the default's."""

    slo_ms: float | None = Field(default=None, gt=0)
    max_batch_size: int | None = Field(default=None, ge=1)
    max_batch_elements: int | None = Field(default=None, ge=1)
    max_item_elements: int | None = Field(default=None, ge=1)
    max_queue_size: int | None = Field(default=None, ge=1)
    window: Literal["adaptive", "fixed"] | None = None
    max_wait_ms: float | None = Field(default=None, ge=0)
    priority_levels: int | None = Field(default=None, ge=1)
    default_priority: int | None = Field(default=None, ge=1)
    ladder: LadderSettings | None = None
    pad_to: Literal["longest", "rung"] | None = None
    layout: Literal["padded", "ragged", "auto"] | None = None


class DefaultsSettings(Section):
    """`[defaults]`: what models do not set themselves."""

    batching: BatchingSettings = BatchingSettings()


class ModelSettings(Section):
    """`[models.NAME]`: one model to serve."""

    entrypoint: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", description="of the form package.module:Class")
    """`package.module:Class`; the class implements `batchd_server.models.protocol.Model`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Passed to the class as keyword arguments."""
    version: str = Field(default="1", pattern=r"^[0-9]+$", description="a string of digits")
    load: bool = True
    """Load at start; otherwise on the first `/v2/repository/models/NAME/load`."""
    batching: BatchingSettings = BatchingSettings()


class StateSettings(Section):
    """`[state]`: what is kept across restarts."""

    directory: Path | None = None
    """Where learned cost models are saved; None = nowhere."""
    trace: Path | None = None
    """Where arrivals are recorded, without payloads, for replay; None = nowhere."""

    @field_validator("directory", "trace", mode="before")
    @classmethod
    def _is_a_path(cls, value: Any) -> Any:
        return _path(value)


class TrainingSettings(Section):
    """`[training]`: jobs that share the device."""

    database: str | None = Field(default=None, repr=False)  # may hold a password
    """A SQLAlchemy URL for jobs and datasets; None = SQLite in the state directory."""
    data_root: Path | None = None
    """Datasets may be named by a path below it; None = uploads only."""
    uploads_max_bytes: int = Field(default=2**30, gt=0)
    """Largest dataset that may be uploaded."""
    share_max: float = Field(default=1.0, gt=0, le=1)
    """Largest share of the device's time that all training together may have."""
    priority: float = Field(default=1.0, ge=0, le=1)
    """0: only while nothing waits. 1: all the time that the waiting items' deadlines leave."""
    split: Literal["time", "space"] = "time"
    """time: between the batches of inference. space: beside them, on CPU cores of its own."""
    threads: int = Field(default=1, ge=1, le=1024)
    """torch's intra-op threads for training in a spatial split."""

    @property
    def own_threads(self) -> int:
        """Threads that training has to itself: none in a time split."""
        return self.threads if self.split == "space" else 0

    @field_validator("database")
    @classmethod
    def _is_a_url(cls, value: str | None) -> str | None:
        from sqlalchemy.engine import make_url  # noqa: PLC0415 - few need it, and it takes time to import
        from sqlalchemy.exc import ArgumentError  # noqa: PLC0415

        if value is not None:
            try:
                make_url(value)
            except (ArgumentError, ValueError):
                raise ValueError("must be a SQLAlchemy URL, such as sqlite:////var/lib/batchd/jobs.sqlite3") from None
        return value

    @field_validator("data_root", mode="before")
    @classmethod
    def _is_a_path(cls, value: Any) -> Any:
        return _path(value)


DEFAULT_MODELS: dict[str, ModelSettings] = {
    "digit-lines": ModelSettings(entrypoint="batchd_server.models.digit_lines:DigitLines"),
}


class Settings(BaseSettings):
    """The whole configuration."""

    model_config = SettingsConfigDict(
        env_prefix="BATCHD_", env_nested_delimiter="__", extra="forbid", frozen=True, validate_default=True
    )

    server: ServerSettings = ServerSettings()
    security: SecuritySettings = SecuritySettings()
    device: DeviceSettings = DeviceSettings()
    defaults: DefaultsSettings = DefaultsSettings()
    models: dict[ModelName, ModelSettings] = Field(default_factory=lambda: dict(DEFAULT_MODELS))
    state: StateSettings = StateSettings()
    training: TrainingSettings = TrainingSettings()

    @field_validator("training")
    @classmethod
    def _can_be_split(cls, value: TrainingSettings, info: ValidationInfo) -> TrainingSettings:
        device = info.data.get("device")
        if value.split == "time" or not isinstance(device, DeviceSettings):
            return value
        if device.name not in ("cpu", "auto"):
            raise ValueError(f'split "space" divides the cores of a CPU, but device.name is "{device.name}"')
        if device.policy != ADAPTIVE:
            raise ValueError(f'split "space" needs device.policy "{ADAPTIVE}": "{device.policy}" does not train')
        return value
