"""The configuration, as pydantic checks it. Every setting is documented in docs/configuration.md.

Sources, strongest first: command line, `BATCHD_...` environment variables (`BATCHD_SERVER__PORT`), the TOML file, and
the defaults here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

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


class ServerSettings(Section):
    """`[server]`: the HTTP side."""

    host: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(default=8080, ge=0, le=65535)
    fronts: int = Field(default=1, ge=1, le=64)
    """Front processes that share the port."""
    max_body_bytes: int = Field(default=64 * 2**20, gt=0)
    max_items_per_request: int = Field(default=2048, gt=0)
    max_request_timeout_s: float = Field(default=600.0, gt=0)
    """Longest deadline that a client may ask for."""
    drain_timeout_s: float = Field(default=20.0, ge=0)
    """How long admitted requests may take to finish after SIGTERM."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"


class DeviceSettings(Section):
    """`[device]`: the accelerator, or the CPU."""

    name: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="auto, cpu, cuda, or cuda:N for device N",
    )
    threads: int | None = Field(default=None, ge=1, le=1024)
    """torch's intra-op threads on the CPU; default: the cores less one, at least one."""
    memory_fraction: float = Field(default=0.85, gt=0, le=1)
    """Share of the device's memory that may ever be used."""
    memory_reserve_bytes: int = Field(default=64 * 2**20, ge=0)
    """Kept free beside the budget."""


class LadderSettings(Section):
    """Padded shapes: `parts` rungs between two powers of two, multiples of `step`, or explicit `edges`."""

    parts: int | None = Field(default=None, ge=1)
    step: int | None = Field(default=None, ge=1)
    edges: tuple[int, ...] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _one_of(self) -> LadderSettings:
        if sum(value is not None for value in (self.parts, self.step, self.edges)) > 1:
            raise ValueError("give only one of parts, step and edges")
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
        if value == "" or (isinstance(value, str) and "\0" in value):
            raise ValueError("must be a path")
        return value


DEFAULT_MODELS: dict[str, ModelSettings] = {
    "digit-lines": ModelSettings(entrypoint="batchd_server.models.digit_lines:DigitLines"),
}


class Settings(BaseSettings):
    """The whole configuration."""

    model_config = SettingsConfigDict(
        env_prefix="BATCHD_", env_nested_delimiter="__", extra="forbid", frozen=True, validate_default=True
    )

    server: ServerSettings = ServerSettings()
    device: DeviceSettings = DeviceSettings()
    defaults: DefaultsSettings = DefaultsSettings()
    models: dict[ModelName, ModelSettings] = Field(default_factory=lambda: dict(DEFAULT_MODELS))
    state: StateSettings = StateSettings()
