"""The page at /docs in a real browser, with no other host to load anything from."""

from __future__ import annotations

import http.server
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from front_rig import serving

from batchd_server.front.pages.docs import POLICY

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync", "--enable-logging=stderr", "--virtual-time-budget=20000",
)  # fmt: skip
CONSOLE = re.compile(r":CONSOLE[:(].*")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


def visit(url: str, profile: Path) -> tuple[str, list[str]]:
    """Return the page as scripts have made it, and what they wrote to the console."""
    arguments = [*QUIET, f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    seen = subprocess.run(
        [str(CHROMIUM), *arguments, "--dump-dom", url], capture_output=True, text=True, timeout=120, check=True
    )
    return seen.stdout, CONSOLE.findall(seen.stderr)


@contextmanager
def page(content: bytes) -> Iterator[str]:
    """A page under the policy of /docs."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.send_header("content-security-policy", POLICY)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Not wanted."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def test_the_page_shows_the_operations_and_breaks_no_rule_of_its_own(tmp_path: Path) -> None:
    with serving() as address:
        # the link opens one of the operations
        shown, console = visit(f"http://{address}/docs#/Operation/status_v1_status_get", tmp_path)
    # Swagger UI says so about any link into the page
    assert [line for line in console if "escaping deep link whitespace" not in line] == []
    operations = set(re.findall(r'data-path="([^"]+)"', shown))
    assert {"/v2/models/{model}/infer", "/v1/embeddings", "/v1/training/jobs", "/metrics"} <= operations
    assert "works without the device process too" in shown, "the one that the link opens shows its description"


@pytest.mark.parametrize(
    "forbidden",
    [
        b"<script>document.title = 'run'</script>",
        b'<img src="http://127.0.0.1:9/x.png">',
        b'<script src="http://elsewhere.example/x.js"></script>',
        b'<p onclick="1">x</p><style>p { color: red }</style>',
    ],
)
def test_what_the_policy_forbids_is_seen_on_the_console(tmp_path: Path, forbidden: bytes) -> None:
    """Without this, a quiet console would prove nothing."""
    with page(b"<!doctype html><title>still</title>" + forbidden) as url:
        shown, console = visit(url, tmp_path)
    assert any("Content Security Policy" in line for line in console), console
    assert "<title>still</title>" in shown
