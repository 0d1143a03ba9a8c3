"""Checks what takes torch and model code to check: `python -m` this before anything is started."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from batchd_server.bootstrap import Bootstrap
from batchd_server.config.policies import model_policy
from batchd_server.config.problems import Problem
from batchd_server.config.settings import Settings
from batchd_server.device.selection import select_device
from batchd_server.models.loading import ModelLoadError, construct, load_model_class

EXIT_CODE = 2


def model_problems(settings: Settings, source: str) -> Iterator[Problem]:
    """Construct the front half of every model, and yield what does not go. `source` is where models are configured."""
    for name, model in settings.models.items():
        key = f"models.{name}"
        try:
            construct(model)
            model_class = load_model_class(model.entrypoint)
        except ModelLoadError as error:
            yield Problem(source=source, key=key, message=str(error))
            continue
        try:
            model_policy(model.batching, settings.defaults.batching, model_class)
        except ValueError as error:
            yield Problem(source=source, key=f"{key}.batching", message=str(error))


def device_problems(settings: Settings, source: str) -> Iterator[Problem]:
    """Yield a problem where a device is named that this machine has not."""
    if not settings.device.name.startswith("cuda"):  # the others exist, and asking CUDA takes time and memory
        return
    try:
        select_device(settings.device)
    except ValueError as error:
        yield Problem(source=source, key="device.name", message=str(error))


def main() -> int:
    """Print one line per problem; the exit code says whether there was one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap", type=Path, required=True)
    bootstrap = Bootstrap.read(parser.parse_args().bootstrap)
    settings, source = bootstrap.settings, bootstrap.config_source
    problems = [*device_problems(settings, source), *model_problems(settings, source)]
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    return EXIT_CODE if problems else 0


if __name__ == "__main__":
    sys.exit(main())
