"""Serves a file: a program saved by `torch.export.save`, or a TorchScript module.

A model file is code. Whoever can write it decides what the device process does; batchd loads only files that the
configuration names, and never one that a client sends. Both formats are zip archives. Of a `torch.export` archive,
torch would unpickle and load whatever the file asks for; here it is held to tensors (`weights_only`), and archives
with pickled objects or native code are refused. That is no sandbox: the graph itself names the functions that it calls.
TorchScript is run by torch's own interpreter and unpickler, which cannot import Python modules.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchd_server.models.host_allocator import keep_freed_memory
from batchd_server.models.padded import PaddedBatch, PaddedModel
from batchd_server.models.spec import TensorSpec

if TYPE_CHECKING:
    import torch

_SPEC_KEYS = ("name", "datatype", "shape", "finite", "max_size")
# as torch.export.pt2_archive.constants has them
_PICKLED_OBJECTS = ("opaque_obj", "custom_obj")
_NATIVE_CODE = "data/aotinductor/"
_FORCE_WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # read by torch.load


class Format(StrEnum):
    """How the file was made."""

    AUTO = "auto"
    EXPORT = "export"
    TORCHSCRIPT = "torchscript"


class ExportedModel(PaddedModel):
    """Runs the graph in file `path` on padded batches.

    The graph takes one tensor per entry of `inputs`, in the order of its own parameters where their names are the
    inputs' names, else in the order given. `mask_input` and `lengths_input` name parameters of the graph that receive
    the bool mask (B, padded size) and the int64 lengths (B,) along `mask_axis`. A graph that takes neither must give
    the same answer whatever stands in the padding. It returns one tensor, a tuple in the order of `outputs`, or a
    mapping by name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an option has a value that is not allowed, or the file is in neither format.
    """

    def __init__(
        self,
        path: str,
        inputs: Sequence[Mapping[str, Any]],
        outputs: Sequence[Mapping[str, Any]],
        format: str = Format.AUTO,  # noqa: A002 - the option's name in the configuration
        mask_input: str | None = None,
        lengths_input: str | None = None,
        mask_axis: str | None = None,
    ) -> None:
        self.path = Path(path).expanduser()
        if not self.path.is_file():
            raise FileNotFoundError(f"option 'path': there is no file {path!r}")
        if format not in tuple(Format):
            raise ValueError(f"option 'format' must be one of {', '.join(Format)}, got {format!r}")
        self.inputs = _specs("inputs", inputs)
        self.outputs = _specs("outputs", outputs)
        self.mask_input = mask_input
        self.lengths_input = lengths_input
        if mask_axis is not None and mask_axis not in self.axes:
            raise ValueError(f"option 'mask_axis' must be one of {', '.join(self.axes) or 'none'}, got {mask_axis!r}")
        needs_axis = mask_input is not None or lengths_input is not None
        if needs_axis and mask_axis is None and len(self.axes) != 1:
            raise ValueError(f"option 'mask_axis' must name one of the variable axes: {', '.join(self.axes) or 'none'}")
        self.mask_axis = mask_axis or (self.axes[0] if needs_axis else None)
        self.format = detect_format(self.path) if format == Format.AUTO else Format(format)

    def load(self, device: torch.device) -> None:
        """Load the file onto `device`, and settle the order of its parameters.

        Raises:
            ValueError: the file holds pickled objects or compiled code, or its parameters are not those of the
                configuration.
        """
        self.device = device
        if device.type == "cpu":
            keep_freed_memory()
        self.network = self.build().to(device)  # an exported program is in evaluation mode for good, and says so
        extras = [name for name in (self.mask_input, self.lengths_input) if name is not None]
        configured = [*(spec.name for spec in self.inputs), *extras]
        if len(self._parameters) != len(configured) or not set(extras) <= set(self._parameters):
            raise ValueError(
                f"{str(self.path)!r} takes {', '.join(self._parameters)}; the configuration gives "
                f"{', '.join(configured)}"
            )
        self._order = self._parameters if set(self._parameters) == set(configured) else self._by_position(extras)

    def build(self) -> torch.nn.Module:
        """Return the graph as a module."""
        if self.format is Format.TORCHSCRIPT:
            module, self._parameters = _load_torchscript(self.path)
        else:
            module, self._parameters = _load_export(self.path, self.device)
        return module

    def forward(self, batch: PaddedBatch) -> Mapping[str, torch.Tensor]:
        """Call the graph, and name its outputs."""
        arguments = dict(batch.tensors)
        if self.mask_axis is not None:
            if self.mask_input is not None:
                arguments[self.mask_input] = batch.mask(self.mask_axis)
            if self.lengths_input is not None:
                arguments[self.lengths_input] = batch.lengths(self.mask_axis)
        result: Any = self.network(*(arguments[name] for name in self._order))
        if isinstance(result, Mapping):
            return result
        tensors = result if isinstance(result, tuple | list) else (result,)
        if len(tensors) != len(self.outputs):
            raise ValueError(f"the graph gave {len(tensors)} outputs, the configuration names {len(self.outputs)}")
        return {spec.name: tensor for spec, tensor in zip(self.outputs, tensors, strict=True)}

    def _by_position(self, extras: Sequence[str]) -> tuple[str, ...]:
        remaining = iter(spec.name for spec in self.inputs)
        return tuple(name if name in extras else next(remaining) for name in self._parameters)


def detect_format(path: Path) -> Format:
    """Tell the format from the archive's contents, for suffixes mislead.

    Raises:
        ValueError: the file is in neither format.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        names = []
    if any(name.endswith("constants.pkl") and name.count("/") == 1 for name in names):
        return Format.TORCHSCRIPT
    if any(name.endswith(("/archive_format", "serialized_exported_program.json")) for name in names):
        return Format.EXPORT
    raise ValueError(f"option 'path': {str(path)!r} is neither a torch.export archive nor TorchScript")


