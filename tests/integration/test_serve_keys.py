"""A daemon that asks for keys, as operators start it and clients meet it; and daemons that refuse to start without."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from command_rig import BATCHD, batchd
from daemon_rig import daemon
from key_rig import KEYS, TOML, bearer

from batchd_client import AsyncClient, Client, Forbidden, Unauthorized
from batchd_server.cli.child_daemon import ChildDaemon
from batchd_server.config.settings import KeyScope

pytest.importorskip("sklearn")

INFER, TRAIN, MONITOR, ADMIN = (KEYS[scope] for scope in KeyScope)
PASSWORD = "a-password-of-the-database"
WRONG = "batchd_a-key-that-nobody-gave-out"
CONFIG = (
    """
[server]
log_level = "debug"

[device]
name = "cpu"

[state]
directory = "state"

[defaults.batching]
slo_ms = 60000
"""
    + TOML
)
IMAGE = np.zeros((8, 24), dtype=np.float32)


@dataclass(frozen=True)
class Locked:
    running: ChildDaemon
    folder: Path

    @property
    def url(self) -> str:
        return self.running.url


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    folder = tmp_path_factory.mktemp("locked")
    with daemon(folder, CONFIG) as running:
        yield Locked(running, folder)


def test_it_becomes_ready_and_says_on_which_device(locked: Locked) -> None:
    """The supervisor asks for that over HTTP, with a key of its own."""
    assert "(device cpu, models: digit-lines)" in locked.running.ready_line
    assert httpx.get(f"{locked.url}/v2/health/ready").status_code == 200
    assert httpx.get(f"{locked.url}/v1/status").status_code == 401


def test_our_clients_show_their_key(locked: Locked) -> None:
    with Client(locked.url, api_key=INFER) as client:
        assert client.infer("digit-lines", {"image": IMAGE[np.newaxis]}).outputs
        with pytest.raises(Forbidden, match="has not the scope monitor or admin"):
            client.status()
        with pytest.raises(Forbidden, match="has not the scope train or admin"):
            client.training.jobs()
        with pytest.raises(Forbidden, match="has not the scope admin"):
            client.unload_model("digit-lines")
    with Client(locked.url, api_key=WRONG) as client, pytest.raises(Unauthorized, match="not known"):
        client.infer("digit-lines", {"image": IMAGE[np.newaxis]})
    with Client(locked.url, api_key=ADMIN) as client:
        assert client.status()["ready"] is True
        assert client.training.jobs().jobs == ()


async def _read(url: str) -> int:
    async with AsyncClient(url, api_key=INFER) as client:
        return len(await client.infer_many("digit-lines", [{"image": IMAGE}] * 4))


@pytest.mark.asyncio
async def test_so_does_the_asynchronous_one(locked: Locked) -> None:
    assert await _read(locked.url) == 4


def test_openai_s_client_works_and_raises_its_own_errors(locked: Locked) -> None:
    with openai.OpenAI(base_url=f"{locked.url}/v1", api_key=INFER, max_retries=0) as client:
        assert list(client.models.list()) == []  # none of these embeds
        with pytest.raises(openai.PermissionDeniedError, match="has not the scope train"):
            client.fine_tuning.jobs.list()
    with openai.OpenAI(base_url=f"{locked.url}/v1", api_key=TRAIN, max_retries=0) as client:
        assert client.fine_tuning.jobs.list().data == []
    with (
        openai.OpenAI(base_url=f"{locked.url}/v1", api_key=WRONG, max_retries=0) as client,
        pytest.raises(openai.AuthenticationError, match="not known"),
    ):
        client.models.list()


def test_tritonclient_works_with_a_header(locked: Locked) -> None:
    triton_http = pytest.importorskip("tritonclient.http")
    from tritonclient.utils import InferenceServerException

    given = triton_http.InferInput("image", [1, *IMAGE.shape], "FP32")
    given.set_data_from_numpy(IMAGE[np.newaxis])
    with triton_http.InferenceServerClient(locked.url.removeprefix("http://")) as client:
        assert client.is_server_ready()
        result = client.infer("digit-lines", [given], headers=bearer(INFER))
        assert result.as_numpy("digits") is not None
        with pytest.raises(InferenceServerException, match="a key is needed"):
            client.infer("digit-lines", [given])
        with pytest.raises(InferenceServerException, match="has not the scope admin"):
            client.unload_model("digit-lines", headers=bearer(INFER))


def test_the_commands_take_their_key_from_the_environment(locked: Locked) -> None:
    def run(*arguments: str, key: str) -> subprocess.CompletedProcess[str]:
        return batchd(*arguments, "--url", locked.url, folder=locked.folder, BATCHD_API_KEY=key)

    listed = run("train", "list", "--json", key=TRAIN)
    assert listed.returncode == 0, listed.stderr
    refused = run("train", "list", key=INFER)
    assert refused.returncode == 1
    assert refused.stderr == "batchd train: the key 'infer-key' has not the scope train or admin\n"
    load = ("loadtest", "--requests", "20", "--rate", "20", "--warmup", "0", "--lengths", "fixed:24", "--json", "-")
    loaded = run(*load, key=INFER)
    assert loaded.returncode == 0, loaded.stderr
    assert json.loads(loaded.stdout)["runs"][0]["outcomes"] == {"200": 20}
    assert INFER not in loaded.stdout + loaded.stderr
    unknown = run(*load, key=WRONG)
    assert unknown.returncode == 1
    assert "the key is not known here" in unknown.stderr


def test_a_body_is_not_waited_for_before_a_request_without_a_key_is_refused(locked: Locked) -> None:
    url = httpx.URL(locked.url)
    with socket.create_connection((url.host, url.port or 80), timeout=20) as client:
        head = f"POST /v1/datasets HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: 1000000\r\n\r\n"
        client.sendall(head.encode())
        answer = client.recv(65536)
    assert answer.startswith(b"HTTP/1.1 401 ")


def test_no_output_and_no_file_of_the_daemon_holds_a_key(locked: Locked) -> None:
    """After traffic of every kind, at log level debug. Runs last of those that share the daemon."""
    for key in (*KEYS.values(), WRONG):
        for path in ("/v1/status", "/v2/models/nobody/infer", f"/v1/training/jobs/{'x' * 300}", "/v1/datasets"):
            for method in ("GET", "POST"):
                httpx.request(method, locked.url + path, headers=bearer(key), content=b"{")
    status = httpx.get(f"{locked.url}/v1/status", headers=bearer(ADMIN)).text
    metrics = httpx.get(f"{locked.url}/metrics", headers=bearer(MONITOR)).text
    log = locked.running.log.read_text()
    assert "refused " in log
    files = [path.read_bytes() for path in locked.folder.rglob("*") if path.is_file()]
    assert any(b"[[security.keys]]" in content for content in files)
    for key in (*KEYS.values(), WRONG):
        assert key not in log + status + metrics
        assert not any(key.encode() in content for content in files)
    assert "authorization" not in log.lower().replace("authorization: bearer key", "")


def test_an_open_address_without_keys_is_refused_and_the_ways_out_are_named(tmp_path: Path) -> None:
    finished = batchd("serve", "--host", "0.0.0.0", "--port", "0", folder=tmp_path)
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr == (
        "server.host '0.0.0.0' can be reached from other machines, and there are no keys: configure some "
        "(`batchd key new`), or allow it with --insecure or server.insecure = true\n"
    )


@pytest.mark.parametrize("keys", [True, False])
def test_keys_or_the_word_insecure_open_it(tmp_path: Path, keys: bool) -> None:
    known = {"BATCHD_SECURITY__KEYS": json.dumps([{"name": "k", "sha256": "0" * 64, "scopes": ["infer"]}])}
    command = [*BATCHD, "serve", "--host", "0.0.0.0", "--port", "0"]
    process = subprocess.Popen(
        command if keys else [*command, "--insecure"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(known if keys else {})},
    )
    watchdog = threading.Timer(90, process.kill)
    watchdog.start()
    assert process.stderr is not None
    try:
        warned = next((line for line in process.stderr if "can be reached" in line), "")
    finally:
        process.kill()
        process.wait()
        watchdog.cancel()
        process.stderr.close()
    assert "can be reached from other machines, without encryption" in warned
    assert warned.strip().endswith("or keys") == (not keys)


def test_check_config_masks_the_password_of_the_database(tmp_path: Path) -> None:
    (tmp_path / "batchd.toml").write_text(
        f'[training]\ndatabase = "postgresql://batchd:{PASSWORD}@localhost/jobs"\n{TOML}'
    )
    finished = batchd("check-config", "--config", "batchd.toml", "--no-models", folder=tmp_path)
    assert finished.returncode == 0, finished.stderr
    effective = json.loads(finished.stdout)
    assert effective["training"]["database"] == "postgresql://batchd:***@localhost/jobs"
    assert [key["name"] for key in effective["security"]["keys"]] == [f"{scope}-key" for scope in KeyScope]
    assert PASSWORD not in finished.stdout + finished.stderr


def test_a_new_key_opens_what_its_lines_say(tmp_path: Path) -> None:
    made = batchd("key", "new", "--name", "ci", "--scope", "monitor", "--scope", "infer", folder=tmp_path)
    assert made.returncode == 0, made.stderr
    key, _, lines = made.stdout.partition("\n")
    (tmp_path / "batchd.toml").write_text(lines)
    checked = batchd("check-config", "--config", "batchd.toml", "--no-models", folder=tmp_path)
    (known,) = json.loads(checked.stdout)["security"]["keys"]
    assert (known["name"], known["scopes"]) == ("ci", ["monitor", "infer"])
    assert key not in checked.stdout
    again = batchd("key", "new", "--name", "ci", "--scope", "infer", folder=tmp_path)
    assert again.stdout.partition("\n")[0] != key
