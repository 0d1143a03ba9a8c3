"""From an entrypoint and its options to a model object, or to one clear line about what is wrong."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Sequence
from typing import Any

from batchd_server.config.settings import ModelSettings
from batchd_server.models.protocol import Model
from batchd_server.models.spec import TensorSpec

_MEMBERS = (*Model.__annotations__, *(name for name in vars(Model) if not name.startswith("_")))
"""What `Model` asks for, read off the protocol itself."""


class ModelLoadError(Exception):
    """A model cannot be constructed as configured. The message names the entrypoint or the option."""


def load_model_class(entrypoint: str) -> type[Any]:
    """Return the class that `package.module:Class` names. The working directory is importable.

    Raises:
        ModelLoadError: there is no such module or class, or importing the module fails.
    """
    module_name, separator, class_name = entrypoint.partition(":")
    if not (separator and module_name and class_name):
        raise ModelLoadError(f"entrypoint {entrypoint!r} must have the form package.module:Class")
    _make_working_directory_importable()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise ModelLoadError(
                f"entrypoint {entrypoint!r}: no module named {error.name!r} in the working directory or the environment"
            ) from error
        raise ModelLoadError(
            f"entrypoint {entrypoint!r}: module {module_name!r} needs {error.name!r}, which is not installed"
        ) from error
    except Exception as error:
        raise ModelLoadError(
            f"entrypoint {entrypoint!r}: importing {module_name!r} raised {type(error).__name__}: {error}"
        ) from error
    found = getattr(module, class_name, None)
    if not inspect.isclass(found):
        own = [name for name, value in vars(module).items() if inspect.isclass(value) and hasattr(value, "collate")]
        raise ModelLoadError(
            f"entrypoint {entrypoint!r}: module {module_name!r} has no class {class_name!r}; its model classes: "
            f"{', '.join(own) or 'none'}"
        )
    return found


def construct(settings: ModelSettings) -> Model:
    """Construct the front half of a configured model: no weights are loaded.

    Raises:
        ModelLoadError: the class cannot be found, does not take the options, or is no model.
    """
    cls = load_model_class(settings.entrypoint)
    _check_options(cls, settings)
    try:
        model = cls(**settings.options)
    except ModelLoadError:
        raise
    except Exception as error:
        raise ModelLoadError(f"{settings.entrypoint}: {error}") from error
    missing = [name for name in _MEMBERS if not hasattr(model, name)]
    if missing:
        raise ModelLoadError(
            f"{settings.entrypoint} is not a model: it lacks {', '.join(missing)}; "
            "see batchd_server.models.protocol.Model"
        )
    for side in ("inputs", "outputs"):
        _check_specs(settings.entrypoint, side, getattr(model, side))
    checked: Model = model
    return checked


def _make_working_directory_importable() -> None:
    here = os.getcwd()  # noqa: PTH109 - sys.path holds strings
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


def _check_options(cls: type[Any], settings: ModelSettings) -> None:
    parameters = inspect.signature(cls).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    accepted = {
        parameter.name: parameter.default is parameter.empty
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    listing = ", ".join(f"{name} (required)" if required else name for name, required in accepted.items()) or "none"
    for name in settings.options:
        if name not in accepted:
            raise ModelLoadError(f"{settings.entrypoint}: unknown option {name!r}; accepted options: {listing}")
    for name, required in accepted.items():
        if required and name not in settings.options:
            raise ModelLoadError(f"{settings.entrypoint}: option {name!r} is missing; accepted options: {listing}")


def _check_specs(entrypoint: str, side: str, specs: object) -> None:
    if not isinstance(specs, Sequence) or not specs or not all(isinstance(spec, TensorSpec) for spec in specs):
        raise ModelLoadError(f"{entrypoint}: {side} must be a non-empty sequence of TensorSpec, got {specs!r}")
    names = [spec.name for spec in specs]
    if len(set(names)) < len(names):
        raise ModelLoadError(f"{entrypoint}: {side} name a tensor twice: {', '.join(names)}")
