"""The device process: `python -m batchd_server.device.process --bootstrap FILE`. Owns the device until it ends."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from importlib.metadata import version
from pathlib import Path

from batchd_server.bootstrap import Bootstrap
from batchd_server.config.settings import Settings
from batchd_server.device.black_box import BlackBox
from batchd_server.device.device_info import DeviceInfo
from batchd_server.device.engine import DeviceLostError, Engine, Park, Stop
from batchd_server.device.failures import EXIT_DEVICE_LOST, EXIT_HUNG
from batchd_server.device.selection import SelectedDevice, select_device
from batchd_server.device.vitals import HungError
from batchd_server.link.device_endpoint import DeviceEndpoint
from batchd_server.observe.instruments import Instruments
from batchd_server.observe.logs import configure_logging
from batchd_server.observe.metrics import Metrics
from batchd_server.observe.model_statistics import ModelStatistics
from batchd_server.supervisor.pulse import Beat, Pulse
from batchd_server.supervisor.standing import DeviceStanding, directory_of
from batchd_server.supervisor.stopping import LEAVE, stop_noted
from batchd_server.training.places import Places

log = logging.getLogger(__name__)

EXIT_SETTINGS = 2


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM; return the exit status."""
    parser = argparse.ArgumentParser(prog="batchd-device", description=__doc__)
    parser.add_argument("--bootstrap", type=Path, required=True, help="the file that the supervisor wrote")
    parser.add_argument("--pulse", type=int, help="the descriptor to give signs of life through")
    options = parser.parse_args(arguments)
    bootstrap = Bootstrap.read(options.bootstrap)
    pulse = Pulse(options.pulse)
    pulse.beat(Beat.ALIVE, time.monotonic())
    server = bootstrap.settings.server
    configure_logging("device", level=server.log_level, form=server.log_format)
    try:
        device = select_device(bootstrap.settings.device, training_threads=bootstrap.settings.training.own_threads)
    except ValueError as error:
        log.error("%s", error)
        return EXIT_SETTINGS
    endpoint = DeviceEndpoint(bootstrap.link_address)
    instruments = instruments_for(bootstrap.settings, device.info)
    standing = DeviceStanding.read(directory_of(bootstrap.link_address))
    instruments.metrics.restarts.inc(0 if standing is None else standing.deaths)
    places = Places.of(bootstrap.settings, bootstrap.link_address)
    black_box = BlackBox.open(directory_of(bootstrap.link_address))
    engine = Engine(bootstrap.settings, device, endpoint, instruments, places, pulse=pulse, black_box=black_box)
    signal.signal(signal.SIGTERM, lambda *_: engine.post(Stop()))
    signal.signal(LEAVE, lambda *_: engine.post(Park()))
    if stop_noted(directory_of(bootstrap.link_address)):
        engine.post(Park())
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # the supervisor has it ignored: it sends SIGTERM in time
        signal.signal(signal.SIGINT, lambda *_: engine.post(Stop()))
    log.info("device process %d: %s (%s)", os.getpid(), device.info.name, device.info.kind)
    return serve(engine, endpoint, device)


def serve(engine: Engine, endpoint: DeviceEndpoint, device: SelectedDevice) -> int:
    """Run the engine to its end and return the exit status."""
    engine.start()
    try:
        engine.run()
    except DeviceLostError as error:
        log.critical("the device %s is lost, only a new process helps: %s", device.info.name, error)
        logging.shutdown()
        os._exit(EXIT_DEVICE_LOST)  # a poisoned CUDA context hangs or throws in every destructor
    except HungError as error:
        log.critical("the device process is stuck, only a new one helps: %s", error)
        logging.shutdown()
        os._exit(EXIT_HUNG)  # the thread that hangs can only be left
    ended = engine.close()
    endpoint.close()
    log.info("device process %d has ended", os.getpid())
    if not ended:
        logging.shutdown()
        os._exit(0)  # a thread that is in torch or in a user's code cannot be ended, only left
    return 0


def instruments_for(settings: Settings, device: DeviceInfo) -> Instruments:
    """Return fresh metrics and statistics for the configured models."""
    slos_ms = [model.batching.slo_ms for model in settings.models.values()]
    metrics = Metrics(
        version=version("batchd"),
        torch_version=device.torch,
        device=device.name,
        slos_s=[slo_ms / 1000 for slo_ms in (*slos_ms, settings.defaults.batching.slo_ms) if slo_ms is not None],
    )
    statistics = {
        name: ModelStatistics(
            name=name,
            version=model.version,
            memory_type="GPU" if device.kind == "cuda" else "CPU",
            memory_id=device.index or 0,
        )
        for name, model in settings.models.items()
    }
    return Instruments(metrics, statistics)


if __name__ == "__main__":
    sys.exit(main())
