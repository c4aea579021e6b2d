"""Proof of possession with each call, through a proxy that ends TLS, against the real server."""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from zta import AsyncClient, Client, Credential, RpcError, ToolCall, v1
from zta.testing import EmbeddedServer
from zta.testing._pki import Authority

SEARCH = ToolCall("web_search", {"query": "x"})


class Proxy:
    """Ends TLS with a certificate of its own CA and speaks anonymous TLS to the server."""

    def __init__(self, folder: Path, behind: str, ca_pem: bytes) -> None:
        self.authority = Authority()
        key, certificate = self.authority.server()
        chain = folder / "proxy.pem"
        chain.write_bytes(key + certificate)
        self._front = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._front.load_cert_chain(chain)
        self._front.set_alpn_protocols(["h2"])
        self._back = ssl.create_default_context(cadata=ca_pem.decode())
        self._back.set_alpn_protocols(["h2"])
        self._behind = behind
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        host, port = self._behind.rsplit(":", 1)
        with contextlib.suppress(OSError):
            front = self._front.wrap_socket(connection, server_side=True)
            upstream = socket.create_connection((host, int(port)))
            back = self._back.wrap_socket(upstream, server_hostname=host)
            threading.Thread(target=_copy, args=(front, back), daemon=True).start()
            _copy(back, front)

    def close(self) -> None:
        self._listener.close()


def _copy(source: ssl.SSLSocket, target: ssl.SSLSocket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxied(
    tmp_path: Path, crew_server: EmbeddedServer, crew_credentials: dict[str, Path]
) -> Iterator[tuple[Proxy, Path]]:
    """A proxy before the crew's server, and an agent's folder."""
    credential = Credential.load(crew_credentials["research"])
    proxy = Proxy(tmp_path, credential.endpoint, credential.ca_pem)
    yield proxy, crew_credentials["research"]
    proxy.close()


def test_each_call_is_proved_through_a_proxy(proxied: tuple[Proxy, Path]) -> None:
    proxy, folder = proxied
    roots = proxy.authority.pem
    with Client(folder, server=proxy.endpoint, dpop=True, server_roots=roots) as client:
        for _ in range(3):
            assert client.authorize(SEARCH).allowed
        batch = client.batch_authorize([SEARCH, ToolCall("never_heard_of")])
        assert [getattr(item, "allowed", None) for item in batch] == [True, False]
        before = client.credential.not_after
        client._renewer._renew()
        assert client.credential.not_after >= before
        assert client.authorize(SEARCH).allowed


def test_a_stolen_token_is_worth_nothing(proxied: tuple[Proxy, Path]) -> None:
    proxy, folder = proxied
    roots = proxy.authority.pem
    with Client(folder, server=proxy.endpoint, dpop=True, server_roots=roots) as client:
        assert client.authorize(SEARCH).allowed
        possession = client._renewer.source._possession
        assert possession is not None
        assert possession._token is not None
        token = possession._token[0]
    credentials = grpc.ssl_channel_credentials(roots)
    with grpc.secure_channel(proxy.endpoint, credentials) as channel:
        stub = v1.AuthorizationServiceStub(channel)
        request = v1.AuthorizeRequest(
            action=v1.EntityRef(type="ZTA::Action", id="call_tool"),
            resource=v1.EntityRef(type="ZTA::Tool", id="web_search"),
        )
        for scheme in ("DPoP", "Bearer"):
            with pytest.raises(grpc.RpcError) as refused:
                stub.Authorize(request, metadata=[("authorization", f"{scheme} {token}")])
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_the_async_client_proves_its_calls_too(proxied: tuple[Proxy, Path]) -> None:
    proxy, folder = proxied
    roots = proxy.authority.pem

    async def run() -> None:
        options = {"server": proxy.endpoint, "dpop": True, "server_roots": roots}
        async with AsyncClient(folder, **options) as client:  # type: ignore[arg-type]
            decisions = await asyncio.gather(*(client.authorize(SEARCH) for _ in range(8)))
            assert all(decision.allowed for decision in decisions)
            with pytest.raises(RpcError, match="unary calls only"):
                client.channel.unary_unary("/x").future(b"")

    asyncio.run(run())


def test_a_proxy_of_another_ca_is_not_believed(proxied: tuple[Proxy, Path]) -> None:
    proxy, folder = proxied
    with (
        Client(folder, server=proxy.endpoint, dpop=True, timeout_ms=1_000) as client,
        pytest.raises(RpcError) as refused,
    ):
        client.authorize(SEARCH)
    assert refused.value.code in {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }


def test_roots_without_dpop_are_a_mistake(crew_credentials: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="server_roots"):
        Client(crew_credentials["research"], server_roots=b"x")
