"""The HTTP side of the daemon, put together."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.routing import Route

from batchd_server.config.settings import Settings
from batchd_server.errors import ServingError
from batchd_server.front.connection_watch import ConnectionWatch
from batchd_server.front.dispatcher import Dispatcher
from batchd_server.front.early_refusals import EarlyRefusals
from batchd_server.front.error_description import describe_errors
from batchd_server.front.error_responses import render_http_exception, render_serving_error, render_validation_error
from batchd_server.front.key_description import describe_keys
from batchd_server.front.keys import Keys
from batchd_server.front.native.decisions import decision_routes
from batchd_server.front.native.leases import lease_routes
from batchd_server.front.native.metrics import metrics_routes
from batchd_server.front.native.status import status_routes
from batchd_server.front.observer import NoObserver, Observer
from batchd_server.front.oip.routes_health import health_routes
from batchd_server.front.oip.routes_infer import infer_routes
from batchd_server.front.oip.routes_models import model_routes
from batchd_server.front.oip.routes_repository import repository_routes
from batchd_server.front.openai.embeddings import embedding_routes
from batchd_server.front.openai.models import model_list_routes
from batchd_server.front.pages.docs import docs_routes
from batchd_server.front.preparation import Preparation
from batchd_server.front.request_ids import RequestIds
from batchd_server.front.same_origin import SameOrigin
from batchd_server.front.scopes import require_every_route
from batchd_server.front.service import Front
from batchd_server.front.training.dataset_routes import dataset_routes
from batchd_server.front.training.fine_tuning import fine_tuning_routes
from batchd_server.front.training.job_routes import job_routes
from batchd_server.front.training.journal_routes import journal_routes
from batchd_server.front.training.promotion_routes import promotion_routes
from batchd_server.front.training.store_access import StoreAccess
from batchd_server.training.places import Places

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_app(
    settings: Settings,
    dispatcher: Dispatcher,
    *,
    observer: Observer | None = None,
    lifespan: Lifespan | None = None,
    places: Places | None = None,
    watch: ConnectionWatch | None = None,
) -> FastAPI:
    """Return the application that serves `settings.models` through `dispatcher`, with training jobs at `places`.

    `lifespan` is entered and left with the application; the dispatcher is not started or stopped here. `watch` has
    the connections that the requests come by.
    """
    watch = watch or ConnectionWatch(settings.server)
    front = Front(
        settings=settings,
        dispatcher=dispatcher,
        observer=observer or NoObserver(),
        preparation=Preparation(),
        training=StoreAccess(places),
        watch=watch,
        incoming=watch.incoming,
        started=time.time(),
        release=version("batchd"),
    )

    @asynccontextmanager
    async def front_lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with nullcontext() if lifespan is None else lifespan(app):
            yield
        front.preparation.close()
        front.training.close()

    app = FastAPI(
        title="batchd",
        version=front.release,
        description="A memory- and latency-aware adaptive batching daemon for PyTorch.",
        lifespan=front_lifespan,
        redirect_slashes=False,
        docs_url=None,  # front/pages has it
        redoc_url=None,
    )
    # The most used come first: routes are tried in order.
    for routes in (
        infer_routes,
        embedding_routes,
        health_routes,
        model_routes,
        repository_routes,
        model_list_routes,
        status_routes,
        decision_routes,
        job_routes,
        dataset_routes,
        journal_routes,
        promotion_routes,
        fine_tuning_routes,
        lease_routes,
        metrics_routes,
        docs_routes,
    ):
        app.router.routes.extend(routes(front).routes)  # include_router would cost each request 9 us more

    async def root(request: Request) -> RedirectResponse:
        return RedirectResponse("/docs")

    app.add_route("/", root, include_in_schema=False)
    app.add_exception_handler(ServingError, render_serving_error)
    app.add_exception_handler(HTTPException, render_http_exception)
    app.add_exception_handler(RequestValidationError, render_validation_error)
    require_every_route(
        (method, route.path) for route in app.routes if isinstance(route, Route) for method in (route.methods or ())
    )
    app.add_middleware(EarlyRefusals, front=front)
    if settings.security.keys:
        describe_keys(app)
        app.add_middleware(Keys, keys=settings.security.keys)
    else:
        own_names = None if settings.server.insecure else frozenset({settings.server.host.lower()})
        app.add_middleware(SameOrigin, own_names=own_names)
    describe_errors(app)
    app.add_middleware(RequestIds)
    return app