def _specs(side: str, entries: Sequence[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    if not isinstance(entries, Sequence) or not entries or not all(isinstance(entry, Mapping) for entry in entries):
        raise ValueError(f"option {side!r} must be a list of tables with the keys name, datatype and shape")
    specs = []
    for entry in entries:
        for key in entry:
            if key not in _SPEC_KEYS:
                raise ValueError(f"option {side!r}: unknown key {key!r}; allowed: {', '.join(_SPEC_KEYS)}")
        for key in _SPEC_KEYS[:3]:
            if key not in entry:
                raise ValueError(f"option {side!r}: key {key!r} is missing in {dict(entry)}")
        if entry["datatype"] == "BYTES":
            raise ValueError(f"option {side!r}: a graph takes numbers, not BYTES")
        specs.append(TensorSpec(**{**entry, "shape": tuple(entry["shape"])}))
    return tuple(specs)


def _load_torchscript(path: Path) -> tuple[torch.nn.Module, tuple[str, ...]]:
    import warnings  # noqa: PLC0415

    import torch  # noqa: PLC0415 - device process only

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*torch.jit")
        module: torch.nn.Module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    forward: Any = module.forward
    return module.eval(), tuple(argument.name for argument in forward.schema.arguments[1:])  # without self


def _load_export(path: Path, device: torch.device) -> tuple[torch.nn.Module, tuple[str, ...]]:
    import torch  # noqa: PLC0415 - device process only
    from torch.export.passes import move_to_device_pass  # noqa: PLC0415

    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(mark in name for name in names for mark in _PICKLED_OBJECTS):
        raise ValueError(f"{str(path)!r} holds pickled objects; only tensors are loaded")
    if any(_NATIVE_CODE in name for name in names):
        raise ValueError(f"{str(path)!r} holds compiled code; only graphs and tensors are loaded")
    with _weights_only():
        program = torch.export.load(path)
    if device.type != "cpu":  # a graph names the devices it was exported on
        program = move_to_device_pass(program, device)
    return program.module(), tuple(program.graph_signature.user_inputs)


@contextmanager
def _weights_only() -> Iterator[None]:
    before = os.environ.get(_FORCE_WEIGHTS_ONLY)
    os.environ[_FORCE_WEIGHTS_ONLY] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FORCE_WEIGHTS_ONLY]
        else:
            os.environ[_FORCE_WEIGHTS_ONLY] = before
