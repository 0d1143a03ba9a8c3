"""Which addresses are listened on without keys, and what is said of the others."""

from __future__ import annotations

import socket

import pytest

from batchd_server.supervisor import listening
from batchd_server.supervisor.listening import ExposedError, ListenError, is_loopback, listen, url


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


IPV6 = pytest.mark.skipif(not has_ipv6(), reason="needs IPv6")
HERE = [
    "127.0.0.1",
    "127.8.9.10",
    "localhost",
    *(pytest.param(host, marks=IPV6) for host in ("::1", "::ffff:127.0.0.1")),
]
EVERYWHERE = ["0.0.0.0", "::", "::ffff:0.0.0.0", "192.0.2.1", "2001:db8::1"]


@pytest.mark.parametrize("host", HERE)
def test_addresses_of_this_machine_alone_need_no_keys(host: str) -> None:
    with listen(host, 0, loopback_only=True) as listener:
        assert is_loopback(listener)
        assert url(listener).startswith("http://")


@pytest.mark.parametrize("host", EVERYWHERE)
def test_any_other_is_refused_before_a_socket_is_made(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*arguments: object) -> socket.socket:
        raise AssertionError(f"a socket was made: {arguments}")

    monkeypatch.setattr(listening.socket, "socket", none)
    with pytest.raises(ExposedError) as refused:
        listen(host, 0, loopback_only=True)
    assert refused.value.exit_code == 2
    for way_out in (repr(host), "batchd key new", "--insecure", "server.insecure = true"):
        assert way_out in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_name_is_judged_by_the_address_that_would_be_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(host: str, port: int, **options: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("0.0.0.0", port))]

    monkeypatch.setattr(listening.socket, "getaddrinfo", resolve)
    with pytest.raises(ExposedError):
        listen("localhost", 0, loopback_only=True)


def test_with_keys_or_on_request_any_address_is_listened_on() -> None:
    with listen("0.0.0.0", 0, loopback_only=False) as listener:
        assert not is_loopback(listener)
        with socket.create_connection(("127.0.0.1", listener.getsockname()[1]), timeout=10):
            pass


def test_an_address_in_use_is_another_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ListenError, match="in use") as refused:
            listen("127.0.0.1", taken.getsockname()[1], loopback_only=True)
    assert refused.value.exit_code == 1
