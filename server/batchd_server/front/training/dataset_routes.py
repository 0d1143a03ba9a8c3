"""`/v1/datasets`: what there is to learn from, and more of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any, TypeVar

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from batchd_server.errors import BadRequest, Conflict, NotFound, TooLarge, Unavailable, Unprocessable
from batchd_server.errors import UnsupportedEncoding as Unsupported
from batchd_server.front.disconnects import ClientGone
from batchd_server.front.documents import json_object, json_response, openapi
from batchd_server.front.raw_route import raw_router
from batchd_server.front.service import Front
from batchd_server.front.training.job_documents import dataset_document
from batchd_server.training.datasets.builtin import BUILTIN, builtin
from batchd_server.training.datasets.formats import FORMATS
from batchd_server.training.datasets.intake import adopt, receive, remove
from batchd_server.training.datasets.problems import (
    DatasetError,
    DatasetNotFoundError,
    DatasetStorageError,
    DatasetTooLargeError,
)
from batchd_server.training.records import Dataset
from batchd_server.training.store import Conflict as StoreConflict
from batchd_server.training.store import StoreError, TrainingStore

T = TypeVar("T")

ALL = "/v1/datasets"
ONE = f"{ALL}/{{dataset}}"
_NAME = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"}
_FORMAT = {"type": "string", "enum": list(FORMATS)}
_ADOPTED = {
    "type": "object",
    "required": ["path"],
    "properties": {
        "path": {"type": "string", "minLength": 1, "description": "Relative to training.data_root."},
        "name": _NAME,
        "format": _FORMAT,
    },
}


def dataset_routes(front: Front) -> APIRouter:
    """Return the routes of datasets."""
    router = raw_router("Training")

    async def add(request: Request) -> Response:
        """Upload a dataset as the body, named by the query; or, as JSON, name one that lies below the data root."""
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        dataset = await (_adopted(front, request) if media_type == "application/json" else _uploaded(front, request))
        response = json_response(dataset_document(dataset))
        response.status_code = 201
        response.headers["location"] = f"{ALL}/{dataset.id}"
        return response

    async def listing(request: Request) -> Response:
        """List the datasets, those first that come along."""
        datasets = await front.training.call(TrainingStore.datasets)
        return json_response({"object": "list", "data": [dataset_document(entry) for entry in (*BUILTIN, *datasets)]})

    async def retrieve(request: Request) -> Response:
        """Describe one dataset, by id or name."""
        given: str = request.path_params["dataset"]
        found = await _found(front, given, lambda store: builtin(given) or store.dataset(given))
        return json_response(dataset_document(found))

    async def delete(request: Request) -> Response:
        """Forget a dataset, and delete what was uploaded; 409 while a job learns from it."""
        given: str = request.path_params["dataset"]
        root = front.training.places.datasets
        await _found(front, given, lambda store: remove(given, store=store, root=root))
        return Response(status_code=204)

    upload = openapi(ALL, body=_ADOPTED, binary=True, status=201, errors=(404, 409, 422))
    upload["parameters"] += [
        {"name": name, "in": "query", "schema": schema} for name, schema in (("name", _NAME), ("format", _FORMAT))
    ]
    upload["responses"]["201"]["content"].pop("application/octet-stream")
    for method, path, endpoint, status, extra in (
        ("POST", ALL, add, 201, upload),
        ("GET", ALL, listing, 200, openapi(ALL)),
        ("GET", ONE, retrieve, 200, openapi(ONE)),
        ("DELETE", ONE, delete, 204, openapi(ONE, status=204, errors=(409,))),
    ):
        router.add_api_route(
            path, endpoint, methods=[method], status_code=status, openapi_extra=extra, response_model=None
        )
    return router


async def _uploaded(front: Front, request: Request) -> Dataset:
    name, form = request.query_params.get("name"), request.query_params.get("format")
    limit = front.settings.training.uploads_max_bytes
    if name is None:
        raise BadRequest("an upload needs a name in the query", field="name")
    if request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise Unsupported("uploads are taken as they are, not compressed", field="Content-Encoding")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and (len(declared) > 18 or int(declared) > limit):
        raise TooLarge(f"the dataset is larger than {limit} bytes", field="body")
    store = await front.training.call(lambda store: store)
    root = front.training.places.datasets
    try:
        with _told("body"):
            return await receive(_chunks(request), name=name, format=form, store=store, root=root, max_bytes=limit)
    except StoreError as error:
        raise front.training.failed(error) from error


async def _adopted(front: Front, request: Request) -> Dataset:
    document = json_object(await front.body(request))
    path, name, form = (_text(document, key) for key in ("path", "name", "format"))
    if path is None:
        raise BadRequest("path must be given", field="path")
    root = front.training.places.data_root
    with _told("path"):
        return await adopt(
            path, name=name or PurePath(path).stem, format=form, call=front.training.call, data_root=root
        )


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    """The body as it comes; a client that leaves in the middle of it leaves nothing behind."""
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        more = message.get("more_body", False)
        yield message.get("body", b"")


async def _found(front: Front, given: str, work: Callable[[TrainingStore], T]) -> T:
    try:
        return await front.training.call(work)
    except KeyError:
        raise NotFound(f"there is no dataset {given[:80]!r}", field="dataset") from None


@contextmanager
def _told(content: str) -> Iterator[None]:
    """Give what is wrong with a dataset the status that a client expects; `content` is the field that brought it."""
    try:
        yield
    except (StoreConflict, Conflict) as conflict:
        raise Conflict(str(conflict), field="name") from conflict
    except DatasetTooLargeError as error:
        raise TooLarge(str(error), field=content) from error
    except DatasetNotFoundError as error:
        raise NotFound(str(error), field="path") from error
    except DatasetError as error:
        raise Unprocessable(str(error), field=error.field or content) from error
    except DatasetStorageError as error:
        raise Unavailable(str(error), code=error.code, retry_after_s=60.0) from error


def _text(document: dict[str, Any], key: str) -> str | None:
    value = document.get(key)
    if value is not None and (type(value) is not str or not value or "\0" in value):
        raise BadRequest(f"{key} must be a text", field=key)
    return value
