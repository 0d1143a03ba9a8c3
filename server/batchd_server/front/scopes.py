"""Which key may do what: every route of the application, and the scopes that open it.

Nothing here knows HTTP's headers or a key. `front/keys.py` asks; an application with a route that is not in the table
does not start.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from batchd_server.config.settings import KeyScope

OPEN: frozenset[KeyScope] = frozenset()
"""Nobody is asked for a key."""

_INFER: frozenset[KeyScope] = frozenset({KeyScope.INFER})
_TRAIN: frozenset[KeyScope] = frozenset({KeyScope.TRAIN})
_MONITOR: frozenset[KeyScope] = frozenset({KeyScope.MONITOR})
_ADMIN: frozenset[KeyScope] = frozenset({KeyScope.ADMIN})
_ABOUT_MODELS: frozenset[KeyScope] = frozenset({KeyScope.INFER, KeyScope.TRAIN, KeyScope.MONITOR})
"""Names, shapes and counters, which everybody who works with models reads."""

# `admin` opens every route, and is named only where nothing else does.
SCOPES: Mapping[tuple[str, str], frozenset[KeyScope]] = {
    ("POST", "/v2/models/{model}/infer"): _INFER,
    ("POST", "/v2/models/{model}/versions/{version}/infer"): _INFER,
    ("POST", "/v1/embeddings"): _INFER,
    # what load balancers and containers ask, who have no key
    ("GET", "/v2/health/live"): OPEN,
    ("GET", "/v2/health/ready"): OPEN,
    # pages and descriptions: the same for every daemon of a version
    ("GET", "/"): OPEN,
    ("GET", "/docs"): OPEN,
    ("GET", "/docs/{file}"): OPEN,
    ("GET", "/openapi.json"): OPEN,
    ("GET", "/v2"): _ABOUT_MODELS,
    ("GET", "/v2/models/stats"): _ABOUT_MODELS,
    ("GET", "/v2/models/{model}"): _ABOUT_MODELS,
    ("GET", "/v2/models/{model}/versions/{version}"): _ABOUT_MODELS,
    ("GET", "/v2/models/{model}/ready"): _ABOUT_MODELS,
    ("GET", "/v2/models/{model}/versions/{version}/ready"): _ABOUT_MODELS,
    ("GET", "/v2/models/{model}/config"): _ABOUT_MODELS,
    ("GET", "/v2/models/{model}/versions/{version}/config"): _ABOUT_MODELS,
    ("GET", "/v2/models/{model}/stats"): _ABOUT_MODELS,
    ("GET", "/v2/models/{model}/versions/{version}/stats"): _ABOUT_MODELS,
    ("POST", "/v2/repository/index"): _ABOUT_MODELS,  # a question, in spite of its method
    ("GET", "/v1/models"): _ABOUT_MODELS,
    ("GET", "/v1/models/{model}"): _ABOUT_MODELS,
    ("POST", "/v1/training/jobs"): _TRAIN,
    ("GET", "/v1/training/jobs"): _TRAIN,
    ("GET", "/v1/training/jobs/{job}"): _TRAIN,
    ("POST", "/v1/training/jobs/{job}/pause"): _TRAIN,
    ("POST", "/v1/training/jobs/{job}/resume"): _TRAIN,
    ("POST", "/v1/training/jobs/{job}/cancel"): _TRAIN,
    ("GET", "/v1/training/jobs/{job}/events"): _TRAIN,
    ("GET", "/v1/training/jobs/{job}/metrics"): _TRAIN,
    ("GET", "/v1/training/jobs/{job}/journal"): _TRAIN,
    ("GET", "/v1/training/jobs/{job}/checkpoints"): _TRAIN,
    ("POST", "/v1/datasets"): _TRAIN,
    ("GET", "/v1/datasets"): _TRAIN,
    ("GET", "/v1/datasets/{dataset}"): _TRAIN,
    ("DELETE", "/v1/datasets/{dataset}"): _TRAIN,
    ("POST", "/v1/fine_tuning/jobs"): _TRAIN,
    ("GET", "/v1/fine_tuning/jobs"): _TRAIN,
    ("GET", "/v1/fine_tuning/jobs/{job}"): _TRAIN,
    ("POST", "/v1/fine_tuning/jobs/{job}/cancel"): _TRAIN,
    ("GET", "/v1/fine_tuning/jobs/{job}/events"): _TRAIN,
    ("POST", "/v1/leases"): _TRAIN,
    ("POST", "/v1/leases/{lease}/return"): _TRAIN,
    ("GET", "/v1/leases"): frozenset({KeyScope.TRAIN, KeyScope.MONITOR}),
    ("GET", "/metrics"): _MONITOR,
    ("GET", "/v1/status"): _MONITOR,
    ("GET", "/v1/decisions"): _MONITOR,
    # these change what everybody's requests are answered with
    ("POST", "/v2/repository/models/{model}/load"): _ADMIN,
    ("POST", "/v2/repository/models/{model}/unload"): _ADMIN,
    ("POST", "/v1/training/jobs/{job}/promote"): _ADMIN,
    ("POST", "/v1/models/{model}/rollback"): _ADMIN,
}

_PATTERNS = tuple(
    (method, re.compile(re.sub(r"{\w+}", "[^/]+", path)), scopes)
    for (method, path), scopes in SCOPES.items()
    if "{" in path
)


def scopes_of(method: str, path: str) -> frozenset[KeyScope] | None:
    """Return the scopes of which a key needs one, `OPEN`, or None where there is no such route."""
    method = "GET" if method == "HEAD" else method
    exact = SCOPES.get((method, path))
    if exact is not None:
        return exact
    return next((scopes for verb, pattern, scopes in _PATTERNS if verb == method and pattern.fullmatch(path)), None)


def require_every_route(routes: Iterable[tuple[str, str]]) -> None:
    """Check that the table holds each method and path of `routes`; HEAD goes with GET.

    Raises:
        ValueError: it does not; names those that are missing.
    """
    unknown = {(method, path) for method, path in routes if method != "HEAD"} - SCOPES.keys()
    missing = sorted(f"{method} {path}" for method, path in unknown)
    if missing:
        raise ValueError(f"no scope says who may use {', '.join(missing)}")
