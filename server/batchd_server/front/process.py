"""A front process: uvicorn on the inherited socket, with the dispatcher that leads to the device process."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import math
import signal
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

import uvicorn
import uvloop

from batchd_server.bootstrap import Bootstrap
from batchd_server.front.app import create_app
from batchd_server.front.link_dispatcher import LinkDispatcher
from batchd_server.models.loading import construct
from batchd_server.models.protocol import Model
from batchd_server.observe.logs import configure_logging
from batchd_server.training.places import Places

log = logging.getLogger(__name__)

LAST_ANSWERS_S = 2
"""After the drain timeout, for what then fails with 503 to be written out."""


class Server(uvicorn.Server):
    """Uvicorn without its signal handling, which ends the process by the signal instead of with exit code 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the handlers as they are."""
        yield


async def serve(bootstrap: Bootstrap, models: Mapping[str, Model]) -> None:
    """Serve until SIGTERM, then finish what is in flight."""
    if bootstrap.listen_fd is None:
        raise ValueError("a front process needs listen_fd")
    settings = bootstrap.settings
    drain_timeout_s = settings.server.drain_timeout_s
    dispatcher = LinkDispatcher(bootstrap.link_address, models)
    server = Server(
        uvicorn.Config(
            create_app(
                settings,
                dispatcher,
                observer=dispatcher,
                places=Places.of(settings, bootstrap.link_address),
            ),
            http="httptools",
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            timeout_graceful_shutdown=math.ceil(drain_timeout_s) + LAST_ANSWERS_S,
        )
    )
    loop = asyncio.get_running_loop()

    def drain() -> None:
        if server.should_exit:
            server.force_exit = True
            return
        log.info("draining")
        dispatcher.begin_drain()
        server.should_exit = True
        loop.call_later(drain_timeout_s, dispatcher.abandon)

    loop.add_signal_handler(signal.SIGTERM, drain)
    dispatcher.open()
    try:
        with socket.socket(fileno=bootstrap.listen_fd) as listener:
            await server.serve(sockets=[listener])
    finally:
        await dispatcher.close()


def main() -> None:
    """Run the process that `--bootstrap` describes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap", type=Path, required=True)
    bootstrap = Bootstrap.read(parser.parse_args().bootstrap)
    server = bootstrap.settings.server
    configure_logging("front", level=server.log_level, form=server.log_format)
    # uvicorn tells of its own start and stop, which the supervisor does for all processes together
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    models = {name: construct(model) for name, model in bootstrap.settings.models.items()}
    uvloop.run(serve(bootstrap, models))


if __name__ == "__main__":
    main()
