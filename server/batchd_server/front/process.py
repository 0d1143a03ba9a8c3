"""A front process: uvicorn on the inherited socket, with the dispatcher that leads to the device process."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import math
import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path

import uvicorn
import uvloop

from batchd_server.bootstrap import Bootstrap
from batchd_server.front.app import create_app
from batchd_server.front.connection_watch import ConnectionWatch
from batchd_server.front.connections import protocol_class
from batchd_server.front.descriptors import allow_descriptors
from batchd_server.front.draining import Draining, Server
from batchd_server.front.link_dispatcher import LinkDispatcher
from batchd_server.models.loading import construct
from batchd_server.models.protocol import Model
from batchd_server.observe.logs import configure_logging
from batchd_server.supervisor.standing import directory_of
from batchd_server.supervisor.stopping import LAST_ANSWERS_S, LEAVE, RETIRE, stop_noted
from batchd_server.training.places import Places

log = logging.getLogger(__name__)

SERVES_POLL_S = 0.02


async def serve(bootstrap: Bootstrap, models: Mapping[str, Model]) -> None:
    """Serve until SIGTERM, then finish what is in flight."""
    if bootstrap.listen_fd is None:
        raise ValueError("a front process needs listen_fd")
    settings = bootstrap.settings
    dispatcher = LinkDispatcher(bootstrap.link_address, models, hang_timeout_s=settings.device.hang_timeout_s)
    watch = ConnectionWatch(settings.server, on_ended=dispatcher.connection_ended)
    server = Server(
        uvicorn.Config(
            create_app(
                settings,
                dispatcher,
                observer=dispatcher,
                places=Places.of(settings, bootstrap.link_address),
                watch=watch,
            ),
            http=protocol_class(watch),
            ws="none",
            lifespan="on",
            access_log=False,
            server_header=False,  # what serves, and so what may be wrong with it, is nobody's business
            log_config=None,
            timeout_graceful_shutdown=math.ceil(LAST_ANSWERS_S),
        )
    )
    draining = Draining(server, dispatcher, settings.server.drain_timeout_s)
    loop = asyncio.get_running_loop()
    for number, handler in ((LEAVE, draining.leave), (RETIRE, draining.retire), (signal.SIGTERM, draining.stop)):
        loop.add_signal_handler(number, handler)
    if stop_noted(directory_of(bootstrap.link_address)):
        draining.leave()
    # what there is by now stays: looking through it took the collector a fifth of a second, with everybody waiting
    gc.collect()
    gc.freeze()
    dispatcher.open()
    telling = asyncio.create_task(_tell(bootstrap.serves_file, server, dispatcher))
    try:
        with socket.socket(fileno=bootstrap.listen_fd) as listener:
            await server.serve(sockets=[listener])
    finally:
        telling.cancel()
        await dispatcher.close()


async def _tell(serves_file: Path | None, server: Server, dispatcher: LinkDispatcher) -> None:
    """Make the file as soon as requests that come here are answered."""
    while not (server.started and dispatcher.serves):  # noqa: ASYNC110 - neither of them has an event
        await asyncio.sleep(SERVES_POLL_S)
    if serves_file is not None:
        serves_file.touch()  # noqa: ASYNC240 - once, on a local disk


def main() -> None:
    """Run the process that `--bootstrap` describes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap", type=Path, required=True)
    bootstrap = Bootstrap.read(parser.parse_args().bootstrap)
    server = bootstrap.settings.server
    configure_logging("front", level=server.log_level, form=server.log_format)
    # uvicorn tells of its own start and stop, which the supervisor does for all processes together
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    allow_descriptors(server.max_connections)
    models = {name: construct(model) for name, model in bootstrap.settings.models.items()}
    uvloop.run(serve(bootstrap, models))
    # The device process waits for this end: taking torch apart costs half a second, and user code may hold a thread.
    logging.shutdown()
    os._exit(0)


if __name__ == "__main__":
    main()
